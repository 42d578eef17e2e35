"""A hypernetwork as a learner: the support set is turned into the weights of the network that answers queries."""

from __future__ import annotations

from collections.abc import Sequence

from jaxtyping import Float, Shaped
from torch import Tensor, nn
from torch.func import functional_call

from l2o.learners.answers import answers, check_outputs, features_of, unit_rms
from l2o.learners.base import Fast, Learner, loss_of
from l2o.learners.black_box.set_encoder import SetEncoder
from l2o.learners.black_box.weight_generator import WeightGenerator
from l2o.learners.transforms import has_ties
from l2o.tasks.episodes import Examples


class Hypernetwork(Learner):
    """Encodes the support set as a set, and generates a network's weights from the code.

    The fast variables are the generated weights: zero steps are the feed-forward answer, and any rule refines them as
    it would MAML's. The order of the support set is of no meaning. See `SetEncoder` and `WeightGenerator`.

    Arguments:
        network: the target network, all of whose weights are generated; as given it says their shapes, and the
            variance that they start with.
        encoder: maps inputs (n, *features) to embeddings (n, dim).
        outputs: of the target network: classes in an episode, or numbers in a target.
        embedded: whether the target network reads embeddings in place of inputs. Large encoders are then shared by all
            tasks, and only what comes behind is generated.
        size: numbers in an example's part of the code.
        hidden: units of the generator's layers.
        chunk: weights that are generated at a time, by shared heads; None for a head of its own for each tensor.
        num_features: numbers in an embedding; None for the encoder's `num_features`.
    """

    def __init__(
        self,
        network: nn.Module,
        encoder: nn.Module,
        outputs: int,
        embedded: bool = False,
        size: int = 64,
        hidden: Sequence[int] = (100, 100),
        chunk: int | None = None,
        num_features: int | None = None,
    ) -> None:
        super().__init__()
        buffers = [name for name, _ in network.named_buffers()]
        if buffers or has_ties(network):
            raise ValueError(
                "the target network must have parameters only, each under one name, because all of it is generated; "
                f"got buffers {buffers} (normalisation by `running` statistics has such) or shared parameters."
            )
        self.encoder, self.outputs, self.embedded = encoder, check_outputs(outputs), embedded
        self.target = (network,)  # in a tuple: its own weights are no slow weights
        self.set_encoder = SetEncoder(features_of(encoder, num_features), outputs, size)
        self.generator = WeightGenerator(network, self.set_encoder.num_features, tuple(hidden), chunk)

    def start(self, support: Examples) -> Fast:
        z = self.encoder(support.x)
        return self.generator(unit_rms(self.set_encoder(z, answers(support.y, self.outputs, z))))

    def inner_loss(self, fast: Fast, support: Examples) -> Float[Tensor, ""]:
        return loss_of(self.predict(fast, support.x), support.y)

    def predict(self, fast: Fast, x: Shaped[Tensor, " n *features"]) -> Float[Tensor, " n *outputs"]:
        return functional_call(self.target[0], fast, (self.encoder(x) if self.embedded else x,), tie_weights=False)
