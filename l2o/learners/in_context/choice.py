"""Choosing an option for texts: scores that do not depend on the order of options, calibrated if so wished."""

from __future__ import annotations

from collections.abc import Sequence
from typing import NamedTuple

import torch
from jaxtyping import Float
from torch import Tensor

from l2o.learners.adaptation import Adaptation
from l2o.learners.base import Fast
from l2o.tasks.data.text_tasks import Pair, check_options
from l2o.tasks.text_episodes import Format, encode
from l2o.types import device_of, tree_to

NOTHING = ("N/A", "[MASK]", "")
"""Inputs without content (Zhao et al., 2021, section 5)."""


class Choice(NamedTuple):
    """What was chosen for each text.

    outputs: the options.
    scores: of all options, in their given order: mean log-likelihoods, calibrated if so wished.
    """

    outputs: list[str]
    scores: Float[Tensor, "n options"]


@torch.no_grad()
def choose_options(
    adaptation: Adaptation,
    format: Format,
    options: Sequence[str],
    demonstrations: Sequence[Pair],
    texts: Sequence[str],
    calibrated: bool = False,
    steps: int | None = None,
) -> Choice:
    """The best option for each text, after adaptation to demonstrations.

    Options are scored in alphabetical order whatever the given one, so that not even rounding depends on it; of equal
    scores the first in the alphabet wins.

    Arguments:
        adaptation: of a `TextLearner`.
        calibrated: subtract what an option gets for inputs without content (Zhao et al., 2021,
            https://arxiv.org/abs/2102.09690: divide by its probability there); direct models only.
        steps: in place of the adaptation's own.

    Raises:
        ValueError: options that are none, outputs that are no options; a channel model that is to be calibrated.
    """
    check_options(options, "the choice")
    if calibrated and format.method == "channel":
        raise ValueError(
            "a channel model must not be calibrated, because it scores the input, of which no option is more likely by "
            "itself; got calibrated=True."
        )
    ordered = sorted(options)
    training = adaptation.training
    adaptation.eval()
    try:
        support = tree_to(encode(format, ordered, demonstrations, ()).support, device_of(adaptation))
        num = adaptation.steps if steps is None else steps
        fast = adaptation.adapt(support, num)
        scores = _scores(adaptation, format, ordered, fast, texts, num)
        if calibrated:
            scores = scores - _scores(adaptation, format, ordered, fast, NOTHING, num).mean(0)
    finally:
        adaptation.train(training)
    best = scores.argmax(1).tolist()
    return Choice([ordered[i] for i in best], scores[:, [ordered.index(option) for option in options]])


def _scores(
    adaptation: Adaptation, format: Format, options: Sequence[str], fast: Fast, texts: Sequence[str], steps: int
) -> Float[Tensor, "n options"]:
    rows = format.rows(texts, options).to(device_of(adaptation))
    return adaptation.learner.predict_at(fast, rows, steps)
