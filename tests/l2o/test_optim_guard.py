import copy
import io
import math
import pickle

import pytest
import torch
from torch import nn

import l2o
from l2o.optim import LearnedOptimizer, Watchdog
from l2o.optim.guard import Watch, mended
from l2o.rules import SGD, AdamW, OptState, UpdateRule
from l2o.rules.base import zero_step


class Wild(UpdateRule):
    """Climbs, ever faster."""

    def init(self, params, total_steps=None):
        return OptState(zero_step(params), {name: {"pace": torch.ones_like(p)} for name, p in params.items()}, {})

    def forward(self, grads, state, params, loss=None):
        slots = {name: {"pace": 1.5 * state.slots[name]["pace"]} for name in params}
        return {name: g * slots[name]["pace"] for name, g in grads.items()}, OptState(state.step + 1, slots, {})


def bowl():
    return nn.Parameter(torch.tensor([1.0, -2.0]))


def step(p, optimizer):
    optimizer.zero_grad()
    loss = p.square().sum()
    loss.backward()
    optimizer.step(loss=loss)
    return loss.item()


def test_mended_is_the_largest_finite_magnitude_and_zero():
    x = torch.tensor([1.0, math.nan, math.inf, -math.inf, -3.0])
    assert torch.equal(mended(x), torch.tensor([1.0, 0.0, 3.0, -3.0, -3.0]))
    assert torch.equal(mended(torch.tensor([math.inf, math.nan])), torch.zeros(2))
    assert mended(y := torch.ones(2)) is y


def test_clipping_takes_the_step_of_the_mended_gradient_and_counts_it():
    p, q = bowl(), bowl()
    optimizer, plain = LearnedOptimizer([p], "adam", nonfinite="clip"), LearnedOptimizer([q], "adam")
    p.grad, q.grad = torch.tensor([math.nan, 2.0]), torch.tensor([0.0, 2.0])
    with pytest.warns(RuntimeWarning, match=r"clips what is not finite: the loss is not\. .* said once"):
        optimizer.step(loss=math.nan)
    plain.step()
    assert torch.equal(p, q) and (optimizer.clipped_steps, optimizer.skipped_steps) == (1, 0)
    p.grad = torch.tensor([math.inf, math.nan])
    optimizer.step()  # told once
    assert optimizer.clipped_steps == 2 and p.isfinite().all()
    assert pickle.loads(pickle.dumps(optimizer)).clipped_steps == 2


def test_updates_that_are_not_finite_are_clipped_too():
    p = bowl()
    optimizer = LearnedOptimizer([p], SGD(lr=1e30), nonfinite="clip")
    p.grad = torch.tensor([1e30, 1.0])
    with pytest.warns(RuntimeWarning, match="the update of parameter 0"):
        optimizer.step()
    assert optimizer.clipped_steps == 1 and p.isfinite().all() and p[1] < -1e29


def test_what_clipping_does_not_help_is_skipped():
    p = bowl()
    optimizer = LearnedOptimizer([p], Wild(), nonfinite="clip")
    step(p, optimizer)
    optimizer.state[p]["pace"].fill_(3e38)
    before = p.detach().clone()
    with pytest.warns(RuntimeWarning, match="leaves out steps that are not finite: the state"):
        p.grad = torch.zeros(2)
        optimizer.step()
    assert torch.equal(p, before) and (optimizer.clipped_steps, optimizer.skipped_steps) == (0, 1)


def test_the_watchdog_goes_back_and_on_with_adamw():
    p, q = bowl(), bowl()
    optimizer = LearnedOptimizer([p], Wild(), watchdog=Watchdog(patience=3, lr=0.1))
    with pytest.warns(RuntimeWarning, match=r"falls back to AdamW at 0\.1, .* for 3 steps"):
        while optimizer.acting_rule is optimizer.rule:
            step(p, optimizer)
    assert isinstance(optimizer.acting_rule, AdamW) and isinstance(optimizer.rule, Wild)
    plain = LearnedOptimizer([q], AdamW(lr=0.1))
    q.data.copy_(p.detach())
    assert p.norm() < 10, "where it was before"
    losses = [step(p, optimizer) for _ in range(20)]
    assert losses == [step(q, plain) for _ in range(20)] and losses[-1] < losses[0]


def test_a_fallback_survives_checkpoints_and_copies():
    p = bowl()
    optimizer = LearnedOptimizer([p], Wild(), watchdog=Watchdog(patience=2, lr=0.1))
    with pytest.warns(RuntimeWarning, match="falls back"):
        while optimizer.acting_rule is optimizer.rule:
            step(p, optimizer)
    step(p, optimizer)
    file = io.BytesIO()
    torch.save([p.detach(), optimizer.state_dict()], file)
    file.seek(0)
    weights, state = torch.load(file, weights_only=True)
    q = nn.Parameter(weights.clone())
    resumed = LearnedOptimizer([q], Wild())
    resumed.load_state_dict(state)
    twin, copied = copy.deepcopy((p, optimizer))
    losses = [step(p, optimizer) for _ in range(3)]
    assert losses == [step(q, resumed) for _ in range(3)] == [step(twin, copied) for _ in range(3)]
    fresh = LearnedOptimizer([r := bowl()], Wild())
    step(r, fresh)
    resumed.load_state_dict(fresh.state_dict())
    assert isinstance(resumed.acting_rule, Wild), "an older state dict brings the rule back"


def test_steps_that_are_not_finite_wake_the_watchdog():
    p = bowl()
    optimizer = LearnedOptimizer([p], "adam", watchdog=Watchdog(patience=2, snapshot_every=0))
    p.grad = torch.full((2,), math.nan)
    with pytest.warns(RuntimeWarning, match="leaves out|falls back to AdamW at 0.001") as told:
        optimizer.step()
        optimizer.step()
    assert len(told) == 2 and "stay as they are" in str(told[1].message)


def test_without_a_loss_the_watchdog_says_so_once_and_rests():
    p = bowl()
    optimizer = LearnedOptimizer([p], "adam", watchdog=Watchdog())
    p.grad = torch.ones(2)
    with pytest.warns(RuntimeWarning, match="the watchdog sees no loss") as told:
        optimizer.step()
        optimizer.step()
    assert len(told) == 1


def test_what_is_maximised_may_rise():
    p = bowl()
    optimizer = LearnedOptimizer([p], SGD(lr=0.3), maximize=True, watchdog=Watchdog(patience=1))
    losses = [step(p, optimizer) for _ in range(10)]
    assert losses[-1] > 10 * losses[0] and isinstance(optimizer.acting_rule, SGD)


@pytest.mark.parametrize("sign", [1.0, -1.0])
def test_noise_about_the_beginning_is_no_divergence(sign):
    watch = Watch(Watchdog(patience=3))
    noise = torch.rand(500, generator=torch.Generator().manual_seed(0)).tolist()
    assert not any(watch.sees(sign * (1 + 0.5 * x), False, []) for x in noise)
    assert [watch.sees(abs(4.0), False, []) for _ in range(3)] == [False, False, True]


@pytest.mark.parametrize(
    ("kwargs", "match"),
    [
        ({"factor": 1.0}, "factor must be above 1"),
        ({"patience": 0}, "patience must be"),
        ({"lr": math.inf}, "lr must be positive"),
        ({"snapshot_every": -1}, "snapshot_every must not be negative"),
    ],
)
def test_bad_watchdogs_are_refused(kwargs, match):
    with pytest.raises(ValueError, match=match):
        l2o.Watchdog(**kwargs)
