"""Does the learned optimizer for PPO beat Adam at its best rate, where it was meta-trained and elsewhere?

    python -m benchmarks.agents_ppo --record

Each kind of life of the suite is lived by fresh agents in worlds that nothing was chosen by. Adam (and Muon, with
`--baselines adam muon`) has every rate of a sweep, each constant and with a linear decay to zero, and for each kind the
one with the largest area under the lifetime curve, chosen on the very lives that are reported, which can only flatter
it. The learned optimizer, and the same rule before meta-training, are used as they are. Areas are shares of the
possible return; all see the same worlds and chances.
"""

from __future__ import annotations

import time
from collections.abc import Iterator
from dataclasses import dataclass, replace
from typing import Any

import torch
import tyro
from jaxtyping import Float
from rich.console import Console
from rich.table import Table
from torch import Tensor

from benchmarks.record import RESULTS, commits, markdown, read, readable, write
from l2o.agents.kind import Kind
from l2o.agents.suites import lives
from l2o.load import load
from l2o.rules.base import UpdateRule
from l2o.training.evaluate import interval
from l2o.types import seeded

ADAM_RATES = (2e-3, 4e-3, 8e-3, 1.6e-2, 3e-2, 6e-2, 0.12)
MUON_RATES = (3e-2, 6e-2, 0.12, 0.24)


@dataclass(frozen=True)
class Config:
    """Everything that can change the result.

    Arguments:
        rule: the learned optimizer: a name, a file or a folder.
        untrained_scale: of the same rule before meta-training; 0 leaves it out.
        suite: of lives.
        kinds: of the test part; none for all.
        num_lives: for each contestant.
        seed: of worlds and chances.
        baselines: what is swept.
        record: keep the rows in benchmarks/results.
    """

    rule: str = "ppo"
    untrained_scale: float = 0.06
    suite: str = "ppo"
    kinds: tuple[str, ...] = ()
    num_lives: int = 48
    seed: int = 5000
    baselines: tuple[str, ...] = ("adam",)
    record: bool = False


@torch.no_grad()
def returns(
    kind: Kind, rule: UpdateRule, rates: list[tuple[float, bool]], num: int, seed: int
) -> Float[Tensor, "rates num iterations"]:
    """Shares of the possible return of every iteration, at each rate, constant or with a decay (True)."""
    lifetimes = kind.lifetimes(rule)
    copies, generator = len(rates), seeded(seed)
    state = lifetimes.start(copies * num, kind.num_iterations, generator, copies)
    rate = torch.tensor([one for one, _ in rates]).repeat_interleave(num)
    decays = torch.tensor([decay for _, decay in rates]).repeat_interleave(num)
    found = []
    for i in range(kind.num_iterations):
        now = rate * torch.where(decays, 1.0 - i / kind.num_iterations, 1.0)
        hyper = kind.hyperparameters._replace(learning_rate=now)
        state, report = lifetimes.advance(dict(rule.named_parameters()), state, hyper, generator, copies)
        found.append(report.episode_return)
    return kind.environment.share(torch.stack(found, dim=-1)).view(copies, num, -1)


def contestants(config: Config) -> dict[str, tuple[UpdateRule, list[tuple[float, bool]]]]:
    """Rules, and the rates they may choose from."""
    found: dict[str, tuple[UpdateRule, list[tuple[float, bool]]]] = {"learned": (load(config.rule), [(1.0, False)])}
    if config.untrained_scale:
        found["before training"] = (load("learnedmuon", step_scale=config.untrained_scale), [(1.0, False)])
    for name, rates in (("adam", ADAM_RATES), ("muon", MUON_RATES)):
        if name in config.baselines:
            found[name] = (load(name, lr=1.0), [(rate, decay) for rate in rates for decay in (False, True)])
    return found


def run(config: Config) -> Iterator[dict[str, Any]]:
    """One row a kind of life and contestant."""
    kinds = lives(config.suite).test
    for label in config.kinds or kinds:
        kind = kinds[label]
        for name, (rule, rates) in contestants(config).items():
            began = time.process_time()
            curves = returns(kind, rule, rates, config.num_lives, config.seed)
            areas = curves.mean(dim=-1)
            best = int(areas.mean(dim=-1).argmax())
            low, high = kind.environment.return_range
            row = {"kind": label, "method": name, "rate": rates[best][0], "decays": rates[best][1]}
            row |= {"area": float(areas[best].mean()), "interval": interval(areas[best])}
            row |= {"area_as_return": low + (high - low) * float(areas[best].mean())}
            row |= {"final": float(curves[best][:, -kind.num_iterations // 4 :].mean())}
            row["curve"] = [round(x, 4) for x in curves[best].mean(dim=0).tolist()]
            row["lives"] = [round(x, 5) for x in areas[best].tolist()]
            row["swept"] = [[*rate, round(float(x), 5)] for rate, x in zip(rates, areas.mean(dim=-1), strict=True)]
            row["cpu_seconds"] = time.process_time() - began
            print(f"{label:26} {name:16} {row['area']:.4f} at {row['rate']:g}", flush=True)
            yield row


def shown(rows: list[dict[str, Any]]) -> Table:
    """Areas, and the learned one's gain over each other one with the interval of the paired difference."""
    table = Table("lives", "learned", *[name for name in dict.fromkeys(r["method"] for r in rows) if name != "learned"])
    for kind in dict.fromkeys(row["kind"] for row in rows):
        of = {row["method"]: row for row in rows if row["kind"] == kind}
        ours = torch.tensor(of["learned"]["lives"])
        cells = [kind, f"{float(ours.mean()):.3f}"]
        cells += [beside(ours, row) for name, row in of.items() if name != "learned"]
        table.add_row(*cells)
    return table


def table() -> str:
    """The recorded rows in Markdown."""
    rows = read("agents_ppo")
    others = [name for name in dict.fromkeys(row["method"] for row in rows) if name != "learned"]
    lines = []
    for kind in dict.fromkeys(row["kind"] for row in rows):
        of = {row["method"]: row for row in rows if row["kind"] == kind}
        if "learned" in of:
            ours = torch.tensor(of["learned"]["lives"])
            lines.append([kind, f"{float(ours.mean()):.3f}", *(beside(ours, of.get(name)) for name in others)])
    heads = ["lives", "learned", *(f"{name}: learned has more by [95%]" for name in others)]
    caption = (
        f"Area under the curve of {rows[0]['config']['num_lives']} lives, as a share of the possible return by what "
        f"lives show of themselves; intervals over lives. {rows[0]['machine']}, commits {commits(rows)}."
    )
    return markdown(heads, lines, caption)


def beside(ours: Tensor, row: dict[str, Any] | None) -> str:
    """Another one's area and rate, and how much more the learned one has."""
    if row is None:
        return ""
    theirs = torch.tensor(row["lives"])
    low, high = (x / float(theirs.mean()) for x in interval(ours - theirs))
    gain = float((ours - theirs).mean() / theirs.mean())
    at = "" if row["rate"] == 1.0 else f" at {readable(row['rate'])}{', decaying' if row['decays'] else ''}"
    return f"{float(theirs.mean()):.3f}{at}: {gain:+.0%} [{low:+.0%}, {high:+.0%}]"


def main(config: Config) -> None:
    """Live, show, and write the rows where they are wanted."""
    torch.set_num_threads(1)
    if config.record:  # rows are written as they come
        print(write("agents_ppo", replace(config, record=False), run(config), RESULTS, by=("kind", "method")))
    Console().print(shown(read("agents_ppo") if config.record else list(run(config))))


if __name__ == "__main__":
    main(tyro.cli(Config))
