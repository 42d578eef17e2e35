"""Learned optimizers that others have released, as .npz, .npy and flax state."""

from __future__ import annotations

import io
from collections.abc import Callable
from typing import Any

import numpy as np
from hypothesis import strategies as st

from l2o.released import CELO, GROUPS, SCHEDULE


def arrays(packed: dict[str, np.ndarray]) -> bytes:
    """A .npz file."""
    file = io.BytesIO()
    np.savez_compressed(file, **packed)  # type: ignore[arg-type]
    return file.getvalue()


def celo(hidden: int = 4, width: int = 3) -> dict[str, np.ndarray]:
    """Arrays of the names and shapes of Celo's weights."""
    shapes: dict[str, tuple[int, ...]] = {f"lstm_init_state.{part}": (1, hidden) for part in ("hidden", "cell")}
    shapes |= {f"{CELO}w0__{i}": (1, n, width) for i, n in enumerate(GROUPS)}
    shapes |= {f"{CELO}b0": (1, width), f"{CELO}w1": (1, width, 3), f"{CELO}b1": (1, 3)}
    sizes = {"linear": (18, hidden), "linear_1": (18, hidden), "linear_2": (18, hidden), "step_size": (hidden, 1)}
    sizes |= {"rnn.linear": (2 * hidden, 4 * hidden), "rnn_to_controls": (hidden, 1)}
    for name, shape in sizes.items():
        shapes |= {f"{SCHEDULE}{name}.w": shape, f"{SCHEDULE}{name}.b": shape[1:]}
    return {name: np.zeros(shape, np.float32) for name, shape in shapes.items()}


@st.composite
def libraries(draw: Callable[..., Any]) -> bytes:
    """Celo's weights as .npz, with arrays of other shapes, kinds and names."""
    packed: dict[str, Any] = celo(draw(st.integers(1, 4)), draw(st.integers(1, 3)))
    for name in draw(st.lists(st.sampled_from(sorted(packed)), max_size=2)):
        shape = draw(st.lists(st.integers(0, 20), max_size=4))
        kind = draw(st.sampled_from(["f4", "f8", "i8", "u1", "U3", "?", "c8"]))
        packed[draw(st.sampled_from([name, "x", "../x"]))] = np.zeros(shape, kind)
    return arrays(packed)


def npy(descr: str, shape: str, body: bytes) -> bytes:
    """A .npy file of any header."""
    header = f"{{'descr': {descr}, 'fortran_order': False, 'shape': {shape}, }}\n".encode()
    return b"\x93NUMPY\x01\x00" + len(header).to_bytes(2, "little") + header + body


NPY = st.builds(
    npy,
    st.sampled_from(["'<f4'", "'|O'", "'<U0'", "'<f4,,'", "[('a','<f4')]", "'>i8'", "((((", "'|b1'"]),
    st.sampled_from(["(1211,)", "(10**25,)", "(100000000000000,)", "(-1,)", "(0, 2**62, 4)", "(2,)", "()", "9"]),
    st.binary(max_size=16) | st.just(bytes(4 * 1211)),
)


def flax(value: Any) -> bytes:
    """msgpack, as flax writes it."""
    if isinstance(value, dict):
        return bytes([0x80 + len(value)]) + b"".join(flax(key) + flax(child) for key, child in value.items())
    if isinstance(value, str):
        return bytes([0xD9, len(value)]) + value.encode()
    raw, shape = value.tobytes(), bytes([0x90 + value.ndim, *value.shape])
    body = b"\x93" + shape + flax(value.dtype.name) + b"\xc6" + len(raw).to_bytes(4, "big") + raw
    return b"\xc9" + len(body).to_bytes(4, "big") + b"\x01" + body
