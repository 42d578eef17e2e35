"""Does an agent that is killed at random moments end where the undisturbed one ends?

    python -m benchmarks.agents_resume --record

The whole loop (practice, gate, tuning, recursion, choosers, planner, library, lineage) on tiny lives, in a process of
its own that gets SIGKILL at a random moment, is started again, and is killed again, `num_kills` times, which are
spread evenly over its rounds; then it may end. The gate lets most proposals through here, so that there is much to
lose. Compared with a run that nobody killed are the last checkpoint, the ledger, every version, the library, and what
every round did.
"""

from __future__ import annotations

import multiprocessing
import os
import random
import signal
import tempfile
import time
from collections.abc import Iterator
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

import tyro

from benchmarks.record import RESULTS, write
from l2o.agents.config import AgentConfig
from l2o.agents.environments import CartPole, PointMass
from l2o.agents.gate import Gate
from l2o.agents.kind import Kind
from l2o.agents.loop import Agent
from l2o.agents.ppo import PPO
from l2o.agents.skills.library import SkillLibrary
from l2o.agents.suites import LifeSuite
from l2o.training.checkpoint import fingerprint, load_tree


@dataclass(frozen=True)
class Config:
    """Everything that can change the result.

    Arguments:
        num_kills: of the disturbed run.
        rounds: of the agent.
        seed: of the moments, each within the time that the undisturbed run took for a round.
        record: keep the rows in benchmarks/results.
    """

    num_kills: int = 20
    rounds: int = 10
    seed: int = 0
    record: bool = False


def tiny() -> LifeSuite:
    """Lives of a few steps."""
    few = PPO(num_envs=2, num_steps=8, num_epochs=2)
    pole = Kind(CartPole(0.4, 20), (8,), algorithm=few, num_iterations=3)
    mass = Kind(PointMass(1, 0.4, 10), (8,), algorithm=few, num_iterations=3)
    kinds = {"cart pole": pole, "point mass": mass}
    return LifeSuite(kinds, kinds, kinds)


def settings(config: Config) -> AgentConfig:
    """A small agent with every part switched on."""
    return AgentConfig(
        rounds=config.rounds,
        iterations=2,
        recurse=1,
        choose=2,
        plan=2,
        recall=2,
        outer_steps=1,
        num_pairs=2,
        num_lives=1,
        batch=16,
        max_pairs=32,
        report_every=config.rounds,
        report_lives=4,
        threads=1,
    )


def live(folder: Path, config: Config) -> None:
    """An agent's life, or what is left of it, with a gate that is easily convinced; in a process of its own."""
    Gate.needed = lambda self, trial: 0.9  # type: ignore[method-assign]
    Agent(settings(config), folder, tiny()).run()


def come_to(folder: Path) -> dict[str, Any]:
    """Everything that a run has come to."""
    newest = sorted((folder / "checkpoints").glob("step_*.safetensors"))[-1]
    versions = {path.name: fingerprint(load_tree(path)) for path in sorted((folder / "versions").iterdir())}
    told = {name: (folder / name).read_text() for name in ("ledger.jsonl", "rounds.jsonl")}
    library = SkillLibrary(folder / "skills.db")
    skills = [library.get(id) for id in library.ids()]
    found = [
        fingerprint([s.descriptor, dict(sorted(s.weights.items())), dict(s.statistics), s.parents, s.version])
        for s in skills
    ]
    return {"checkpoint": fingerprint(load_tree(newest)), "versions": versions, "library": found, **told}


def run(config: Config) -> Iterator[dict[str, Any]]:
    """One row."""
    processes = multiprocessing.get_context("fork")  # a process that has imported everything already
    moments = random.Random(config.seed)
    with tempfile.TemporaryDirectory() as folder:
        undisturbed, disturbed = Path(folder) / "undisturbed", Path(folder) / "disturbed"
        began = time.perf_counter()
        process = processes.Process(target=live, args=(undisturbed, config))
        process.start()
        process.join()
        a_round, rounds = (time.perf_counter() - began) / config.rounds, []
        for kill in range(config.num_kills):
            process = processes.Process(target=live, args=(disturbed, config))
            process.start()
            while process.is_alive() and len(_rounds(disturbed)) < kill * config.rounds // config.num_kills:
                time.sleep(0.01)
            process.join(timeout=moments.random() * a_round)
            if not process.is_alive():
                break
            assert process.pid is not None
            os.kill(process.pid, signal.SIGKILL)
            process.join()
            rounds.append(len(_rounds(disturbed)))
            print(f"killed {len(rounds)} times, {rounds[-1]} rounds are whole", flush=True)
        process = processes.Process(target=live, args=(disturbed, config))
        process.start()
        process.join()
        one, other = come_to(undisturbed), come_to(disturbed)
        same = {name: one[name] == other[name] for name in one}
        row = {"kills": len(rounds), "rounds_at_kills": rounds, "same": same, "trials": one["ledger.jsonl"].count("\n")}
        row["skills"] = len(one["library"])
        print(row)
        yield row


def _rounds(folder: Path) -> list[str]:
    path = folder / "rounds.jsonl"
    return path.read_text().splitlines() if path.exists() else []


def main(config: Config) -> None:
    """Kill, resume, compare, and write the row where it is wanted."""
    if config.record:
        print(write("agents_resume", replace(config, record=False), run(config), RESULTS))
    else:
        list(run(config))


if __name__ == "__main__":
    main(tyro.cli(Config))
