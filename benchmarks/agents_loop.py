"""Does an agent that improves itself learn better for it on what it never saw, and which part does it?

    python -m benchmarks.agents_loop --record

The whole loop on short lives: practice, tuning by trial, recursion, everything behind the gate. The agent begins with
Adam at an untuned rate. Then whole lives are lived in the test part of the suite, physics and networks that no
proposal and no gate has seen, with the optimizer and hyperparameters of the agent at the start and at the end; with
those of agents that lived without tuning, or without recursion; and with Adam at the best rate of a sweep, constant or
decaying, chosen on the very lives that are reported. Areas under the lifetime curve, as shares of the possible return.
"""

from __future__ import annotations

import time
from collections.abc import Iterator
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

import torch
import tyro
from rich.console import Console
from rich.table import Table

from benchmarks.agents_ppo import ADAM_RATES, returns
from benchmarks.record import RESULTS, read, write
from l2o.agents.lineage import Lineage
from l2o.agents.loop import Agent, AgentConfig
from l2o.agents.practice import lives_scores
from l2o.agents.suites import lives
from l2o.load import load
from l2o.training.evaluate import interval
from l2o.types import seeded

AGENTS = {"all parts": {}, "no tuning": {"tune": 0}, "no recursion": {"recurse": 0}}


@dataclass(frozen=True)
class Config:
    """Everything that can change the result.

    Arguments:
        agents: which of them.
        num_seeds: lives of each agent.
        rounds: of each.
        suite: of lives.
        num_lives: of each kind of the test part, for each contestant.
        out: folder of the agents, which go on where they were.
        record: keep the rows in benchmarks/results.
    """

    agents: tuple[str, ...] = tuple(AGENTS)
    num_seeds: int = 1
    rounds: int = 10
    suite: str = "short"
    num_lives: int = 64
    out: Path = Path("runs/agents_loop")
    record: bool = False


def settings(name: str, config: Config, seed: int) -> AgentConfig:
    """An agent's."""
    base = AgentConfig(lives=config.suite, rounds=config.rounds, seed=seed, recurse=1, max_pairs=192, threads=1)
    return replace(base, **AGENTS[name])


def run(config: Config) -> Iterator[dict[str, Any]]:
    """One row a contestant and kind."""
    suite = lives(config.suite)
    for kind_name, kind in suite.test.items():
        rates = [(rate, decay) for rate in ADAM_RATES for decay in (False, True)]
        areas = returns(kind, load("adam", lr=1.0), rates, config.num_lives, 3000).mean(dim=-1)
        best = int(areas.mean(dim=-1).argmax())
        tuned = {"rate": rates[best][0], "decays": rates[best][1]}
        yield {"agent": "Adam, best of the sweep", "kind": kind_name, "seed": 0} | told(areas[best]) | tuned
    for seed in range(config.num_seeds):
        for name in config.agents:
            began = time.process_time()
            folder = config.out / f"{name.replace(' ', '_')}-{seed}"
            agent = Agent(settings(name, config, seed), folder)
            first = agent.first()
            agent.run(lambda _, done: print(done, flush=True))
            lineage = Lineage(folder)
            accepted = [line for line in lineage.lines if line["trial"] and line["accepted"]]
            notes = {
                "trials": lineage.num_trials,
                "accepted": [[line["trial"], line["part"], round(line["gain"], 4)] for line in accepted],
                "cpu_seconds": time.process_time() - began,
            }
            for label, spec in ((f"{name}, round 0", first), (f"{name}, round {config.rounds}", agent.spec)):
                for kind_name, kind in suite.test.items():
                    scores = lives_scores(spec, (kind,), seeded(3000), config.num_lives)
                    yield {"agent": label, "kind": kind_name, "seed": seed} | told(scores) | notes


def told(areas: torch.Tensor) -> dict[str, Any]:
    """Mean and interval."""
    return {"area": float(areas.mean()), "interval": interval(areas), "lives": [round(x, 5) for x in areas.tolist()]}


def shown(rows: list[dict[str, Any]]) -> Table:
    """Areas by contestant and kind, means over seeds."""
    kinds = list(dict.fromkeys(row["kind"] for row in rows))
    table = Table("agent", *kinds)
    for agent in dict.fromkeys(row["agent"] for row in rows):
        cells = []
        for kind in kinds:
            of = [row["area"] for row in rows if row["agent"] == agent and row["kind"] == kind]
            cells.append(f"{sum(of) / len(of):.3f}")
        table.add_row(agent, *cells)
    return table


def main(config: Config) -> None:
    """Live, show, and write the rows where they are wanted."""
    torch.set_num_threads(1)
    if config.record:
        print(write("agents_loop", replace(config, record=False), run(config), RESULTS))
    Console().print(shown(read("agents_loop") if config.record else list(run(config))))


if __name__ == "__main__":
    main(tyro.cli(Config))
