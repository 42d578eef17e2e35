"""Does an agent that improves itself learn better for it on what it never saw, and which part does it?

    python -m benchmarks.agents_loop --num-seeds 10 --record

The whole loop on short lives: practice with a library of skills, tuning, recursion, planning and choice of skills,
everything behind the gate. The agent begins with Adam at an untuned rate, skills at random, no planner and no recall of
skills. Then whole lives are lived in the test part of the suite, fresh worlds of a wider range of physics than any that
a proposal or a gate saw, as the agent lives at the start and at the end; as agents do that lived with one part frozen;
by one that begins with the rule that recursion trains, untrained, and leaves it so; and by PPO with Adam, and with that
rule, at the best rate of a sweep, constant or decaying, chosen on the very lives that are reported. The planner knows
the physics of the world that it acts in, and the library what was practised: PPO has neither, and the agents without
planning, or without library, say what they give.

At five looks at each life, from its first to its last moment, whole fresh episodes are played by the policy as it is;
the area under the curve of their returns is the score, as a share of the possible return. (Lives are shorter than
episodes, and what they show of themselves, by which gate and proposals have to judge, flatters.) Each seed has test
lives of its own. Seeds below 10 were looked at while the loop was designed, and are not reported.

An agent of all parts takes about 4 minutes of a CPU core. Rows are kept as each agent ends, and agents go on where they
were: run it again after a crash, or for more seeds.
"""

from __future__ import annotations

import time
from collections.abc import Iterator
from dataclasses import asdict, dataclass, replace
from itertools import product
from pathlib import Path
from typing import Any

import torch
import tyro
from rich.console import Console
from rich.table import Table
from torch import Tensor

from benchmarks.agents_ppo import ADAM_RATES
from benchmarks.interval import half_width
from benchmarks.record import RESULTS, commits, markdown, read, write
from l2o.agents.config import AgentConfig
from l2o.agents.kind import Kind
from l2o.agents.lifetime import Lives
from l2o.agents.loop import Agent
from l2o.agents.spec import AgentSpec
from l2o.agents.suites import lives
from l2o.load import load
from l2o.rules.base import UpdateRule
from l2o.types import seeded

WHOLE, BEGINNING = "all parts", "all parts, round 0"
UNTRAINED: dict[str, Any] = {"rule": "learnedmuon", "rule_args": {"step_scale": 0.06}}
"""What recursion trains, before it does."""

AGENTS: dict[str, dict[str, Any]] = {
    WHOLE: {},
    "no tuning": {"tune": 0},
    "no recursion: Adam": {"recurse": 0},
    "no recursion: untrained rule": {"recurse": 0, **UNTRAINED},
    "no choice of skills": {"choose": 0},
    "no planning": {"plan": 0},
    "no library": {"recall": 0},
}
SWEPT: dict[str, tuple[str, dict[str, Any], tuple[float, ...]]] = {
    "PPO with Adam, best rate": ("adam", {"lr": 1.0}, (*ADAM_RATES, 0.24)),
    "PPO with the untrained rule, best rate": (UNTRAINED["rule"], UNTRAINED["rule_args"], (0.5, 1.0, 2.0, 4.0, 8.0)),
}
"""Rules without an agent: name, arguments, and the rates that they may choose from."""

FIRST_SEED = 10
"""Of those that are reported."""


@dataclass(frozen=True)
class Config:
    """Everything that can change the result.

    Arguments:
        agents: which of them, and of the rules without one.
        num_seeds: lives of each agent.
        rounds: of each.
        suite: of lives.
        num_lives: of each kind of the test part, for each contestant and seed.
        episodes: at each look at a life.
        out: folder of the agents, which go on where they were, and of rows that are not recorded.
        record: keep the rows in benchmarks/results.
    """

    agents: tuple[str, ...] = (*SWEPT, *AGENTS)
    num_seeds: int = 1
    rounds: int = 20
    suite: str = "worlds"
    num_lives: int = 32
    episodes: int = 2
    out: Path = Path("runs/agents_loop")
    record: bool = False

    @property
    def folder(self) -> Path:
        """Of the rows."""
        return RESULTS if self.record else self.out


def settings(name: str, config: Config, seed: int) -> AgentConfig:
    """An agent's."""
    base = AgentConfig(
        lives=config.suite,
        rounds=config.rounds,
        iterations=5,
        tune=3,
        recurse=3,
        choose=3,
        plan=4,
        recall=4,
        chooser="uniform",
        num_pairs=8,
        outer_steps=10,
        batch=144,
        max_pairs=1152,
        seed=seed,
        threads=1,
    )
    return replace(base, **AGENTS[name])


def swept_rows(name: str, config: Config, seed: int) -> Iterator[dict[str, Any]]:
    """One row a kind: areas at every rate, of which the best for all seeds is chosen in the table."""
    rule_name, args, values = SWEPT[name]
    with torch.random.fork_rng():
        torch.manual_seed(seed)
        rule = load(rule_name, **args)
    rates = [(rate, decay) for rate in values for decay in (False, True)]
    for label, kind in lives(config.suite).test.items():
        areas = areas_by_rate(kind, rule, rates, config, seed)
        swept = [[*rate, float(x.mean())] for rate, x in zip(rates, areas, strict=True)]
        yield {"agent": name, "kind": label, "seed": seed, "swept": swept}


def areas_by_rate(kind: Kind, rule: UpdateRule, rates: list[tuple[float, bool]], config: Config, seed: int) -> Tensor:
    """Areas of the lives that agents are tested on: (rates, lives)."""
    lifetimes, copies, generator = kind.lifetimes(rule), len(rates), seeded(test_seed(seed))
    rate = torch.tensor([one for one, _ in rates]).repeat_interleave(config.num_lives)
    decays = torch.tensor([decay for _, decay in rates]).repeat_interleave(config.num_lives)
    theta = dict(rule.named_parameters())

    def advance(i: int, state: Lives) -> Lives:
        now = rate * torch.where(decays, 1.0 - i / kind.num_iterations, 1.0)
        hyper = kind.hyperparameters._replace(learning_rate=now)
        return lifetimes.advance(theta, state, hyper, generator, copies)[0]

    num = copies * config.num_lives
    return kind.whole_area(lifetimes, advance, num, config.episodes, generator, copies).view(copies, -1)


def agent_rows(name: str, config: Config, seed: int) -> Iterator[dict[str, Any]]:
    """Let an agent live; one row a kind, two of the whole agent, which is reported at its beginning too."""
    began = time.process_time()
    agent = Agent(settings(name, config, seed), config.out / f"{name.replace(' ', '_')}-{seed}")
    agent.run(lambda _, done: print(done, flush=True))
    lineage = agent.lineage
    accepted = [line for line in lineage.lines if line["trial"] and line["accepted"]]
    notes = {
        "trials": lineage.num_trials,
        "accepted": [[x["trial"], x["part"], x["by"], round(x["gain"], 4)] for x in accepted],
        "planner": agent.spec["planner"],
        "library": agent.spec["library"] | {"skills": len(agent.memory)},
        "cpu_seconds_here": time.process_time() - began,
    }
    for kind, scores in tested(agent, agent.spec, config, seed):
        yield {"agent": name, "kind": kind, "seed": seed} | told(scores) | notes
    if name == WHOLE:
        for kind, scores in tested(agent, agent.first(), config, seed):
            yield {"agent": BEGINNING, "kind": kind, "seed": seed} | told(scores)


def tested(agent: Agent, spec: AgentSpec, config: Config, seed: int) -> Iterator[tuple[str, Tensor]]:
    """Scores of lives that nothing was chosen by, by kind."""
    for name, kind in agent.suite.test.items():
        generator = seeded(test_seed(seed))
        yield name, agent.living.scores(spec, kind, generator, config.num_lives, episodes=config.episodes)


def test_seed(seed: int) -> int:
    """Of the lives that an agent's seed is tested on."""
    return 1_000_000 + seed


def told(areas: Tensor) -> dict[str, Any]:
    """Mean and lives."""
    return {"area": float(areas.mean()), "lives": [round(x, 5) for x in areas.tolist()]}


def run(config: Config) -> list[dict[str, Any]]:
    """All rows; what is missing of them is made, and kept as soon as an agent has ended."""
    kinds = set(lives(config.suite).test)
    for seed in range(FIRST_SEED, FIRST_SEED + config.num_seeds):
        for name in config.agents:
            there = {(row["agent"], row["kind"]) for row in kept(config, config.folder) if row["seed"] == seed}
            labels = [name, BEGINNING] if name == WHOLE else [name]
            if not there.issuperset(product(labels, kinds)):
                rows = (swept_rows if name in SWEPT else agent_rows)(name, config, seed)
                write("agents_loop", config, list(rows), config.folder, by=("agent", "kind", "seed"))
    return kept(config, config.folder)


def kept(config: Config, folder: Path) -> list[dict[str, Any]]:
    """Rows of the same settings that were kept before."""
    if not (folder / "agents_loop.jsonl").exists():
        return []
    wanted = {name: asdict(config)[name] for name in ("rounds", "suite", "num_lives", "episodes")}
    rows = read("agents_loop", folder)
    return [row for row in rows if all(row["config"].get(name) == value for name, value in wanted.items())]


def table() -> str:
    """The recorded rows in Markdown."""
    config = Config()
    rows = kept(config, RESULTS)
    if not rows:
        return "Not measured yet."
    caption = (
        f"Area under the curve of {config.num_lives} lives of each kind for each seed, as a share of the possible "
        f"return; means over seeds, agents of {config.rounds} rounds; differences are paired by seed, "
        f"which have the same test lives. {rows[0]['machine']}, commits {commits(rows)}."
    )
    return markdown(*lines_of(rows), caption)


def lineage() -> str:
    """What agents of all parts became, change by change, in Markdown."""
    agents = {row["seed"]: row for row in kept(Config(), RESULTS) if row["agent"] == WHOLE}
    if not agents:
        return "Not measured yet."
    gains: dict[tuple[str, str], list[float]] = {}
    for row in agents.values():
        for _, part, by, gain in row["accepted"]:
            named = part.split("/")[0], by.split(",")[0].replace("Trials", "evolution of factors")
            gains.setdefault(named, []).append(gain)
    lines = [
        [part, by, f"{len(found) / len(agents):.1f}", f"{sum(found) / len(found):+.3f}"]
        for (part, by), found in sorted(gains.items())
    ]
    trials = sum(row["trials"] for row in agents.values()) / len(agents)
    caption = (
        f"Means over {len(agents)} agents of all parts, {trials:.0f} trials each. The gain is what the gate saw on "
        "held-out lives; of policies on episodes in their own world, of choosers on simulated learners."
    )
    return markdown(["part", "proposed by", "accepted, an agent", "gain, each"], lines, caption)


def lines_of(rows: list[dict[str, Any]]) -> tuple[list[str], list[list[str]]]:
    """Areas by contestant and kind, means over seeds, and how much more the whole agent has, paired by seed."""
    rows = at_best_rates(rows)
    kinds, lines = list(dict.fromkeys(row["kind"] for row in rows)), []
    whole = by_seed(rows, WHOLE)
    agents = dict.fromkeys(row["agent"] for row in rows)
    for agent in (one for one in (*AGENTS, BEGINNING, *SWEPT) if one in agents):
        mine = by_seed(rows, agent)
        cells = [agent, str(len(mine))]
        for kind in kinds:
            of = [row["area"] for row in rows if row["agent"] == agent and row["kind"] == kind]
            cells.append(f"{sum(of) / len(of):.3f}")
        cells.append(f"{sum(mine.values()) / len(mine):.3f}")
        more = torch.tensor([area - mine[seed] for seed, area in whole.items() if seed in mine])
        cells.append("" if agent == WHOLE else spread_of(more))
        lines.append(cells)
    return ["agent", "how many", *kinds, "mean", "all parts: more by [95%, t over seeds]"], lines


def at_best_rates(rows: list[dict[str, Any]]) -> list[dict[str, Any]]:
    """Rows, those of rules without an agent at each kind's best rate over all seeds."""
    found = []
    for row in rows:
        if "swept" in row:
            alike = [one for one in rows if (one["agent"], one["kind"]) == (row["agent"], row["kind"])]
            means = torch.tensor([[area for *_, area in one["swept"]] for one in alike]).mean(dim=0)
            row = row | {"area": row["swept"][int(means.argmax())][-1]}
        found.append(row)
    return found


def spread_of(more: Tensor) -> str:
    """The mean of differences, and its interval where there are a few."""
    if len(more) < 3:
        return f"{float(more.mean()):+.3f}" if len(more) else ""
    mean, half = float(more.mean()), half_width(more)
    return f"{mean:+.3f} [{mean - half:+.3f}, {mean + half:+.3f}]"


def by_seed(rows: list[dict[str, Any]], agent: str) -> dict[int, float]:
    """Mean areas of an agent over kinds."""
    of = [row for row in rows if row["agent"] == agent]
    areas = {seed: [row["area"] for row in of if row["seed"] == seed] for seed in {row["seed"] for row in of}}
    return {seed: sum(x) / len(x) for seed, x in areas.items()}


def main(config: Config) -> None:
    """Live, keep the rows, and show them."""
    torch.set_num_threads(1)
    heads, lines = lines_of(run(config))
    shown = Table(*heads)
    for cells in lines:
        shown.add_row(*cells)
    Console().print(shown)


if __name__ == "__main__":
    main(tyro.cli(Config))
