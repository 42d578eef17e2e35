"""MAML (Finn et al., 2017, https://arxiv.org/abs/1703.03400), and which part of a network adapts."""

from __future__ import annotations

from collections.abc import Sequence

from jaxtyping import Float, Shaped
from torch import Tensor, nn
from torch.func import functional_call

from l2o.learners.base import Fast, Learner, loss_of
from l2o.learners.transforms import has_ties
from l2o.tasks.episodes import Examples


class MAML(Learner):
    """The fast variables are the network's weights; they start where the slow ones are.

    With `SGD` as rule and order `full` this is MAML, with order `first` first-order MAML; with the estimator `Reptile`
    it is Reptile. ANIL (Raghu et al., 2020, https://arxiv.org/abs/1909.09157) adapts the head only:
    `adapted=("head.",)`; BOIL (Oh et al., 2021, https://arxiv.org/abs/2008.08882) all but the head:
    `frozen=("head.",)`.

    Arguments:
        network: maps inputs (n, *features) to scores or values (n, *outputs).
        adapted: prefixes of the parameters that adapt; all if empty.
        frozen: prefixes of parameters that do not.
    """

    def __init__(self, network: nn.Module, adapted: Sequence[str] = (), frozen: Sequence[str] = ()) -> None:
        super().__init__()
        self.network = network
        names = [name for name, _ in network.named_parameters()]
        for prefix in (*adapted, *frozen):
            if not any(name.startswith(prefix) for name in names):
                raise ValueError(f"a prefix must fit a parameter of the network, {names}; got {prefix!r}.")
        self._tied = has_ties(network)
        self.adapted = [
            name for name in names if name.startswith(tuple(adapted) or "") and not name.startswith(tuple(frozen))
        ]
        if not self.adapted:
            raise ValueError(
                f"something must adapt; adapted={tuple(adapted)} and frozen={tuple(frozen)} leave nothing."
            )

    def start(self, support: Examples) -> Fast:
        slow = dict(self.network.named_parameters())
        return {name: slow[name] for name in self.adapted}

    def inner_loss(self, fast: Fast, support: Examples) -> Float[Tensor, ""]:
        return loss_of(self.predict(fast, support.x), support.y)

    def predict(self, fast: Fast, x: Shaped[Tensor, " n *features"]) -> Float[Tensor, " n *outputs"]:
        return functional_call(self.network, fast, (x,), tie_weights=self._tied)
