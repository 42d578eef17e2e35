"""A short training, to see that a learner learns."""

from collections.abc import Callable

import torch

from l2o.learners import Adaptation, EpisodicTask, Learner
from l2o.tasks.episodes import EpisodeFamily
from l2o.training.judge import judge
from l2o.types import seeded


def accuracy_after(
    make: Callable[[], Learner], family: EpisodeFamily, steps: int, lr: float = 1e-2
) -> tuple[float, float]:
    """The score on held-out episodes before and after so many steps of Adam on 16 episodes each."""
    adaptation = Adaptation(make())
    task = EpisodicTask(lambda: adaptation, family, num_episodes=16)
    params = {name: p for name, p in adaptation.named_parameters() if p.requires_grad}
    optimizer = torch.optim.Adam(params.values(), lr=lr)
    before = judge(adaptation, family, 100, seed=1).score(0)[0]
    for i in range(steps):
        optimizer.zero_grad()
        task.loss(params, task.sample_batch(seeded(100 + i))).backward()
        optimizer.step()
    return before, judge(adaptation, family, 100, seed=1).score(0)[0]
