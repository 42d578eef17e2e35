"""Whether predictions that are distributions say how sure they may be: coverage of intervals, and pictures of bands."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from typing import TYPE_CHECKING

import torch
from jaxtyping import Float
from rich.table import Table
from torch import Tensor
from torch.distributions import Distribution, MixtureSameFamily

from l2o.learners.neural_process.base import NeuralProcess
from l2o.tasks.episodes import Episode, EpisodeFamily
from l2o.training.evaluate import half_interval
from l2o.training.report import grid
from l2o.types import seeded, tree_map

if TYPE_CHECKING:
    from matplotlib.figure import Figure

LEVELS = (0.5, 0.8, 0.9, 0.95)
"""Of central intervals."""


@dataclass(frozen=True)
class Calibration:
    """How often values fell into central intervals of their predictions.

    levels: what the predictions promise.
    coverage: the share of values in each interval, mean over episodes.
    half_intervals: of the coverages, 95%, over episodes.
    ranks: the shares of values in each tenth of their predictions, lowest first; .1 each is perfect.
    """

    levels: tuple[float, ...]
    coverage: tuple[float, ...]
    half_intervals: tuple[float, ...]
    ranks: tuple[float, ...]

    def table(self, title: str = "") -> Table:
        """For the terminal."""
        shown = Table("interval", "covers, 95%", title=title)
        for level, share, half in zip(self.levels, self.coverage, self.half_intervals, strict=True):
            shown.add_row(f"{100 * level:.0f}%", f"{100 * share:.1f} ± {100 * half:.1f}%")
        return shown


def calibration(
    learner: NeuralProcess,
    family: EpisodeFamily,
    num_batches: int = 100,
    batch_size: int = 16,
    levels: Sequence[float] = LEVELS,
    seed: int = 0,
) -> Calibration:
    """The coverage of a learner's intervals on fresh episodes, without a step, in evaluation mode.

    Arguments:
        num_batches, batch_size: episodes; the shape may differ from batch to batch.
        levels: of central intervals, each between 0 and 1.
        seed: of the episodes.

    Raises:
        ValueError: the learner predicts labels, of which there are no intervals.
    """
    if learner.classifies:
        raise ValueError("calibration is of intervals of values; this learner predicts labels.")
    if not levels or not all(0 < level < 1 for level in levels):
        raise ValueError(f"levels must be between 0 and 1; got {tuple(levels)}.")
    generator, shares, ranks = seeded(seed), [], []
    with evaluating(learner), torch.no_grad():
        for _ in range(num_batches):
            place = places(learner, family.sample_many(generator, batch_size)).flatten(1)
            inside = [((place - 0.5).abs() <= level / 2).double().mean(1) for level in levels]
            shares.append(torch.stack(inside, dim=1))
            ranks.append(torch.histc(place.double(), 10, 0.0, 1.0) / place.numel())
    of_episodes = torch.cat(shares)
    return Calibration(
        tuple(levels),
        tuple(of_episodes.mean(0).tolist()),
        tuple(map(half_interval, of_episodes.T)),
        tuple(torch.stack(ranks).mean(0).tolist()),
    )


def places(learner: NeuralProcess, episodes: Episode) -> Float[Tensor, "episodes targets outputs"]:
    """The probability that each value of stacked episodes would have been lower: uniform, where all is well."""
    if learner.stacks:
        return _places(learner, episodes)
    num = len(episodes.query.x)
    return torch.stack([_places(learner, tree_map(lambda x, i=i: x[i], episodes)) for i in range(num)])


def _places(learner: NeuralProcess, episode: Episode) -> Tensor:
    said = learner.predictive(learner.start(episode.support), episode.query.x)
    return below(said, episode.query.y)


def below(said: Distribution, y: Float[Tensor, "*n outputs"]) -> Float[Tensor, "*n outputs"]:
    """The cumulative distribution at values, each of its numbers by itself."""
    if isinstance(said, MixtureSameFamily):
        parts = said.component_distribution.base_dist.cdf(y.unsqueeze(-2))  # type: ignore[attr-defined]
        return (said.mixture_distribution.probs.unsqueeze(-1) * parts).sum(-2)
    return said.base_dist.cdf(y)  # type: ignore[attr-defined]


@contextmanager
def evaluating(learner: NeuralProcess) -> Iterator[None]:
    """In evaluation mode; afterwards in the one it was in."""
    training = learner.training
    learner.eval()
    try:
        yield
    finally:
        learner.train(training)


def bands(
    learner: NeuralProcess, episodes: Episode, domain: tuple[float, float] = (-2.0, 2.0), num_points: int = 200
) -> Figure:
    """Predictions of stacked episodes over a line, a panel each: mean, and two deviations to both sides.

    Arguments:
        episodes: of inputs that are numbers; context points are dots, targets crosses.
        domain: from and to.
        num_points: of the curves.

    Raises:
        ImportError: matplotlib is missing.
    """
    drawn, panels = grid(len(episodes.query.x), (4.0, 2.6))
    x = torch.linspace(*domain, num_points).unsqueeze(-1)
    for i, panel in enumerate(panels):
        episode = tree_map(lambda value, i=i: value[i], episodes)
        with evaluating(learner), torch.no_grad():
            said = learner.predictive(learner.start(episode.support), x)
        mean, deviation = said.mean[:, 0], said.stddev[:, 0]
        panel.plot(x[:, 0].numpy(), mean.numpy(), color="C0", linewidth=1.5)
        for k, alpha in ((1, 0.25), (2, 0.15)):
            low, high = ((mean + side * k * deviation).numpy() for side in (-1, 1))
            panel.fill_between(x[:, 0].numpy(), low, high, color="C0", alpha=alpha, linewidth=0)
        for part, marker, color in ((episode.support, "o", "black"), (episode.query, "x", "C1")):
            panel.plot(part.x[:, 0].numpy(), part.y[:, 0].numpy(), marker, color=color, markersize=4)
        panel.set_xlim(*domain)
    return drawn
