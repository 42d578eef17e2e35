"""Every learner is a task: a learned optimizer can train its slow weights in place of Adam."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass

import torch
from jaxtyping import Float
from torch import Generator, Tensor
from torch.func import functional_call, vmap

from l2o.learners.adaptation import Adaptation
from l2o.learners.gradient.reptile import Move
from l2o.learners.meta_grad import lanes_of
from l2o.tasks.episodes import Episode, EpisodeFamily
from l2o.tasks.module import ModuleTask, template
from l2o.types import Batch, Params, tree_map


@dataclass(frozen=True)
class EpisodicTask(ModuleTask):
    """Train a learner: parameters are its slow weights and its rule's theta, batches are episodes, the loss is theirs.

    Arguments:
        make: makes a fresh adaptation; a function of the module level, or a `partial` of one, so that the task can be
            sent. Tasks that share it run side by side.
        family: where episodes come from.
        num_episodes: episodes of a batch.
        batching: loop, vmap or auto, see `meta_grad`.
    """

    make: Callable[[], Adaptation]
    family: EpisodeFamily
    num_episodes: int = 4
    batching: str = "auto"

    def __post_init__(self) -> None:
        super().__post_init__()
        if self.num_episodes < 1:
            raise ValueError(f"num_episodes must be at least 1, because a loss needs one; got {self.num_episodes}.")
        if self.batching not in ("auto", "loop", "vmap"):
            raise ValueError(f"batching must be auto, loop or vmap, those of a loss; got {self.batching!r}.")

    def sample_batch(self, generator: Generator) -> Batch:
        return self.family.sample_many(generator, self.num_episodes)

    def sample_batches(self, generator: Generator, num: int) -> Batch:
        episodes = self.family.sample_many(generator, num * self.num_episodes)
        return tree_map(lambda x: x.unflatten(0, (num, self.num_episodes)), episodes)

    def loss(self, params: Params, batch: Batch) -> Float[Tensor, ""]:
        adaptation, params = template(self.make), self.whole(params)

        def query_loss(episode: Episode) -> Float[Tensor, ""]:
            return self.episode_loss(adaptation, params, episode)

        if lanes_of(self.batching, adaptation, batch, self.num_episodes):
            return vmap(query_loss, randomness="different")(batch).mean()
        each = [query_loss(tree_map(lambda x, i=i: x[i], batch)) for i in range(self.num_episodes)]
        return torch.stack(each).mean()

    def episode_loss(self, adaptation: Adaptation, params: Params, episode: Episode) -> Float[Tensor, ""]:
        """The query loss of one episode, after adaptation from these slow weights."""
        return functional_call(adaptation, params, (episode,)).loss


class ReptileTask(EpisodicTask):
    """The same with Reptile's direction for a gradient: slow minus fast weights (Nichol et al., 2018, algorithm 2).

    The loss is still the query loss after adaptation, which this direction need not lower.
    """

    def episode_loss(self, adaptation: Adaptation, params: Params, episode: Episode) -> Float[Tensor, ""]:
        still = {f"adaptation.{name}": p.detach() for name, p in params.items()}
        moved, loss, _ = functional_call(Move(adaptation), still, (episode,))
        pull = torch.stack([(params[name] * d.detach()).sum() for name, d in moved.items() if name in params]).sum()
        return loss.detach() + pull - pull.detach()
