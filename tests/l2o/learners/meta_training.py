"""A short meta-training, to see that a learner learns."""

from collections.abc import Callable

import torch

from l2o.learners import Adaptation, meta_grad
from l2o.learners.meta_grad import MetaGrad
from l2o.tasks.episodes import Episode


def meta_train(adaptation: Adaptation, draw: Callable[[int], Episode], steps: int, lr: float) -> list[MetaGrad]:
    """What each of so many steps of Adam found, on the episodes that are drawn for it."""
    optimizer, found = torch.optim.Adam(adaptation.parameters(), lr), []
    for i in range(steps):
        found.append(meta_grad(adaptation, draw(i)))
        for name, p in adaptation.named_parameters():
            p.grad = found[-1].grads[name]
        optimizer.step()
    return found
