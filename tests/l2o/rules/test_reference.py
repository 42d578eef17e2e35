"""Steps of the reference implementations, run once on inputs that a formula gives (float32, to six digits)."""

import math

import pytest
import torch

from l2o.rules import MatrixRule, MLPRule, UpdateRule


def wave(shape: tuple[int, ...], frequency: float) -> torch.Tensor:
    """sin(frequency * i), i = 1, 2, ..., in row-major order."""
    index = torch.arange(1, math.prod(shape) + 1, dtype=torch.float64)
    return torch.sin(frequency * index).float().reshape(shape)


def steps_taken(rule: UpdateRule, shape: tuple[int, ...]) -> torch.Tensor:
    """What four steps of the rule add to a parameter, with gradients that grow tenfold a step."""
    start = wave(shape, 0.3)
    params, state = {"p": start}, rule.init({"p": start})
    for step in range(4):
        grads = {"p": 10.0 ** (step - 2) * wave(shape, 2.0 + 0.37 * step)}
        updates, state = rule(grads, state, params)
        params = {"p": params["p"] + updates["p"]}
    return (params["p"].double() - start.double()).flatten()


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
        moved = steps_taken(rule, {"matrix": (5, 3), "vector": (4,), "rank 3": (2, 3, 4)}[name])
    expected = torch.tensor(SMALL_FC_LOPT[name], dtype=torch.float64)
    torch.testing.assert_close(moved, expected, rtol=0.0, atol=5e-7)


# what Celo2Transformation of amoudgl/celo at 66d9761 (without and with orthogonalisation) times 1e-3 adds in 4 steps
CELO2 = {
    False: [
        -0.0014600,
        0.0008289,
        -0.0009105,
        -0.0000569,
        0.0005283,
        0.0028927,
        -0.0000595,
        -0.0013698,
        -0.0002070,
        0.0000131,
        -0.0005905,
        -0.0009220,
        0.0020915,
        0.0043824,
        0.0013708,
    ],
    True: [
        -0.0007140,
        0.0009120,
        -0.0005368,
        0.0003403,
        0.0011954,
        0.0038758,
        -0.0007202,
        -0.0000160,
        -0.0008977,
        0.0002509,
        -0.0015654,
        -0.0024910,
        0.0024216,
        0.0028768,
        0.0004594,
    ],
}


@pytest.mark.parametrize("orthogonalize", CELO2)
def test_the_matrix_rule_takes_the_steps_of_celo2(orthogonalize: bool) -> None:
    rule = MatrixRule(residual=False, orthogonalize=orthogonalize)
    with torch.no_grad():
        for weight, shape, frequency in zip(rule.net.weights, ((30, 8), (8, 8), (8, 1)), (1.1, 1.3, 1.5), strict=True):
            weight.copy_(wave(shape, frequency).T)
        for bias, frequency in zip(rule.net.biases[:2], (1.2, 1.4), strict=True):
            bias.copy_(0.1 * wave((8,), frequency))
        rule.net.biases[2].fill_(0.03)
        moved = steps_taken(rule, (5, 3))
    torch.testing.assert_close(moved, torch.tensor(CELO2[orthogonalize], dtype=torch.float64), rtol=0.0, atol=5e-7)
