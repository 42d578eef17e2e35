"""Learned optimizers that others have released, as rules of ours.

The weights stay in their authors' files; what is here knows their names and shapes:

    rule = l2o.load("celo_theta.npz")       # or theta.state, as it was released
    l2o.save(rule, "celo.safetensors")
"""

from __future__ import annotations

import os
from collections.abc import Callable
from pathlib import Path
from typing import Any, NamedTuple

import numpy as np
import torch
from torch import Tensor

from l2o.arrays import SUFFIXES, Arrays, read_arrays
from l2o.rules import OPEN, Celo, CeloAdam, UpdateRule

__all__ = ["SUFFIXES", "Reader", "from_arrays", "load_released", "register_reader"]


class Reader(NamedTuple):
    """Reads one kind of released weights.

    name: what is released, for errors.
    matches: whether arrays, by dotted name, are of this kind; at a glance, from names and sizes.
    convert: the rule with these weights, with options of its constructor; a ValueError if they are not as they must be.
    """

    name: str
    matches: Callable[[Arrays], bool]
    convert: Callable[..., UpdateRule]


_readers: list[Reader] = []


def register_reader(reader: Reader) -> Reader:
    """Let `l2o.load` read another kind of weights; the newest reader that matches is taken."""
    _readers.insert(0, reader)
    return reader


def load_released(path: str | os.PathLike[str], **options: Any) -> UpdateRule:
    """The rule of a file of weights that others have released: Celo, Celo-Adam, OPEN, or what was registered.

    Arguments:
        path: .npz or .npy of NumPy, .state or .msgpack of flax.
        options: arguments of the rule's constructor, sizes apart, which follow from the arrays.

    Raises:
        FileNotFoundError: no such file.
        ValueError: it is damaged, of no known kind, or its arrays are not those of its kind; an option is wrong.
    """
    path = Path(path).expanduser()
    if path.suffix not in SUFFIXES:
        raise ValueError(f"released weights must be in a file named {', '.join(SUFFIXES)}, which are read; got {path}.")
    return from_arrays(read_arrays(path), str(path), **options)


def from_arrays(arrays: Arrays, origin: str = "these arrays", **options: Any) -> UpdateRule:
    """The same from arrays by dotted name.

    Arguments:
        origin: what they are called in errors.
    """
    for reader in _readers:
        if reader.matches(arrays):
            with torch.random.fork_rng(devices=[]):  # initial weights are drawn, then overwritten
                try:
                    return reader.convert(arrays, **options)
                except (TypeError, ValueError) as error:
                    raise ValueError(f"{origin} must hold the weights of {reader.name}; {error}") from error
    listed = ", ".join(f"{name or 'array'} {tuple(x.shape)}" for name, x in list(arrays.items())[:5])
    raise ValueError(
        f"weights must be of a kind with a reader, {', '.join(reader.name for reader in _readers)} (add yours with "
        f"`l2o.released.register_reader`), because names and sizes tell what they are; {origin} holds {listed}"
        f"{', ...' if len(arrays) > 5 else ''}."
    )


SCHEDULE = "rnn_params."
CELO = "ff_mod_stack.~."
GROUPS = (1, 1, 1, 3, 1, 3, 1, 3, 1, 3, 3, 3, 3, 3)
"""Inputs of Celo's first layer, an array each: g, clip g, p, m, v, m r, r, g f, g r, R, C, 1/sqrt R, 1/sqrt C, m f."""

OURS = (0, 2, 3, 4, 5, 6, 7, 9, 10, 11, 12, 13, 1, 8)
"""Their places in the order of `l2o.rules.features.stack_features`."""


def _celo(arrays: Arrays, **options: Any) -> Celo:
    taken = _Taken(arrays)
    hidden = taken.shape("lstm_init_state.hidden", 2)[-1]
    width = taken.shape(f"{CELO}b0", 2)[-1]
    depth = sum(name.startswith(f"{CELO}b") for name in arrays) - 1
    first = [taken(f"{CELO}w0__{i}", 1, n, width)[0] for i, n in enumerate(GROUPS)]
    weights = [np.concatenate([first[i] for i in OURS])]
    weights += [taken(f"{CELO}w{i}", 1, width, width if i < depth else 3)[0] for i in range(1, depth + 1)]
    biases = [taken(f"{CELO}b{i}", 1, width if i < depth else 3)[0] for i in range(depth + 1)]
    weights[-1], biases[-1] = weights[-1][:, :2], biases[-1][:2]
    taken(f"{SCHEDULE}rnn_to_controls.w", hidden, 1), taken(f"{SCHEDULE}rnn_to_controls.b", 1)
    found = {f"net.weights.{i}": w.T for i, w in enumerate(weights)} | {
        f"net.biases.{i}": b for i, b in enumerate(biases)
    }
    found |= _schedule(taken, hidden)  # all are looked at before anything of such sizes is made
    return _with(Celo(lstm_hidden_size=hidden, hidden_size=width, num_layers=depth, **options), found, taken)


def _celo_adam(arrays: Arrays, **options: Any) -> CeloAdam:
    taken = _Taken(arrays)
    hidden = taken.shape("lstm_init_state.hidden", 2)[-1]
    found = _schedule(taken, hidden)
    return _with(CeloAdam(lstm_hidden_size=hidden, **options), found, taken)


def _schedule(taken: _Taken, hidden: int) -> Arrays:
    taken(f"{SCHEDULE}linear.w", 18, hidden), taken(f"{SCHEDULE}linear.b", hidden)  # computed and dropped there
    found = {"start": np.concatenate([taken(f"lstm_init_state.{part}", 1, hidden) for part in ("hidden", "cell")])}
    for ours, theirs, *shape in (
        ("mix", "linear_1", 18),
        ("skip", "linear_2", 18),
        ("multiplier", "step_size", hidden),
    ):
        outputs = 1 if ours == "multiplier" else hidden
        found[f"{ours}.weight"] = taken(f"{SCHEDULE}{theirs}.w", *shape, outputs).T
        found[f"{ours}.bias"] = taken(f"{SCHEDULE}{theirs}.b", outputs)
    gates = [0, 2, 1, 3]  # theirs are i, g, f, o, ours i, f, g, o
    weight = taken(f"{SCHEDULE}rnn.linear.w", 2 * hidden, 4 * hidden).T.reshape(4, hidden, 2 * hidden)
    found["lstm_weight"] = weight[gates].reshape(4 * hidden, 2 * hidden)
    found["lstm_bias"] = taken(f"{SCHEDULE}rnn.linear.b", 4 * hidden).reshape(4, hidden)[gates].reshape(-1)
    return {f"schedule.{name}": x for name, x in found.items()}


OPEN_SIZES = {1211: (16, 8), 3571: (32, 16)}
"""Units of the MLP and of the GRU, by the number of all weights."""


def _open(arrays: Arrays, **options: Any) -> OPEN:
    (flat,) = (x.reshape(-1) for x in arrays.values())
    hidden, gru = OPEN_SIZES[flat.size]
    at = 0

    def take(*shape: int) -> np.ndarray:
        nonlocal at
        at += int(np.prod(shape))
        return flat[at - int(np.prod(shape)) : at].reshape(shape)

    # parts in alphabetical order of flax's names: the GRU's hn, hr, hz, in, ir, iz; the MLP's layers
    bias, new, reset, update = take(gru), take(gru, gru), take(gru, gru), take(gru, gru)
    found = {"hidden_bias": bias, "hidden_weight": np.concatenate([reset.T, update.T, new.T])}
    (new_b, new), (reset_b, reset), (update_b, update) = ((take(gru), take(19, gru)) for _ in range(3))
    found["input_bias"] = np.concatenate([reset_b, update_b, new_b])
    found["input_weight"] = np.concatenate([reset.T, update.T, new.T])
    for i, (n_in, n_out) in enumerate(((gru, hidden), (hidden, hidden), (hidden, 3))):
        found[f"net.biases.{i}"], found[f"net.weights.{i}"] = take(n_out), take(n_in, n_out).T
        if i < 2:
            found[f"norm_biases.{i}"], found[f"norm_scales.{i}"] = take(n_out), take(n_out)
    return _with(OPEN(hidden_size=hidden, gru_size=gru, **options), found)


class _Taken:
    """Arrays taken one by one, of the shapes that they must have.

    Arguments:
        arrays: all of a file.
    """

    def __init__(self, arrays: Arrays) -> None:
        self.arrays, self.names = arrays, set[str]()

    def __call__(self, name: str, *shape: int) -> np.ndarray:
        if self.shape(name, len(shape)) != shape:
            raise ValueError(
                f"{name} must have the shape {shape}, for the others ask it; got {self.arrays[name].shape}."
            )
        self.names.add(name)
        return self.arrays[name]

    def shape(self, name: str, rank: int) -> tuple[int, ...]:
        """The shape of an array that must be there and of this rank."""
        if name not in self.arrays:
            raise ValueError(
                f"{name} must be there, for nothing else can stand for it; there are {sorted(self.arrays)}."
            )
        if self.arrays[name].ndim != rank:
            raise ValueError(f"{name} must have {rank} dimensions; got {self.arrays[name].shape}.")
        return self.arrays[name].shape


def _with(rule: Any, arrays: Arrays, taken: _Taken | None = None) -> Any:
    """The rule with these parameters, all finite, once every array of the file was taken."""
    more = sorted(set(taken.arrays) - taken.names) if taken is not None else []
    if more:
        raise ValueError(f"it must hold nothing else, because it would be lost; there is {more}.")
    tensors: dict[str, Tensor] = {k: torch.from_numpy(np.array(x, np.float32, order="C")) for k, x in arrays.items()}
    bad = [name for name, x in tensors.items() if not x.isfinite().all()]
    if bad:
        raise ValueError(f"weights must be finite, or no step is; those of {bad} are not.")
    rule.load_state_dict(tensors)
    return rule


register_reader(Reader("OPEN", lambda a: len(a) == 1 and next(iter(a.values())).size in OPEN_SIZES, _open))
register_reader(Reader("Celo-Adam", lambda a: "rnn_params.step_size.w" in a and f"{CELO}b0" not in a, _celo_adam))
register_reader(Reader("Celo", lambda a: f"{CELO}b0" in a, _celo))
