"""What an agent is doing, for the eye: a live view in the terminal, tables and pictures of a whole run."""

from __future__ import annotations

import json
from pathlib import Path
from typing import TYPE_CHECKING, Any

from rich.console import Group
from rich.table import Table
from rich.text import Text

from l2o.agents.lineage import Lineage
from l2o.agents.loop import Agent, Round
from l2o.agents.practice import POLICY
from l2o.agents.skills.library import SkillLibrary
from l2o.files import read_file

if TYPE_CHECKING:
    from matplotlib.figure import Figure

BARS = " ▁▂▃▄▅▆▇█"


class View:
    """The last rounds of a run, as something that rich shows."""

    def __init__(self, num_rounds: int, kept: int = 8) -> None:
        self.num_rounds, self.kept = num_rounds, kept
        self.rounds: list[Round] = []
        self.versions: dict[str, int] = {}

    def add(self, agent: Agent, done: Round) -> Group:
        """The view after a round."""
        self.rounds.append(done)
        self.versions = agent.spec.versions
        return self.shown()

    def shown(self) -> Group:
        """Versions, what skills reach, and the last proposals."""
        parts = Text("  ".join(f"{name} v{version}" for name, version in self.versions.items()))
        skills = Table("skill", "practices", "reached", "share of the possible return in practice")
        for name in dict.fromkeys(one.skill for one in self.rounds):
            shares = [one.share for one in self.rounds if one.skill == name]
            skills.add_row(name, str(len(shares)), f"{shares[-1]:.3f}", bars(shares[-40:]))
        trials = Table("round", "proposal for", "verdict", "gain")
        for one in self.rounds[-self.kept :]:
            for part, reason, gain in one.trials:
                trials.add_row(str(one.number), part, reason, f"{gain:+.3f}")
        number = self.rounds[-1].number if self.rounds else 0
        return Group(Text(f"round {number} of {self.num_rounds}"), parts, skills, trials)


def bars(shares: list[float]) -> str:
    """Numbers in [0, 1] as a line of bars."""
    return "".join(BARS[round(min(1.0, max(0.0, x)) * (len(BARS) - 1))] for x in shares)


def read_rounds(folder: Path) -> list[Round]:
    """What every round did.

    Raises:
        FileNotFoundError: no agent has lived there.
        ValueError: a line is no round.
    """
    path = folder / "rounds.jsonl"
    if not path.is_file():
        raise FileNotFoundError(f"a report needs the folder of an agent that has lived a round; {folder} is none.")
    return [_round(line, f"line {number} of {path}") for number, line in enumerate(_lines(path), 1)]


def _lines(path: Path) -> list[bytes]:
    return [line for line in read_file(path).split(b"\n") if line]


def _round(line: bytes, where: str) -> Round:
    try:
        found = Round(**json.loads(line))
        if not (type(found.number) is int and type(found.skill) is str and type(found.share) is float):
            raise TypeError("its number, skill or share is of another kind")
        trials = [[str(part), str(reason), float(gain)] for part, reason, gain in found.trials]
        return found._replace(trials=trials, report={str(name): float(x) for name, x in found.report.items()})
    except (ValueError, TypeError, AttributeError, RecursionError) as error:
        raise ValueError(
            f"a line of an agent's rounds must be what it wrote; {where} is not: {error}. Its next round writes the "
            "file anew."
        ) from error


def lineage_table(lineage: Lineage) -> Table:
    """Every accepted version, with its parent, its gain and its evidence."""
    table = Table("version", "of", "from", "by", "gain", "evidence", "needed", "pairs", title="accepted")
    for line in lineage.lines:
        if line["accepted"] and line["trial"]:
            told = [f"{line[key]:.3g}" for key in ("gain", "evidence", "needed")]
            table.add_row(str(line["trial"]), line["part"], str(line["parent"]), line["by"], *told, str(line["pairs"]))
    return table


def counts_table(lineage: Lineage) -> Table:
    """How often what became of proposals, by part."""
    reasons = sorted({line["reason"] for line in lineage.lines if line["trial"]})
    table = Table("part", *reasons, title="proposals")
    for part in dict.fromkeys(line["part"] for line in lineage.lines):
        of = [line["reason"] for line in lineage.lines if line["trial"] and line["part"] == part]
        table.add_row(part, *[str(of.count(reason)) for reason in reasons])
    return table


def pictures(rounds: list[Round], lineage: Lineage, library: SkillLibrary) -> dict[str, Figure]:
    """Lives over rounds, the tree of versions, and which skill grew out of which.

    Raises:
        ImportError: matplotlib is not installed.
    """
    try:
        from matplotlib.figure import Figure
        from matplotlib.ticker import MaxNLocator
    except ImportError as error:
        raise ImportError("pictures need matplotlib: pip install 'l2o[plot]'.") from error
    found = {name: Figure(figsize=(8, 4), layout="constrained") for name in ("lives", "lineage", "skills")}
    _draw_lives(found["lives"].subplots(), rounds)
    _draw_tree(found["lineage"].subplots(), lineage)
    _draw_skills(found["skills"].subplots(), lineage, library)
    for figure in found.values():  # rounds and trials are counted
        figure.axes[0].xaxis.set_major_locator(MaxNLocator(integer=True))
    return found


def _draw_lives(axes: Any, rounds: list[Round]) -> None:
    for name in dict.fromkeys(one.skill for one in rounds):
        points = [(one.number, one.share) for one in rounds if one.skill == name]
        axes.plot(*zip(*points, strict=True), marker=".", label=f"practice: {name}")
    for name in dict.fromkeys(name for one in rounds for name in one.report):
        points = [(one.number, one.report[name]) for one in rounds if name in one.report]
        axes.plot(*zip(*points, strict=True), linestyle="--", marker="o", label=f"whole lives, unseen: {name}")
    axes.set(xlabel="round", ylabel="share of the possible return", ylim=(0, 1))
    axes.legend(fontsize="small")


def _draw_tree(axes: Any, lineage: Lineage) -> None:
    parts = list(dict.fromkeys(line["part"] for line in lineage.lines))
    for row, part in enumerate(parts):
        of = [line for line in lineage.lines if line["part"] == part]
        axes.plot([0], [row], "o", color="black")
        for line in of:
            if line["trial"] == 0:
                continue
            color = "tab:green" if line["accepted"] else "lightgrey"
            y = row if line["accepted"] else row + 0.3
            axes.plot([line["parent"] or 0, line["trial"]], [row, y], color=color, linewidth=1.5, zorder=0)
            axes.plot([line["trial"]], [y], "o" if line["accepted"] else "x", color=color)
    axes.set_yticks(range(len(parts)), parts)
    axes.set(xlabel="trial (green: accepted, from its parent; grey: rejected)")


def _draw_skills(axes: Any, lineage: Lineage, library: SkillLibrary) -> None:
    """The skill graph over time: a dot for each version in the library, a line from each skill that it grew out of."""
    parts = {line["trial"]: line["part"].removeprefix(POLICY) for line in lineage.lines if line["trial"]}
    names = [x["part"].removeprefix(POLICY) for x in lineage.lines if not x["trial"] and x["part"].startswith(POLICY)]
    places: dict[int, tuple[int, int]] = {}
    for id in library.ids():
        skill = library.get(id)
        trial = int(skill.statistics["trial"])
        places[id] = (trial, names.index(parts[trial]))
        for parent in skill.parents:
            axes.annotate("", places[id], places[parent], arrowprops={"arrowstyle": "->", "color": "tab:blue"})
        axes.plot(*places[id], "o", color="tab:green")
        axes.annotate(f"{skill.statistics['gain']:+.2f}", places[id], (0, 6), textcoords="offset points", ha="center")
    axes.set_yticks(range(len(names)), names)
    axes.set(xlabel="trial (green: a version in the library, with its gain; arrows: from what it grew)")
    axes.set(ylim=(-0.5, len(names) - 0.5), xlim=(0, lineage.num_trials + 1))
