from collections.abc import Callable
from functools import partial

import numpy as np
import pytest
import torch

from l2o.rules import MLPRule
from l2o.rules.features import init_averages, rms_scale, split_rates, stack_features, update_averages
from l2o.rules.mlp import TIMESCALES
from l2o.types import seeded


def test_it_has_39_features_and_197_numbers_at_the_published_size() -> None:
    rule = MLPRule()
    assert rule.net.weights[0].shape == (4, 39)
    assert sum(p.numel() for p in rule.net.parameters()) == 190
    assert sum(p.numel() for p in rule.parameters()) == 197
    assert sum(p.numel() for p in MLPRule(hidden_size=32).net.parameters()) == 39 * 32 + 32 + 32 * 32 + 32 + 32 * 2 + 2


def test_a_step_equals_the_network_written_out_for_each_coordinate() -> None:
    rule = MLPRule().double()
    params = {"w": torch.randn(4, 3, generator=seeded(0), dtype=torch.float64)}
    grads = {"w": torch.randn(4, 3, generator=seeded(1), dtype=torch.float64)}
    with torch.no_grad():
        for p in rule.parameters():
            p += 0.1 * torch.randn(p.shape, generator=seeded(2), dtype=p.dtype)
        state = rule.init(params)._replace(step=torch.tensor(17))
        found = rule(grads, state, params)[0]["w"].numpy()

        rates = rule.rates * torch.exp(10 * torch.cat(list(rule.decays)))
        slot = update_averages(init_averages(params["w"]), grads["w"], *split_rates(rates.clamp(max=1.0)))
        features = stack_features(params["w"], grads["w"], slot)
        features = features * rms_scale(features, eps=1e-5).view(-1, 1, 1)
    weights = [w.detach().numpy() for w in rule.net.weights]
    biases = [b.detach().numpy() for b in rule.net.biases]
    time = np.tanh(17 / np.array(TIMESCALES) - 1)
    for i in range(4):
        for j in range(3):
            z = np.concatenate([features[:, i, j].numpy(), time])
            for layer in range(3):
                z = weights[layer] @ z + biases[layer]
                z = np.maximum(z, 0) if layer < 2 else z
            assert found[i, j] == pytest.approx(-1e-3 * z[0] * np.exp(1e-3 * z[1]))


def test_decays_are_learned() -> None:
    rule = MLPRule().double()
    params = {"w": torch.ones(3, dtype=torch.float64)}
    with torch.no_grad():
        rule.decays[0].copy_(torch.tensor([np.log(2.0) / 10, 0.0, 1.0]))
        _, state = rule({"w": torch.ones(3, dtype=torch.float64)}, rule.init(params), params)
    # 1 - decay: doubled, as it was, and no more than 1
    expected = torch.tensor([0.2, 0.01, 1.0], dtype=torch.float64)
    torch.testing.assert_close(state.slots["w"]["momenta"][:, 0], expected, rtol=1e-5, atol=0)


def test_the_gradients_scale_hardly_matters() -> None:
    rule = MLPRule()
    params = {"w": torch.randn(6, 5, generator=seeded(0))}
    grad = torch.randn(6, 5, generator=seeded(1))
    with torch.no_grad():
        one, ten = (rule({"w": c * grad}, rule.init(params), params)[0]["w"] for c in (30.0, 300.0))
    assert torch.nn.functional.cosine_similarity(one.flatten(), ten.flatten(), dim=0) > 0.95


@pytest.mark.parametrize(
    ("make", "message"),
    [
        (partial(MLPRule, hidden_size=0), "needs a hidden unit; got size=0"),
        (partial(MLPRule, step_scale=0.0), "step_scale must be > 0"),
        (partial(MLPRule, max_gradient=-1.0), "max_gradient must be > 0"),
        (partial(MLPRule, momentum_decays=(0.9, 0.99)), "3 momentum, 1 second and 3 factored decays"),
        (partial(MLPRule, second_decays=(1.0,)), "second_decays must be"),
    ],
)
def test_bad_arguments_are_refused(make: Callable, message: str) -> None:
    with pytest.raises(ValueError, match=message):
        make()
