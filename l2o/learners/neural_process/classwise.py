"""Neural processes that answer for every class of labels by the same network."""

from __future__ import annotations

from jaxtyping import Float, Shaped
from torch import Tensor

from l2o.learners.answers import answers
from l2o.learners.base import one_hot
from l2o.learners.neural_process.base import NeuralProcess
from l2o.tasks.episodes import Examples


class ClasswiseProcess(NeuralProcess):
    """A process whose network reads points with values, and where labels are predicted, reads them class by class.

    Names of classes mean nothing: what it reads for a class is the points, and of each whether it is of that class;
    what it gives at a target is the class's logit. So renamed classes are renamed predictions, no weight depends on how
    many there are (see `way`), and what is learned of one class is learned of all.

    Shapes of what a network reads: (*c, n, numbers), where *c are the axes of stacked episodes, and after them one of
    classes where labels are predicted; so fast variables have that axis too.

    Arguments: see `NeuralProcess`.
    """

    @property
    def way(self) -> int:
        """Classes that are told apart, any number of them; of values, numbers in one."""
        return self.outputs

    @way.setter
    def way(self, way: int) -> None:
        if not self.classifies or way < 1:
            raise ValueError(f"way is a number of classes, at least 1, of a learner of labels; got {way}.")
        self.outputs = way

    @property
    def axes(self) -> int:
        """Of what the network reads of one episode."""
        return 3 if self.classifies else 2

    @property
    def num_answers(self) -> int:
        """Numbers of a value, as the network reads it."""
        return 1 if self.classifies else self.outputs

    @property
    def num_numbers(self) -> int:
        """Numbers that the network gives at a target."""
        return 1 if self.classifies else 2 * self.outputs

    def asked(self, x: Shaped[Tensor, "*n"]) -> Float[Tensor, "*c m inputs"]:
        """Inputs as the network reads them."""
        return self._by_class(self.embed(x))

    def told(self, examples: Examples) -> tuple[Float[Tensor, "*c n inputs"], Float[Tensor, "*c n answers"]]:
        """Inputs and values as the network reads them."""
        x = self.embed(examples.x)
        return self._by_class(x), self.values(examples, x)

    def values(self, examples: Examples, x: Float[Tensor, "*b n inputs"]) -> Float[Tensor, "*c n answers"]:
        """Values, or for each class whether a label is it, as the network reads them; in the dtype of inputs."""
        if self.classifies:
            return one_hot(examples.y, self.outputs, x).mT.unsqueeze(-1)
        return answers(examples.y, self.outputs, x)

    def shaped(self, numbers: Float[Tensor, "*c m numbers"], samples: bool = False) -> Float[Tensor, "*n"]:
        """What the network gives, as a prediction.

        Arguments:
            samples: there is an axis of them before the points.
        """
        if self.classifies:
            return numbers.squeeze(-1).movedim(-3 if samples else -2, -1)
        return numbers.unflatten(-1, (self.outputs, 2))

    def _by_class(self, x: Float[Tensor, "*b n inputs"]) -> Float[Tensor, "*c n inputs"]:
        return x.unsqueeze(-3).expand(*x.shape[:-2], self.outputs, *x.shape[-2:]) if self.classifies else x
