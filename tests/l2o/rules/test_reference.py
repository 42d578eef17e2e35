"""Steps of the reference implementations, run once on inputs that a formula gives (float32, to six digits)."""

import math

import pytest
import torch

from l2o.rules import MLPRule


def wave(shape: tuple[int, ...], frequency: float) -> torch.Tensor:
    """sin(frequency * i), i = 1, 2, ..., in row-major order."""
    index = torch.arange(1, math.prod(shape) + 1, dtype=torch.float64)
    return torch.sin(frequency * index).float().reshape(shape)


# what AdafacMLPLOpt(hidden_size=4) of google/learned_optimization at 32186aa, jax 0.10.2, adds to parameters in 4 steps
SMALL_FC_LOPT = {
    "matrix": [
        -0.0022253,
        -0.0010508,
        -0.0010233,
        -0.0019743,
        0.0001470,
        -0.0012412,
        0.0002948,
        -0.0024127,
        -0.0008702,
        -0.0010103,
        -0.0025565,
        -0.0018995,
        -0.0030360,
        -0.0037833,
        -0.0033479,
    ],
    "vector": [-0.0028571, -0.0006317, -0.0008048, -0.0024821],
    "rank 3": [
        -0.0022162,
        -0.0007572,
        -0.0010965,
        -0.0016533,
        -0.0003363,
        -0.0011672,
        -0.0001448,
        -0.0021342,
        -0.0009648,
        -0.0005435,
        -0.0025663,
        -0.0020828,
        -0.0030064,
        -0.0042346,
        -0.0032071,
        -0.0039468,
        -0.0049434,
        -0.0011153,
        -0.0042152,
        -0.0019926,
        -0.0012473,
        -0.0023659,
        -0.0008535,
        -0.0018257,
    ],
}


@pytest.mark.parametrize("name", SMALL_FC_LOPT)
def test_the_mlp_takes_the_steps_of_small_fc_lopt(name: str) -> None:
    rule = MLPRule(hidden_size=4)
    with torch.no_grad():
        for weight, shape, frequency in zip(rule.net.weights, ((39, 4), (4, 4), (4, 2)), (1.1, 1.3, 1.5), strict=True):
            weight.copy_(wave(shape, frequency).T)
        for bias, frequency in zip(rule.net.biases, (1.2, 1.4, 1.6), strict=True):
            bias.copy_(0.1 * wave(tuple(bias.shape), frequency))
        for decays, frequency in zip(rule.decays, (0.8, 0.9, 0.7), strict=True):
            decays.copy_(0.02 * wave(tuple(decays.shape), frequency))
        shape = {"matrix": (5, 3), "vector": (4,), "rank 3": (2, 3, 4)}[name]
        start = wave(shape, 0.3)
        params, state = {"p": start}, rule.init({"p": start})
        for step in range(4):
            grads = {"p": 10.0 ** (step - 2) * wave(shape, 2.0 + 0.37 * step)}
            updates, state = rule(grads, state, params)
            params = {"p": params["p"] + updates["p"]}
    moved = (params["p"].double() - start.double()).flatten()
    expected = torch.tensor(SMALL_FC_LOPT[name], dtype=torch.float64)
    torch.testing.assert_close(moved, expected, rtol=0.0, atol=5e-7)
