import pytest
import torch

from l2o.learners import Adaptation

pytest.importorskip("transformers")

from l2o.learners.in_context.choice import choose_options
from tests.l2o.learners.in_context.colours import CHANNEL, FAMILY, LEARNERS, OPTIONS, TASK, model


@pytest.mark.parametrize("calibrated", [False, True])
def test_no_order_of_options_changes_a_choice(calibrated: bool) -> None:
    adaptation, texts = Adaptation(LEARNERS["prompt"](model())), [pair.input for pair in TASK.train[:5]]
    demonstrations = TASK.train[::3]
    first = choose_options(adaptation, FAMILY.format, OPTIONS, demonstrations, texts, calibrated)
    for order in ((2, 0, 1), (1, 2, 0), (0, 2, 1)):
        options = [OPTIONS[i] for i in order]
        again = choose_options(adaptation, FAMILY.format, options, demonstrations, texts, calibrated)
        assert again.outputs == first.outputs
        assert torch.equal(again.scores, first.scores[:, list(order)])


def test_calibration_takes_away_what_an_option_gets_for_nothing() -> None:
    adaptation = Adaptation(LEARNERS["prompt"](model()))
    given = (FAMILY.format, OPTIONS, TASK.train[::3])
    plain = choose_options(adaptation, *given, ["rose 1"]).scores
    nothing = choose_options(adaptation, *given, ["N/A", "[MASK]", ""]).scores
    found = choose_options(adaptation, *given, ["rose 1"], calibrated=True).scores
    torch.testing.assert_close(found, plain - nothing.mean(0))
    with pytest.raises(ValueError, match="a channel model must not be calibrated"):
        choose_options(adaptation, CHANNEL.format, *given[1:], ["rose 1"], calibrated=True)
