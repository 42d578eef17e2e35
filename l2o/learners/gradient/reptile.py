"""Reptile's step of the slow weights (Nichol et al., 2018, https://arxiv.org/abs/1803.02999)."""

from __future__ import annotations

from torch import Tensor, nn

from l2o.learners.adaptation import Adaptation
from l2o.tasks.episodes import Episode


class Move(nn.Module):
    """Slow minus fast, by the slow weights' names, with the query loss and score after adaptation."""

    def __init__(self, adaptation: Adaptation) -> None:
        super().__init__()
        self.adaptation = adaptation

    def forward(self, episode: Episode) -> tuple[dict[str, Tensor], Tensor, Tensor]:
        start = self.adaptation.learner.start(episode.support)
        own = {id(value): name for name, value in self.adaptation.named_parameters()}
        if not all(id(value) in own for value in start.values()):
            raise ValueError(
                "Reptile needs a learner whose fast variables start as its own slow weights (MAML), because it moves "
                f"these towards them; {type(self.adaptation.learner).__name__} makes its own."
            )
        fast = self.adaptation.adapt(episode.support)
        outcome = self.adaptation.learner.judged(fast, episode.query, self.adaptation.steps)
        moved = {own[id(value)]: value - fast[name] for name, value in start.items()}
        return moved, outcome.loss, outcome.score
