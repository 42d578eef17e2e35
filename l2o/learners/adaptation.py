"""A learner and how it adapts, as one module: what is meta-trained, judged, saved and loaded."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from typing import Any

import torch
from jaxtyping import Float, Shaped
from torch import Tensor, nn

from l2o.configured import Configured
from l2o.learners.adapt import adapt, parse_order, trajectory
from l2o.learners.base import Fast, Learner, Outcome
from l2o.rules.base import UpdateRule
from l2o.tasks.episodes import Episode, Examples


class Adaptation(Configured):
    """A learner that takes `steps` steps of `rule`; its parameters are the slow weights and the rule's theta.

    What is not to be trained, such as a fixed inner learning rate, is frozen in torch's way:
    `adaptation.rule.requires_grad_(False)`.

    Arguments:
        learner: how a model adapts.
        rule: what refines the fast variables; None will do for zero steps.
        steps: of the rule, on the support set.
        order, batch_size, recompute: see `adapt`.
    """

    def __init__(
        self,
        learner: Learner,
        rule: UpdateRule | None = None,
        steps: int = 0,
        order: str = "full",
        batch_size: int | None = None,
        recompute: bool = False,
    ) -> None:
        super().__init__()
        parse_order(order)
        if steps < 0 or (steps > 0 and rule is None):
            raise ValueError(
                f"steps must be 0, or positive with a rule that takes them; got steps={steps}, rule={rule!r}."
            )
        if batch_size is not None and batch_size < 1:
            raise ValueError(f"batch_size must be positive, or None for the whole support set; got {batch_size}.")
        _check_pure(learner)
        self.learner, self.rule, self.steps = learner, rule, steps
        self.order, self.batch_size, self.recompute = order, batch_size, recompute

    def __setattr__(self, name: str, value: Any) -> None:
        """Settings that are changed are saved as they are then."""
        super().__setattr__(name, value)
        if name in ("steps", "order", "batch_size", "recompute"):
            object.__setattr__(self, "config", {**self.config, name: value})

    def adapt(self, support: Examples, steps: int | None = None) -> Fast:
        """The fast variables of a support set.

        Arguments:
            steps: in place of the number that the adaptation was made with.
        """
        num = self.steps if steps is None else steps
        return adapt(self.learner, self.rule, support, num, self.order, self.batch_size, self.recompute)

    def predict(
        self, support: Examples, x: Shaped[Tensor, " n *features"], steps: int | None = None
    ) -> Float[Tensor, " n *outputs"]:
        """What the learner says of inputs, once it has adapted to a support set; `steps` as of `adapt`."""
        num = self.steps if steps is None else steps
        return self.learner.predict_at(self.adapt(support, num), x, num)

    def forward(self, episode: Episode, weights: Float[Tensor, " steps"] | None = None) -> Outcome:
        """The query loss after adaptation.

        Arguments:
            weights: of the query losses after the first step, the second, ..., to be summed (MAML++, Antoniou et al.,
                2019, section 4); None for the last one alone.
        """
        if weights is None and self.steps == 0:
            return self.learner.feed_forward(episode)
        if weights is None:
            return self.learner.judged(self.adapt(episode.support), episode.query, self.steps)
        if self.order.startswith("implicit"):
            raise ValueError(
                "the losses of several steps need an order that goes through the steps, because the implicit gradient "
                f"is that of the last one alone; got order={self.order!r}."
            )
        if len(weights) != self.steps:
            raise ValueError(f"weights must be one for each of the {self.steps} steps; got {len(weights)}.")
        path = self._path(episode.support, self.steps)
        outcomes = [self.learner.judged(fast, episode.query, step) for step, fast in enumerate(path) if step > 0]
        losses = torch.stack([outcome.loss for outcome in outcomes])
        return Outcome((weights.to(losses) * losses).sum(), outcomes[-1].score)

    def outcomes(self, episode: Episode, steps: Sequence[int]) -> Outcome:
        """Loss and score after each of the given numbers of steps, as two vectors; for reports."""
        path = list(self._path(episode.support, max(steps)))
        found = [self.learner.judged(path[step], episode.query, step) for step in steps]
        return Outcome(torch.stack([o.loss for o in found]), torch.stack([o.score for o in found]))

    def _path(self, support: Examples, steps: int) -> Iterator[Fast]:
        order = "first" if self.order.startswith("implicit") else self.order
        return trajectory(self.learner, self.rule, support, steps, order, self.batch_size, self.recompute)


def _check_pure(learner: Learner) -> None:
    """Torch's batch normalisation changes itself whenever it is used: in loops silently, not at all under vmap."""
    for name, m in learner.named_modules():
        if isinstance(m, nn.modules.batchnorm._BatchNorm) and m.track_running_stats:
            raise ValueError(
                "a learner must be a function of its parameters, so that episodes do not change it; its layer "
                f"{name!r} keeps running statistics: use BatchNorm of l2o.learners.batch_norm, or "
                "track_running_stats=False."
            )
