"""How well a learner adapts to episodes that it never saw: loss and score after each number of steps."""

from __future__ import annotations

import copy
from collections.abc import Sequence
from dataclasses import dataclass

import torch
from jaxtyping import Float
from torch import Tensor
from torch.func import vmap

from l2o.learners.adaptation import Adaptation
from l2o.learners.batch_norm import calibrate
from l2o.learners.meta_grad import lanes_of, takes_stacked
from l2o.tasks.episodes import Episode, EpisodeFamily
from l2o.training.evaluate import half_interval
from l2o.types import device_of, seeded, tree_map, tree_to

CHUNK = 50
"""Episodes drawn, and batched, at once."""


@dataclass(frozen=True)
class Judgement:
    """What a learner reached on episodes, by number of inner steps.

    losses, scores: see `Outcome`; scores are accuracies, or mean squared errors.
    steps: the numbers of steps.
    """

    losses: Float[Tensor, "episodes steps"]
    scores: Float[Tensor, "episodes steps"]
    steps: tuple[int, ...]

    def score(self, steps: int) -> tuple[float, float]:
        """Mean score after `steps` steps, and half its 95% interval; not finite where an episode was not.

        Raises:
            ValueError: it was not judged after so many steps.
        """
        if steps not in self.steps:
            raise ValueError(f"steps must be one of those that were judged, {self.steps}; got {steps}.")
        values = self.scores[:, self.steps.index(steps)].double()
        return float(values.mean()), half_interval(values)


def judge(
    adaptation: Adaptation,
    family: EpisodeFamily,
    num_episodes: int = 1000,
    steps: Sequence[int] | None = None,
    seed: int = 0,
    batching: str = "auto",
    calibration: EpisodeFamily | None = None,
) -> Judgement:
    """Adapt to fresh episodes and judge on their queries, in evaluation mode.

    Arguments:
        steps: numbers of inner steps to report; None for the adaptation's own.
        seed: of the episodes.
        batching: see `meta_grad`.
        calibration: training episodes on which `running` normalisation layers are measured first, in place.
    """
    wanted = (adaptation.steps,) if steps is None else tuple(steps)
    if num_episodes < 1 or not wanted or min(wanted) < 0:
        raise ValueError(
            f"a judgement needs an episode and numbers of steps >= 0; got num_episodes={num_episodes}, steps={wanted}."
        )
    if calibration is not None:
        measure(adaptation, calibration)
    generator = seeded(seed)
    training = [m for m in adaptation.modules() if m.training]
    adaptation.eval()
    parts = []
    try:
        for start in range(0, num_episodes, CHUNK):
            drawn = family.sample_many(generator, min(CHUNK, num_episodes - start))
            episodes = tree_to(drawn, device_of(adaptation))
            _check_classes(adaptation, episodes)
            parts.append(_outcomes(adaptation, episodes, wanted, batching))
    finally:
        for m in training:
            m.training = True
    losses, scores = (torch.cat(of_all).cpu() for of_all in zip(*parts, strict=True))
    return Judgement(losses, scores, wanted)


def measure(adaptation: Adaptation, family: EpisodeFamily, num_episodes: int = 20, seed: int = 0) -> int:
    """Measure `running` normalisation layers on training episodes; returns how many there are."""
    generator = seeded(seed)

    def run() -> None:
        for _ in range(num_episodes):
            adaptation(tree_to(family.sample(generator), device_of(adaptation)))

    return calibrate(adaptation, run)


def _check_classes(adaptation: Adaptation, episodes: Episode) -> None:
    """Raise a ValueError if episodes have other classes than the learner was made for."""
    if episodes.support.y.is_floating_point():
        return
    labels = episodes.support.y if episodes.support.y.numel() else episodes.query.y
    classes, way = int(labels.max()) + 1, getattr(adaptation.learner, "way", None)
    if way not in (None, classes):
        raise ValueError(
            f"episodes must have the {way} classes that the learner is made for (its `way`; None takes any number); "
            f"they have {classes}."
        )
    first = tree_map(lambda x: x[0], episodes)
    with torch.no_grad():  # two queries, since statistics of a batch need more than one
        outputs = adaptation.learner.predict(adaptation.learner.start(first.support), first.query.x[:2]).shape[-1]
    if outputs < classes:
        raise ValueError(
            f"the learner must have an output for each class; it has {outputs}, and episodes have {classes} classes."
        )


@torch.no_grad()
def _outcomes(
    adaptation: Adaptation, episodes: Episode, steps: tuple[int, ...], batching: str
) -> tuple[Tensor, Tensor]:
    num = len(episodes.support.x)
    if takes_stacked(batching, adaptation, max(steps)):
        loss, score = (x.unsqueeze(-1).expand(-1, len(steps)) for x in adaptation.learner.feed_forward(episodes))
        return loss, score
    if lanes_of(batching, adaptation, episodes, num):
        lanes = copy.copy(adaptation)
        lanes.recompute = False
        found = vmap(lambda episode: tuple(lanes.outcomes(episode, steps)))(episodes)
        return found[0], found[1]
    each = [adaptation.outcomes(tree_map(lambda x, i=i: x[i], episodes), steps) for i in range(num)]
    return torch.stack([o.loss for o in each]), torch.stack([o.score for o in each])
