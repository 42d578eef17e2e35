"""What a recipe is: how a named learner is made of what is given, and the settings that its paper trains it with."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import dataclass, field
from typing import Any, NamedTuple

from torch import nn

from l2o.learners.answers import features_of
from l2o.learners.backbones import MLP
from l2o.learners.base import Learner
from l2o.rules.base import UpdateRule
from l2o.rules.hand_designed import SGD

Network = Callable[..., nn.Module]
"""Makes the usual network for a suite's inputs, with so many outputs (0: an embedding)."""


class Given(NamedTuple):
    """What a learner is made from.

    make: the network.
    outputs: of a network that answers by itself.
    way: classes of an episode; None where they vary.
    steps: of the inner rule.
    options: keywords that `make` has been given, for learners with a network of their own.
    inputs: numbers in an input, for learners that read it as it is; None where it is no vector.
    classifies: whether answers are labels.
    rows: of the largest support set.
    """

    make: Network
    outputs: int
    way: int | None
    steps: int
    options: Mapping[str, Any]
    inputs: int | None
    classifies: bool
    rows: int


@dataclass(frozen=True)
class Recipe:
    """A learner by name.

    Arguments:
        learner: made from what is given.
        rule: from (the learner, inner rate), the inner rule; None for learners without steps of their own.
        classifies: whether it needs labels, and takes any number of classes in an episode.
        learns_rule: whether the rule's theta is trained too.
        estimator: episodic or reptile.
        settings: what it is trained with where nothing else is said; names are those of `LearnConfig`.
    """

    learner: Callable[[Given], Learner]
    rule: Callable[[Learner, float], UpdateRule] | None = None
    classifies: bool = False
    learns_rule: bool = False
    estimator: str = "episodic"
    settings: Mapping[str, Any] = field(default_factory=dict)


# a start without steps: queries are judged alone, by the statistics of training episodes
FEED_FORWARD = {"norm": "running", "inner_steps": 0}
# what has an output for each class learns more from many episodes than from many queries, each of which costs about as
# much as an example
FEW_QUERIES = FEED_FORWARD | {"num_episodes": 16, "train_query": 3}


def reader(given: Given) -> nn.Module:
    """What embeds for learners that have layers of their own behind it: vectors go through a linear one."""
    network = given.make(0)
    return network if given.inputs is None else MLP((given.inputs, features_of(network)))


def sgd(learner: Learner, lr: float) -> UpdateRule:
    """Gradient descent, the inner rule of most."""
    return SGD(lr)
