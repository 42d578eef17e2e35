"""Which skill should be practised next? Choosers on random skill graphs, on grid worlds, and on continuous goals.

    python -m benchmarks.agents_skills --part graph
    python -m benchmarks.agents_skills --part grid
    python -m benchmarks.agents_skills --part goals

On graphs (a simulated learner, 12 skills, 240 practices) the score is mean competence over the lifetime. Choosers by
hand are tuned on graphs that no other seed draws; the learned one is meta-trained from several seeds. The greedy and
the ordered one know what no chooser can see, and are bounds.
"""

from __future__ import annotations

import itertools
import time
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Literal

import torch
import tyro
from torch import Tensor

from benchmarks.record import RESULTS, commits, markdown, read, write
from l2o.agents.environments import GridWorld
from l2o.agents.losses import Hyperparameters
from l2o.agents.policy import ActorCritic
from l2o.agents.ppo import PPO
from l2o.agents.skills.chooser_training import ChooserTraining
from l2o.agents.skills.choosers import BareProgress, Chooser, LearningProgress, Uniform
from l2o.agents.skills.curriculum import Curriculum, lifetimes
from l2o.agents.skills.goals import ALPGMM
from l2o.agents.skills.grid_skills import GridSkills
from l2o.agents.skills.learned_chooser import LearnedChooser
from l2o.agents.skills.skill_graph import SkillGraph
from l2o.load import load, save
from l2o.rules import Adam
from l2o.saved import read_card
from l2o.types import seeded

TUNING, HELD_OUT = 5, 10**6
"""Seeds of the learners that choosers are tuned on, and of those that are reported."""


@dataclass(frozen=True)
class Config:
    """Everything that can change the result.

    Arguments:
        part: graph, grid or goals; the rows of the others stay.
        num_lifetimes: held-out learners.
        num_seeds: meta-trainings of the learned chooser.
        taught, rewarded: rounds of meta-training on graphs.
        choosers: folder of the meta-trained choosers, one file a seed; those that are there are not trained again.
        grid_rooms, grid_steps, grid_budget: rooms and time limit of grid worlds, environment steps of a lifetime.
        grid_lifetimes: of each chooser.
        grid_choosers: which of them take part.
        mastery: success rate from which a skill counts as mastered.
        record: keep the rows in benchmarks/results.
    """

    part: Literal["graph", "grid", "goals"] = "graph"
    num_lifetimes: int = 2000
    num_seeds: int = 1
    taught: int = 70
    rewarded: int = 400
    choosers: Path = Path("runs/choosers")
    grid_rooms: int = 2
    grid_steps: int = 32
    grid_budget: int = 80_000
    grid_lifetimes: int = 256
    grid_choosers: tuple[str, ...] = ("uniform", "bare progress", "noise-aware progress", "meta-learned on graphs")
    mastery: float = 0.9
    record: bool = False


def graph(config: Config) -> Iterator[dict[str, Any]]:
    """One row a chooser; the learned one has a row for each meta-training."""
    curriculum = SkillGraph()

    def row(name: str, chooser: Chooser, **more: Any) -> dict[str, Any]:
        history = lifetimes(curriculum, chooser, config.num_lifetimes, seeded(HELD_OUT))
        return _row("graph", name, history.area, history.mastered(config.mastery), curriculum.budget, more)

    yield row("uniform", Uniform())
    bare = [BareProgress(e, p) for e, p in itertools.product((0.05, 0.1, 0.2, 0.4), (0.5, 1.0, 2.0))]
    yield row("bare progress, tuned", *_best(curriculum, bare))
    aware = [
        LearningProgress(s, f, a) for s, f, a in itertools.product((0.5, 1.0, 1.5, 2.0), (0.003, 0.02), (False, True))
    ]
    yield row("noise-aware progress, tuned", *_best(curriculum, aware))
    for seed in range(config.num_seeds):
        chooser, seconds = trained(config, seed)
        yield row("meta-learned", chooser, seed=seed, train_cpu_seconds=seconds)
    for name, pick in (("privileged: ordered", _ordered), ("privileged: greedy gain", _greedy)):
        area, mastered = _privileged(curriculum, pick, config)
        yield _row("graph", name, area, mastered, curriculum.budget, {})


def trained(config: Config, seed: int) -> tuple[LearnedChooser, float]:
    """A chooser meta-trained on graphs, and the CPU seconds it took."""
    path = config.choosers / f"{config.taught}-{config.rewarded}-{seed}.safetensors"
    if path.exists():
        found = load(path)
        assert isinstance(found, LearnedChooser)
        return found, float(read_card(path.read_bytes(), str(path)).metadata["cpu_seconds"])
    with torch.random.fork_rng():
        torch.manual_seed(seed)
        chooser = LearnedChooser()
    began = time.process_time()

    def show(i: int, area: float) -> None:
        if i % 10 == 9:
            print(f"       round {i + 1}: {area:.3f}, {time.process_time() - began:.0f} s", flush=True)

    ChooserTraining(SkillGraph(), config.taught, config.rewarded).run(chooser, seeded(seed), show)
    seconds = time.process_time() - began
    save(chooser, path, cpu_seconds=seconds)
    return chooser, seconds


def grid(config: Config) -> Iterator[dict[str, Any]]:
    """One row a chooser: agents with PPO in layouts of their own; the learned chooser comes from graphs as it is."""
    environment = GridWorld(config.grid_rooms, 2, 3, config.grid_steps)
    curriculum = GridSkills(
        environment,
        ActorCritic.of(environment, hidden=(32,)),
        Adam(1.0),
        PPO(16, 32),
        Hyperparameters(learning_rate=1e-2, entropy=0.02, discount=0.95),
        float(config.grid_budget),
    )
    choosers: dict[str, Callable[[], Chooser]] = {
        "uniform": Uniform,
        "bare progress": BareProgress,
        "noise-aware progress": lambda: LearningProgress(1.0, 0.02),
        "meta-learned on graphs": lambda: trained(config, 0)[0],
    }
    for name in config.grid_choosers:
        chooser = choosers[name]()
        began = time.process_time()
        history = lifetimes(curriculum, chooser, config.grid_lifetimes, seeded(HELD_OUT), every=5)
        seconds = {"cpu_seconds": time.process_time() - began}
        yield _row("grid", name, history.area, history.mastered(config.mastery), curriculum.budget, seconds)


def goals(config: Config) -> Iterator[dict[str, Any]]:
    """One row a chooser of points in a square of cells, each of which opens its neighbours when mastered."""
    for name in ("uniform", "ALP-GMM"):
        yield _goal_row(name, _cells(ALPGMM(2), name == "uniform", 64, seeded(HELD_OUT)))


def _cells(chooser: ALPGMM, uniform: bool, lanes: int, generator: torch.Generator) -> Tensor:
    """Share of cells mastered over 3,000 goals (after Portelas et al., 2019, section 5.1: 20 visits master a cell)."""
    side, visits = 10, 20.0
    skill, open_now = torch.zeros(lanes, side, side), torch.zeros(lanes, side, side, dtype=torch.bool)
    open_now[:, 0, 0] = True
    tried, mixture, curve, lane = chooser.init(lanes), None, [], torch.arange(lanes)
    for i in range(3000):
        noise = torch.rand(lanes, 4, generator=generator)
        goal = noise[:, 2:] if uniform else chooser.choose(mixture, noise)
        row, column = (goal * side).long().clamp(max=side - 1).unbind(-1)
        outcome = torch.where(open_now[lane, row, column], skill[lane, row, column] + 1.0 / visits, 0.0).clamp(max=1.0)
        skill[lane, row, column] = torch.maximum(skill[lane, row, column], outcome)
        done = (skill >= 1.0).float().unsqueeze(1)
        open_now |= torch.nn.functional.max_pool2d(done, 3, 1, 1).squeeze(1) > 0
        if not uniform:
            tried = chooser.tried(tried, goal, outcome)
            mixture = chooser.fit(tried, generator) if i % 100 == 99 else mixture
        curve.append(done.mean(dim=(1, 2, 3)))
    return torch.stack(curve)


def _goal_row(name: str, curve: Tensor) -> dict[str, Any]:
    final, area = curve[-1], curve.mean(dim=0)
    print(f"goals  {name:28} mastered {final.mean():.3f} of the cells, {area.mean():.3f} over time", flush=True)
    return {
        "part": "goals",
        "chooser": name,
        "final": float(final.mean()),
        "final_error": _error(final),
        "area": float(area.mean()),
        "area_error": _error(area),
    }


def _best(curriculum: Curriculum, choosers: list[Any]) -> tuple[Chooser]:
    """The best of several on the learners kept for that."""
    areas = [lifetimes(curriculum, chooser, 300, seeded(TUNING)).area.mean() for chooser in choosers]
    best = choosers[int(torch.stack(areas).argmax())]
    print(f"       chosen of {len(choosers)}: {best}")
    return (best,)


def _privileged(
    curriculum: SkillGraph, pick: Callable[[SkillGraph, Any], Tensor], config: Config
) -> tuple[Tensor, Tensor]:
    """Area and mastery of one who sees the learners from inside."""
    generator, num = seeded(HELD_OUT), config.num_lifetimes
    learners = curriculum.start(num, generator)
    counts = learners["learnable"].float()
    area, mastered = torch.zeros(num), torch.ones(num)
    for i in range(curriculum.max_practices):
        learners, _ = curriculum.practise(learners, pick(curriculum, learners), generator)
        competence = learners["competence"]
        area += (competence * counts).sum(-1) / counts.sum(-1).clamp(min=1.0) / curriculum.budget
        done = ((competence >= config.mastery) | ~learners["learnable"]).all(-1)
        mastered = torch.where(done, mastered.clamp(max=(i + 1) / curriculum.budget), mastered)
    return area, mastered


def _greedy(curriculum: SkillGraph, learners: Any) -> Tensor:
    return curriculum.gain(learners).argmax(dim=-1)


def _ordered(curriculum: SkillGraph, learners: Any) -> Tensor:
    """The first learnable skill, in the graph's order, that is not mastered."""
    left = (learners["competence"] < 0.9) & learners["learnable"]
    return left.float().argmax(dim=-1)


def _row(part: str, name: str, area: Tensor, mastered: Tensor, budget: float, more: dict[str, Any]) -> dict[str, Any]:
    steps = mastered * budget
    print(
        f"{part:6} {name:28} area {area.mean():.3f} +- {_error(area):.3f}  mastered after {steps.mean():,.0f} +- "
        f"{_error(steps):,.0f}, not at all {(mastered >= 1.0).float().mean():.0%}",
        flush=True,
    )
    return {
        "part": part,
        "chooser": name,
        "area": float(area.mean()),
        "area_error": _error(area),
        "mastered_after": float(steps.mean()),
        "mastered_error": _error(steps),
        "unmastered": float((mastered >= 1.0).float().mean()),
        **more,
    }


def table() -> str:
    """The recorded rows of graphs and grid worlds in Markdown."""
    rows = [row for row in read("agents_skills") if row["part"] != "goals"]
    lines = []
    for row in rows:
        seconds = row.get("train_cpu_seconds")
        lines.append(
            [
                {"graph": "skill graphs", "grid": "grid worlds"}[row["part"]],
                row["chooser"],
                f"{row['area']:.3f} ± {2.0 * row['area_error']:.3f}",
                f"{row['mastered_after']:,.0f} ± {2.0 * row['mastered_error']:,.0f}",
                f"{row['unmastered']:.0%}",
                "" if seconds is None else f"{seconds / 60:.1f}",
            ]
        )
    heads = ["skills", "chooser", "mean competence over life", "all mastered after", "never", "CPU minutes of training"]
    config = {row["part"]: row["config"] for row in rows}
    told = f"Graphs: {config['graph']['num_lifetimes']:,} learners of 12 skills, 240 practices"
    if "grid" in config:
        told += f"; grid worlds with keys and doors: {config['grid']['grid_lifetimes']:,} agents with PPO, each in a "
        told += f"layout of its own with {3 * config['grid']['grid_rooms']} skills, {config['grid']['grid_budget']:,} "
        told += "environment steps"
    caption = (
        f"{told}; ± two standard errors; who never masters all counts with the whole life. Privileged choosers see "
        f"learners from inside. {rows[0]['machine']}, commits {commits(rows)}."
    )
    return markdown(heads, lines, caption)


def _error(x: Tensor) -> float:
    """Standard error of the mean."""
    return float(x.std() / len(x) ** 0.5)


def main(config: Config) -> None:
    """Run one part, and write its rows beside the others' where they are wanted."""
    torch.set_num_threads(1)
    rows = list({"graph": graph, "grid": grid, "goals": goals}[config.part](config))
    if config.record:
        print(write("agents_skills", config, rows, RESULTS, by=("part", "chooser", "seed")))


if __name__ == "__main__":
    main(tyro.cli(Config))
