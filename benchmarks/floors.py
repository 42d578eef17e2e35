"""The least that a step can take: operations over the machine's rate, bytes over its bandwidth, whichever is longer.

Counts are of the formulas at their cheapest, read off the rules' papers and docstrings, not of any code: what belongs
to a row, a column or a tensor is done once there and counts nothing, and every number is read and written as seldom as
the order of the formulas allows. A square root or a reciprocal counts 4 operations, an exponential, logarithm, sigmoid
or hyperbolic tangent 10 (range reduction and a polynomial), a multiply-add 2.
"""

from __future__ import annotations

from dataclasses import astuple, dataclass, replace
from itertools import pairwise

import torch

from benchmarks.machine import bandwidth, matrix_rate, vector_rate

ROOT, EXPONENTIAL = 4, 10
FLOAT = 4
"""Bytes."""


@dataclass(frozen=True)
class Work:
    """What has to be done.

    Arguments:
        vector: operations on coordinates, in registers at best.
        matrix: operations of matrix products.
        half: the same in bfloat16.
        traffic: bytes read and written.
        resident: bytes touched; they decide which cache's bandwidth counts.
    """

    vector: float = 0.0
    matrix: float = 0.0
    half: float = 0.0
    traffic: float = 0.0
    resident: float = 0.0

    def __mul__(self, num: float) -> Work:
        return Work(*(num * x for x in astuple(self)))

    def __add__(self, other: Work) -> Work:
        return Work(*(x + y for x, y in zip(astuple(self), astuple(other), strict=True)))

    def floor(self, threads: int = 1, resident: float | None = None) -> dict[str, float]:
        """Seconds for the operations, for the bytes, and the longer of both.

        Arguments:
            resident: bytes that are touched between two visits of the same ones, if more than these.
        """
        operations = self.vector / vector_rate(threads) + self.matrix / matrix_rate(threads)
        if self.half:
            operations += self.half / matrix_rate(threads, torch.bfloat16)
        memory = self.traffic / bandwidth(threads, int(resident or self.resident))
        return {"operations": operations, "memory": memory, "seconds": max(operations, memory)}


def _network(inputs: int, hidden: int, outputs: int, layers: int = 2) -> int:
    """A perceptron on one coordinate; inputs of rows and columns come as one addition a unit each."""
    units = hidden * layers
    return 2 * (inputs * hidden + (layers - 1) * hidden**2 + hidden * outputs) + 2 * hidden + units


def _adafactor(features: int, hidden: int, outputs: int) -> int:
    """Averages (3 momenta, 1 second moment, sums of rows and columns), features, their second moments, network."""
    averages = 2 + 1 + 3 * (3 + 1) + 2
    scaled = 1 + ROOT + 3 + 3 * 3
    return averages + scaled + 2 * features + _network(features, hidden, outputs)


# floats a coordinate of: one pass over the gradient for rows and columns; one over parameter, gradient and four
# averages, which are written, for the features' second moments; one over all of them for the step
_PASSES = 1 + (6 + 4) + (6 + 1)
_LSTM_PRODUCTS = 2 * (80 * (2 + 20) + 80 * (20 + 20) + 20)
_LSTM_POINTWISE = 2 * 20 * (5 * EXPONENTIAL + 4) + EXPONENTIAL + 5

RULES: dict[str, Work] = {
    "adam": Work(vector=3 + 4 + 2 * ROOT + 4, traffic=7 * FLOAT, resident=4 * FLOAT),
    "mlp": Work(vector=_adafactor(16, 4, 2) + EXPONENTIAL + 5, traffic=_PASSES * FLOAT, resident=6 * FLOAT),
    "mlp32": Work(vector=_adafactor(16, 32, 2) + EXPONENTIAL + 5, traffic=_PASSES * FLOAT, resident=6 * FLOAT),
    # the direction is written, and read again with the parameter once its size is known
    "matrix": Work(vector=_adafactor(18, 8, 1) + 3 + 6, traffic=(_PASSES + 3) * FLOAT, resident=7 * FLOAT),
    "velo": Work(vector=_adafactor(18, 4, 2) + 3 + EXPONENTIAL + 5, traffic=_PASSES * FLOAT, resident=6 * FLOAT),
    "lstm": Work(vector=_LSTM_POINTWISE, matrix=_LSTM_PRODUCTS, traffic=163 * FLOAT, resident=82 * FLOAT),
}
"""One coordinate's step; what VeLO's hypernetwork does for a whole tensor is left out."""


def orthogonalization(rows: int, columns: int, steps: int = 5) -> float:
    """Newton-Schulz: operations on a coordinate for a gram matrix, its square and a product with the matrix."""
    small, large = sorted((rows, columns))
    return steps * (2 * small + 2 * small**2 / large + 2 * small)


def perceptron(sizes: tuple[int, ...] = (64, 32, 10), batch: int = 64) -> Work:
    """One forward and backward pass; the first layer's inputs need no gradient."""
    products = [2 * batch * before * after for before, after in pairwise(sizes)]
    num = parameters(sizes)
    return Work(matrix=3 * sum(products) - products[0], traffic=2 * num * FLOAT + batch * sizes[0] * FLOAT)


def parameters(sizes: tuple[int, ...] = (64, 32, 10)) -> int:
    """Weights and biases of a perceptron."""
    return sum((before + 1) * after for before, after in pairwise(sizes))


def inner_step(setting: str) -> Work:
    """One inner step of meta-training: the task's gradient and the rule; for backpropagation, back through the rule.

    The gradient of a window's losses with respect to its parameters is the inner gradient, made once. Going back takes
    each product twice, the states are written once and read twice.
    """
    if setting == "pes":
        return perceptron() + RULES["mlp"] * parameters()
    forward = RULES["lstm"]
    traffic = (3 * 80 + 3) * FLOAT
    both = replace(forward, vector=2 * forward.vector, matrix=3 * forward.matrix, traffic=traffic)
    return perceptron() + both * parameters()
