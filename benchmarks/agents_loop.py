"""Does an agent that improves itself learn better for it on what it never saw, and which part does it?

    python -m benchmarks.agents_loop --num-seeds 10 --record

The whole loop on short lives: practice with a library of skills, tuning, recursion, planning and choice of skills,
everything behind the gate. The agent begins with Adam at an untuned rate, skills at random, no planner and no recall of
skills. Then whole lives are lived in the test part of the suite, physics and networks that no proposal and no gate has
seen, as the agent lives at the start and at the end; as agents do that lived with one part frozen; and by PPO with Adam
at the best rate of a sweep, constant or decaying, chosen on the very lives that are reported. Areas under the lifetime
curve are shares of the possible return. The planner knows the physics of the world that it acts in, and the library
what was practised: PPO with Adam has neither, and the agents without planning, or without library, say what they give.

An agent of all parts takes about 3 minutes of a CPU core, one with a part frozen 1 to 3, the sweep of Adam one: 10
seeds of all about 2.5 core-hours. Rows are kept as each agent ends, and agents go on where they were: run it again
after a crash, or for more seeds.
"""

from __future__ import annotations

import time
from collections.abc import Iterator
from dataclasses import asdict, dataclass, replace
from pathlib import Path
from typing import Any

import torch
import tyro
from rich.console import Console
from rich.table import Table
from torch import Tensor

from benchmarks.agents_ppo import ADAM_RATES, returns
from benchmarks.record import RESULTS, markdown, read, write
from l2o.agents.config import AgentConfig
from l2o.agents.loop import Agent
from l2o.agents.spec import AgentSpec
from l2o.agents.suites import lives
from l2o.load import load
from l2o.training.evaluate import interval
from l2o.types import seeded

WHOLE, ADAM, BEGINNING = "all parts", "PPO with Adam, tuned", "all parts, round 0"
AGENTS: dict[str, dict[str, Any]] = {
    WHOLE: {},
    "no tuning": {"tune": 0},
    "no recursion": {"recurse": 0},
    "no choice of skills": {"choose": 0},
    "no planning": {"plan": 0},
    "no library": {"recall": 0},
}


@dataclass(frozen=True)
class Config:
    """Everything that can change the result.

    Arguments:
        agents: which of them.
        num_seeds: lives of each agent.
        rounds: of each.
        suite: of lives.
        num_lives: of each kind of the test part, for each contestant.
        out: folder of the agents, which go on where they were, and of rows that are not recorded.
        record: keep the rows in benchmarks/results.
    """

    agents: tuple[str, ...] = tuple(AGENTS)
    num_seeds: int = 1
    rounds: int = 20
    suite: str = "worlds"
    num_lives: int = 64
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
        num_pairs=6,
        outer_steps=3,
        batch=144,
        max_pairs=1152,
        seed=seed,
        threads=1,
    )
    return replace(base, **AGENTS[name])


def adam(config: Config) -> Iterator[dict[str, Any]]:
    """One row a kind."""
    for name, kind in lives(config.suite).test.items():
        rates = [(rate, decay) for rate in ADAM_RATES for decay in (False, True)]
        areas = returns(kind, load("adam", lr=1.0), rates, config.num_lives, 3000).mean(dim=-1)
        best = int(areas.mean(dim=-1).argmax())
        tuned = {"rate": rates[best][0], "decays": rates[best][1]}
        yield {"agent": ADAM, "kind": name, "seed": 0} | told(areas[best]) | tuned


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
        "cpu_seconds": time.process_time() - began,
    }
    told_of = [(name, agent.spec)] + ([(BEGINNING, agent.first())] if name == WHOLE else [])
    for label, spec in told_of:
        for kind, scores in tested(agent, spec, config.num_lives):
            yield {"agent": label, "kind": kind, "seed": seed} | told(scores) | notes


def tested(agent: Agent, spec: AgentSpec, num: int) -> Iterator[tuple[str, Tensor]]:
    """Scores of lives that nothing was chosen by, by kind."""
    for name, kind in agent.suite.test.items():
        yield name, agent.living.scores(spec, kind, seeded(3000), num)


def told(areas: Tensor) -> dict[str, Any]:
    """Mean and interval."""
    return {"area": float(areas.mean()), "interval": interval(areas), "lives": [round(x, 5) for x in areas.tolist()]}


def run(config: Config) -> list[dict[str, Any]]:
    """All rows; what is missing of them is made, and kept as soon as an agent has ended."""
    for name, seed in [(ADAM, 0)] + [(name, seed) for seed in range(config.num_seeds) for name in config.agents]:
        if not any(row["agent"] == name and row["seed"] == seed for row in kept(config)):
            rows = adam(config) if name == ADAM else agent_rows(name, config, seed)
            write("agents_loop", config, rows, config.folder, by=("agent", "kind", "seed"))
    return kept(config)


def kept(config: Config) -> list[dict[str, Any]]:
    """Rows of the same settings that were kept before."""
    if not (config.folder / "agents_loop.jsonl").exists():
        return []
    wanted = {name: asdict(config)[name] for name in ("rounds", "suite", "num_lives")}
    rows = read("agents_loop", config.folder)
    return [row for row in rows if all(row["config"][name] == value for name, value in wanted.items())]


def table() -> str:
    """The recorded rows in Markdown."""
    rows = read("agents_loop")
    commits = ", ".join(dict.fromkeys(row["commit"] for row in rows))
    caption = (
        f"Area under the curve of {rows[0]['config']['num_lives']} lives of each kind, as a share of the possible "
        f"return; means over agents, {rows[0]['config']['rounds']} rounds each; differences are paired by seed. "
        f"{rows[0]['machine']}, commits {commits}."
    )
    return markdown(*lines_of(rows), caption)


def lines_of(rows: list[dict[str, Any]]) -> tuple[list[str], list[list[str]]]:
    """Areas by contestant and kind, means over seeds, and how much more the whole agent has, paired by seed."""
    kinds, lines = list(dict.fromkeys(row["kind"] for row in rows)), []
    whole = by_seed(rows, WHOLE)
    agents = dict.fromkeys(row["agent"] for row in rows)
    for agent in [WHOLE, *(one for one in (*AGENTS, BEGINNING, ADAM) if one in agents and one != WHOLE)]:
        cells = [agent]
        for kind in kinds:
            of = [row["area"] for row in rows if row["agent"] == agent and row["kind"] == kind]
            cells.append(f"{sum(of) / len(of):.3f}")
        mine = by_seed(rows, agent)
        cells.insert(1, str(len(mine)))
        pairs = [(area, mine.get(0 if agent == ADAM else seed)) for seed, area in whole.items()]
        more = torch.tensor([area - other for area, other in pairs if other is not None])
        cells.append(f"{sum(mine.values()) / len(mine):.3f}")
        cells.append("" if agent == WHOLE or not len(more) else f"{float(more.mean()):+.3f}")
        if agent != WHOLE and len(more) > 2:
            cells[-1] += " [{:+.3f}, {:+.3f}]".format(*interval(more))
        lines.append(cells)
    return ["agent", "how many", *kinds, "mean", "all parts: more by [95% over seeds]"], lines


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
