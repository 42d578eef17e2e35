"""Advantages and losses against TorchRL's (see `tests/make_torchrl.py`) and against their formulas in plain loops."""

import numpy as np
import pytest
import torch
from torch.func import grad, vmap

from l2o.agents.advantages import discounted_sum, gae, normalised, vtrace
from l2o.agents.losses import a2c_loss, ppo_loss
from l2o.agents.policy import Categorical
from l2o.types import seeded
from tests import make_torchrl as oracle


@pytest.fixture(scope="module")
def kept():
    with np.load(oracle.ORACLE) as found:
        return {name: torch.from_numpy(found[name]) for name in found.files}


def steps(seed: int = 0, num: int = 7, *batch: int) -> dict[str, torch.Tensor]:
    generator = seeded(seed)
    x = {name: torch.randn(num, *batch, generator=generator).double() for name in ("reward", "value", "next_value")}
    x["terminated"] = torch.rand(num, *batch, generator=generator) < 0.2
    x["done"] = x["terminated"] | (torch.rand(num, *batch, generator=generator) < 0.3)
    return x


def numbers(x, *names):
    return [x[name] for name in names]


def test_advantages_equal_those_of_torchrl(kept):
    values = numbers(kept, "reward", "value", "next_value", "terminated", "done")
    found = gae(*values, oracle.DISCOUNT, oracle.DECAY)
    torch.testing.assert_close(found.advantage, kept["gae_advantage"])
    torch.testing.assert_close(found.target, kept["gae_target"])


def test_vtrace_equals_that_of_torchrl(kept):
    values = numbers(kept, "reward", "value", "next_value", "terminated", "done")
    found = vtrace(kept["log_pi"] - kept["log_mu"], *values, oracle.DISCOUNT, 1.0, oracle.RHO, oracle.C)
    torch.testing.assert_close(found.advantage, kept["vtrace_advantage"])
    torch.testing.assert_close(found.target, kept["vtrace_target"])


def test_losses_and_their_gradients_equal_those_of_torchrl(kept):
    value = kept["observation"] @ kept["critic"][0]

    def loss(weight, kind):
        distribution = Categorical(kept["observation"] @ weight.T)
        log_prob, entropy = distribution.log_prob(kept["action"]), distribution.entropy()
        rest = (kept["advantage"], entropy, value, kept["target"])
        if kind == "ppo":
            return ppo_loss(log_prob - kept["old_log_prob"], *rest, oracle.CLIP, oracle.ENTROPY, oracle.VALUE)
        return a2c_loss(log_prob, *rest, oracle.ENTROPY, oracle.VALUE)

    for kind in ("ppo", "a2c"):
        found = loss(kept["actor"], kind)
        parts = torch.stack([found.policy, oracle.VALUE * found.value, -oracle.ENTROPY * found.entropy])
        torch.testing.assert_close(parts, kept[kind])
        torch.testing.assert_close(found.total, parts.sum())
        gradient = grad(lambda w, kind=kind: loss(w, kind).total)(kept["actor"])
        torch.testing.assert_close(gradient, kept[f"{kind}_gradient"])


def test_the_doubled_sum_is_the_recursion():
    for num in (1, 2, 5, 8, 9):
        x, factor = torch.randn(2, num, 3, generator=seeded(num)).double()
        expected, later = [], torch.zeros(3).double()
        for i in reversed(range(num)):
            later = x[i] + factor[i] * later
            expected.insert(0, later)
        torch.testing.assert_close(discounted_sum(x, factor), torch.stack(expected))


def test_advantages_pass_no_end_of_an_episode():
    x = steps(num=4)
    x["done"] = torch.tensor([False, True, False, False])
    x["terminated"] = torch.zeros(4, dtype=torch.bool)
    before = gae(**x).advantage
    after = gae(**{**x, "reward": x["reward"] + torch.tensor([0.0, 0.0, 1.0, 1.0])}).advantage
    assert torch.equal(before[:2], after[:2])
    # a time limit counts the state that comes after; an end does not
    higher = {**x, "next_value": x["next_value"] + 1.0}
    assert (gae(**higher).advantage[1] - before[1]).item() == pytest.approx(0.99)
    ended = {**x, "terminated": x["done"]}
    assert torch.equal(gae(**{**higher, "terminated": x["done"]}).advantage[1], gae(**ended).advantage[1])


def test_vtrace_of_the_acting_policy_itself_is_gae_with_lambda_one():
    x = steps(num=6)
    x["next_value"][:-1] = torch.where(x["done"][:-1], x["next_value"][:-1], x["value"][1:])
    found = vtrace(torch.zeros(6).double(), **x, discount=0.9)
    expected = gae(**x, discount=0.9, decay=1.0)
    torch.testing.assert_close(found.target, expected.target)
    torch.testing.assert_close(found.advantage, expected.advantage)


def test_hyperparameters_have_right_gradients_one_a_lane():
    x = steps(1, 6, 3)

    def worth(discount, decay, lane):
        return (gae(*lane, discount, decay).advantage ** 2).sum()

    lane_first = [value.T for value in x.values()]
    settings = torch.tensor([0.9, 0.95, 0.99]).double(), torch.tensor([0.5, 0.9, 1.0]).double()
    found = vmap(grad(worth, argnums=(0, 1)))(*settings, lane_first)
    for i in range(3):
        lane, own = [value[i] for value in lane_first], [s[i] for s in settings]
        for j, gradient in enumerate(found):
            shift = [torch.tensor(1e-6 * (k == j)).double() for k in range(2)]
            up, down = (worth(own[0] + sign * shift[0], own[1] + sign * shift[1], lane) for sign in (1, -1))
            torch.testing.assert_close(gradient[i], (up - down) / 2e-6, rtol=1e-5, atol=1e-6)


def test_ppo_stops_where_the_ratio_is_past_the_clip_and_begins_as_a2c():
    log_prob = torch.tensor([-1.0, -0.5, -2.0])
    advantage = torch.tensor([1.0, 1.0, -1.0])
    rest = (torch.zeros(3), torch.zeros(3), torch.zeros(3))

    def policy(new, old, clip=0.2):
        return ppo_loss(new - old, advantage, *rest, clip).policy

    first = grad(policy)(log_prob, log_prob)
    torch.testing.assert_close(first, grad(lambda p: a2c_loss(p, advantage, *rest).policy)(log_prob))
    old = log_prob - torch.tensor([0.5, 0.1, -0.5])  # up beyond the clip, within it, down beyond the clip
    past = grad(policy)(log_prob, old)
    assert past[0] == 0.0 and past[1] != 0.0 and past[2] == 0.0
    tensor = vmap(policy, in_dims=(None, None, 0))(log_prob, old, torch.tensor([0.05, 0.2]))
    assert torch.equal(tensor, torch.stack([policy(log_prob, old, 0.05), policy(log_prob, old, 0.2)]))


def test_normalised_advantages_have_mean_zero_and_deviation_one_and_constant_ones_are_finite():
    x = normalised(torch.tensor([1.0, 2.0, 6.0]))
    assert abs(x.mean()) < 1e-6 and x.std(unbiased=False) == pytest.approx(1.0, abs=1e-4)
    assert grad(lambda a: normalised(a).sum())(torch.ones(3)).isfinite().all()
