from functools import partial

import pytest
import torch
from torch import nn

import l2o
from l2o.learners import NTM
from l2o.rules import Adam
from l2o.tasks import AssociativeRecall, Copy, SequenceTask
from l2o.tasks.sequences import SequenceFamily, bit_loss, bits_wrong
from l2o.types import seeded

SOURCE = Copy(bits=2, length=(1, 4))
MAKE = partial(NTM, SOURCE.inputs, SOURCE.outputs, controller=8, rows=6, width=4)


def test_steps_that_fill_up_do_not_count() -> None:
    task = SequenceTask(MAKE, SOURCE, batch_size=3)
    params = task.init(seeded(0))
    lengths = set()
    for seed in range(10):
        batch, drawn = task.sample_batch(seeded(seed)), SOURCE.sample(seeded(seed), 3)
        assert batch.x.shape[1] == SOURCE.longest
        logits = task.call(params, drawn.x)
        torch.testing.assert_close(task.loss(params, batch), bit_loss(logits, drawn))
        assert task.wrong(params, batch) == bits_wrong(logits, drawn).mean()
        lengths.add(drawn.x.shape[1])
    assert len(lengths) > 1


def test_parameters_are_the_modules_own() -> None:
    task, model = SequenceTask(MAKE, SOURCE), MAKE()
    params = task.init(seeded(0))
    model.load_state_dict(params)
    x = task.sample_batch(seeded(1)).x
    torch.testing.assert_close(model(x), task.call(params, x))


def test_a_rule_learns_to_copy_a_bit() -> None:
    task = SequenceTask(MAKE, Copy(bits=2, length=(1, 1)), batch_size=16)
    loop = l2o.InnerLoop(task, Adam(0.02))
    theta = {name: p.detach() for name, p in loop.rule.named_parameters()}
    state = loop.reset(seeded(0))
    assert task.wrong(state.params, task.sample_batch(seeded(9))) > 0.3
    generator = seeded(1)
    state, losses = loop.unroll(theta, state, [task.sample_batch(generator) for _ in range(120)])
    assert losses[-1] < 0.2 < 0.5 < losses[0]
    assert task.wrong(state.params, task.sample_batch(seeded(9))) < 0.1


def test_a_family_draws_a_source_and_makes_a_model_of_its_sizes() -> None:
    family = SequenceFamily(nn.Linear, (SOURCE, AssociativeRecall()), (2, 3))
    drawn = {(type(t.source), t.batch_size) for t in (family.sample(seeded(i)) for i in range(30))}
    assert len(drawn) == 4
    task = family.sample(seeded(0))
    assert task.loss(task.init(seeded(0)), task.sample_batch(seeded(0))).isfinite()


def test_an_empty_batch_is_refused() -> None:
    with pytest.raises(ValueError, match="batch_size must be at least 1"):
        SequenceTask(MAKE, SOURCE, batch_size=0)
