"""A small problem and weights that formulas give, for steps of published code and of ours: numpy only.

`tests/make_published.py` wrote the steps of the published code to `tests/published.npz`.
"""

from __future__ import annotations

import math
from collections.abc import Mapping
from pathlib import Path

import numpy as np

STEPS = Path(__file__).with_suffix(".npz")

SHAPES = {"scalar": (), "vector": (5,), "matrix": (5, 3), "cube": (2, 3, 4), "filters": (4, 3, 2, 2)}
LOSSES = (2.3, 2.1, 2.5, 1.9, 9.0, 1.7, 1.65, 1.68)
"""Of each step: falls, rises, has a spike."""

TOTAL_STEPS = 20
STEP_SCALE = 1.0
"""In place of 1e-3, so that steps are not lost in the rounding of parameters."""

RELEASED_CELO_STEP_SCALE = 0.03
"""The same where steps are larger."""

NUM_EPOCHS, NUM_MINIBATCHES = 2, 2

CELO_BASE = {
    "lstm_init_state.hidden": (1, 6),
    "lstm_init_state.cell": (1, 6),
    "rnn_params.linear.w": (18, 6),
    "rnn_params.linear.b": (6,),
    "rnn_params.linear_1.w": (18, 6),
    "rnn_params.linear_1.b": (6,),
    "rnn_params.linear_2.w": (18, 6),
    "rnn_params.linear_2.b": (6,),
    "rnn_params.rnn.linear.w": (12, 24),
    "rnn_params.rnn.linear.b": (24,),
    "rnn_params.step_size.w": (6, 1),
    "rnn_params.step_size.b": (1,),
}
CELO_ADAM = CELO_BASE
CELO = (
    CELO_BASE
    | {"rnn_params.rnn_to_controls.w": (6, 1), "rnn_params.rnn_to_controls.b": (1,)}
    | {f"ff_mod_stack.~.w0__{i}": (1, n, 4) for i, n in enumerate((1, 1, 1, 3, 1, 3, 1, 3, 1, 3, 3, 3, 3, 3))}
    | {f"ff_mod_stack.~.w{i}": (1, 4, n) for i, n in ((1, 4), (2, 3))}
    | {f"ff_mod_stack.~.b{i}": (1, n) for i, n in ((0, 4), (1, 4), (2, 3))}
)
OPEN_SIZE = 1211


def wave(shape: tuple[int, ...], frequency: float) -> np.ndarray:
    """sin(frequency * i), i = 1, 2, ..., in row-major order."""
    index = np.arange(1, math.prod(shape) + 1, dtype=np.float64)
    return np.sin(frequency * index).astype(np.float32).reshape(shape)


def weights(shapes: Mapping[str, tuple[int, ...]]) -> dict[str, np.ndarray]:
    """Weights with the published names and shapes."""
    return {name: 0.7 * wave(shape, 0.9 + 0.07 * i) for i, (name, shape) in enumerate(sorted(shapes.items()))}


def start(name: str) -> np.ndarray:
    """Parameters before the first step."""
    return wave(SHAPES[name], 0.3 + 0.01 * len(name))


def gradient(name: str, step: int) -> np.ndarray:
    """Of very different sizes; some coordinates have none ever, others none from the third step on."""
    grad = 10.0 ** (step % 4 - 2) * wave(SHAPES[name], 2.0 + 0.37 * step + 0.01 * len(name))
    if grad.ndim:
        grad[..., 0] = 0.0
    if grad.ndim and step >= 2:
        grad[..., 1] = 0.0
    return np.asarray(grad, np.float32)


def activity(name: str, step: int) -> np.ndarray:
    """Mean absolute activations of the outputs of a tensor, along its first dimension; one is silent."""
    active: np.ndarray = np.abs(wave(SHAPES[name][:1] or (1,), 0.5 + 0.1 * step))
    active[-1] = active[-1] if len(active) == 1 else 0.0
    return active


def row(params: Mapping[str, np.ndarray]) -> np.ndarray:
    """All coordinates."""
    return np.concatenate([np.ravel(params[name]) for name in SHAPES])


def noise(shape: tuple[int, ...]) -> np.ndarray:
    """What stands in for normal random numbers."""
    return np.asarray(2.0 * wave(shape, 1.7))
