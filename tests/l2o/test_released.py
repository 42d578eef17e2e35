"""Weights that others have released load, and take the steps that the published code took with them.

The steps in `tests/published.npz` are from amoudgl/celo at 66d9761 and AlexGoldie/rl-learned-optimization at b65037b,
run by `tests/make_published.py`; with weights that a formula gives, and with the released ones.
"""

import os
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from torch import nn

import l2o
from l2o.kernels.build import without_kernels
from l2o.released import Reader, _readers, from_arrays, load_released, register_reader
from l2o.rules import OPEN, Celo, CeloAdam, OptState, UpdateRule
from l2o.tasks.data import digits
from l2o.types import seeded
from tests import published as p

FOLDER = Path(os.environ.get("L2O_DATA") or "nowhere") / "learned_optimizers"
released = pytest.mark.skipif(not FOLDER.is_dir(), reason="needs L2O_DATA with learned_optimizers")

FORMULA = {
    "celo": (p.weights(p.CELO), {"step_scale": p.STEP_SCALE}),
    "celo_adam": (p.weights(p.CELO_ADAM), {"step_scale": p.STEP_SCALE}),
}
OPEN_OPTIONS = {
    "step_scale": p.STEP_SCALE,
    "num_epochs": p.NUM_EPOCHS,
    "num_minibatches": p.NUM_MINIBATCHES,
}
OPEN_FILES = ["ant", "asterix", "breakout", "freeway", "gridworld", "multi", "spaceinvaders"]


def error_of_steps(rule: UpdateRule, name: str, tell: Callable[[OptState, int], OptState] | None = None) -> float:
    """The largest error of a coordinate's step over the largest of the published step, at the worst step.

    Each step is made from the published parameters, whose rounding would otherwise add up.
    """
    rows = np.load(p.STEPS)[name].astype(np.float64)
    params = {key: torch.from_numpy(np.asarray(p.start(key))) for key in p.SHAPES}
    state = rule.init(params, p.TOTAL_STEPS)
    before, errors = p.row({key: x.numpy() for key, x in params.items()}), []
    for step, (loss, after) in enumerate(zip(p.LOSSES, rows, strict=True)):
        state = state if tell is None else tell(state, step)
        grads = {key: torch.from_numpy(p.gradient(key, step)) for key in p.SHAPES}
        with torch.no_grad():
            updates, state = rule(grads, state, params, torch.tensor(loss))
        moved = p.row({key: x.double().numpy() for key, x in updates.items()})
        errors.append(np.abs(before + moved - after).max() / np.abs(after - before).max())
        parts = np.split(after, np.cumsum([x.numel() for x in params.values()])[:-1])
        params = {
            key: torch.from_numpy(part).float().view(p.SHAPES[key]) for key, part in zip(p.SHAPES, parts, strict=True)
        }
        before = after
    return max(errors)


def told(rule: UpdateRule) -> Callable[[OptState, int], OptState]:
    """What the published OPEN was told: actor and critic are networks of their own, only the actor has noise."""
    assert isinstance(rule, OPEN)
    layers = {"scalar": 0.0, "vector": 0.5, "matrix": 1.0, "cube": 0.0, "filters": 1.0}
    noise = {name: name in ("scalar", "vector", "matrix") for name in p.SHAPES}

    def tell(state: OptState, step: int) -> OptState:
        active = {name: torch.from_numpy(p.activity(name, step)) for name in p.SHAPES}
        return rule.tell(state, activations=active, layers=layers, noise=noise)

    return tell


@pytest.fixture
def published_noise(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("l2o.rules.open.normal", lambda seed, step, i, x: torch.from_numpy(p.noise(tuple(x.shape))))


@pytest.mark.parametrize("kernels", [True, False])
@pytest.mark.parametrize("name", FORMULA)
def test_steps_equal_those_of_the_published_celo(name: str, kernels: bool) -> None:
    weights, options = FORMULA[name]
    rule = from_arrays(weights, **options)
    if kernels:
        assert error_of_steps(rule, name) < 1e-5
    else:
        with without_kernels():
            assert error_of_steps(rule, name) < 1e-5


def test_steps_equal_those_of_the_published_open(published_noise: None) -> None:
    rule = from_arrays({"": 0.7 * p.wave((p.OPEN_SIZE,), 0.9)}, **OPEN_OPTIONS)
    assert error_of_steps(rule, "open", told(rule)) < 1e-5


@released
@pytest.mark.parametrize("suffix", ["_theta.npz", ".theta.state"])
@pytest.mark.parametrize(
    ("name", "scale"), [("celo", p.RELEASED_CELO_STEP_SCALE), ("celo_adam", p.STEP_SCALE)], ids=["celo", "celo_adam"]
)
def test_steps_of_the_released_celo_equal_the_published(name: str, scale: float, suffix: str) -> None:
    rule = l2o.load(FOLDER / f"{name}{suffix}", step_scale=scale)
    assert error_of_steps(rule, f"{name} released") < 1e-5


@released
@pytest.mark.parametrize("task", OPEN_FILES)
def test_steps_of_the_released_open_equal_the_published(task: str, published_noise: None) -> None:
    rule = l2o.load(FOLDER / f"open_{task}.npy", **OPEN_OPTIONS)
    assert error_of_steps(rule, f"open_{task}", told(rule)) < 1e-5


@released
def test_the_released_celo_trains_digits() -> None:
    data, generator = digits().train, seeded(0)
    net = nn.Sequential(nn.Flatten(), nn.Linear(64, 32), nn.ReLU(), nn.Linear(32, 10))
    with torch.no_grad():
        for weight in net.parameters():
            weight.copy_(torch.randn(weight.shape, generator=generator) / weight.shape[-1] ** 0.5)
    optimizer = l2o.LearnedOptimizer(net.parameters(), FOLDER / "celo_theta.npz", total_steps=300)
    losses = []
    for _ in range(300):
        x, y = data.draw(generator, 64)
        loss = nn.functional.cross_entropy(net(x), y)
        optimizer.zero_grad()
        loss.backward()
        optimizer.step(loss=loss)
        losses.append(float(loss.detach()))
    assert sum(losses[-20:]) / 20 < 0.03


def write_msgpack(tree: Any) -> bytes:
    """As flax writes: maps of short names, arrays as extension 1."""
    if isinstance(tree, dict):
        head = bytes([0xDE]) + len(tree).to_bytes(2, "big")
        return head + b"".join(bytes([0xD9, len(key)]) + key.encode() + write_msgpack(x) for key, x in tree.items())
    shape, raw = bytes([0x90 + tree.ndim]) + bytes(tree.shape), tree.tobytes()
    name = tree.dtype.name.encode()
    body = bytes([0x93]) + shape + bytes([0xA0 + len(name)]) + name + bytes([0xC6]) + len(raw).to_bytes(4, "big") + raw
    return bytes([0xC9]) + len(body).to_bytes(4, "big") + b"\x01" + body


def nested(weights: dict[str, np.ndarray]) -> dict:
    """Weights as a tree, with a slash in one name, as in the released file."""
    tree: dict = {}
    for name, x in weights.items():
        *path, last = name.replace("rnn.linear", "rnn/linear").split(".")
        node = tree
        for key in path:
            node = node.setdefault(key, {})
        node[last] = x
    return tree


def written(folder: Path, suffix: str, weights: dict[str, np.ndarray]) -> Path:
    path = folder / f"theta{suffix}"
    if suffix == ".npz":
        np.savez(path, **weights)
    elif suffix == ".npy":
        np.save(path, weights[""])
    else:
        path.write_bytes(write_msgpack(nested(weights)))
    return path


@pytest.mark.parametrize("suffix", [".npz", ".state", ".msgpack"])
@pytest.mark.parametrize(("name", "cls"), [("celo", Celo), ("celo_adam", CeloAdam)])
def test_celo_is_loaded_from_numpy_and_from_flax(tmp_path: Path, suffix: str, name: str, cls: type) -> None:
    path = written(tmp_path, suffix, FORMULA[name][0])
    before = torch.get_rng_state()
    rule = l2o.load(str(path))
    assert torch.equal(before, torch.get_rng_state())
    assert type(rule) is cls
    expected = from_arrays(FORMULA[name][0]).state_dict()
    assert all(torch.equal(x, expected[key]) for key, x in rule.state_dict().items())


@pytest.mark.parametrize(("size", "hidden", "gru"), [(1211, 16, 8), (3571, 32, 16)])
def test_open_is_loaded_and_given_options(tmp_path: Path, size: int, hidden: int, gru: int) -> None:
    rule = l2o.load(written(tmp_path, ".npy", {"": p.wave((size,), 0.9)}), num_epochs=4, seed=7)
    assert isinstance(rule, OPEN)
    assert rule.config["hidden_size"] == hidden and rule.config["gru_size"] == gru
    assert rule.config["num_epochs"] == 4 and rule.config["seed"] == 7
    assert sum(x.numel() for x in rule.parameters()) == size


@pytest.mark.parametrize("name", ["celo", "celo_adam", "open"])
def test_what_was_loaded_is_saved_as_ours(tmp_path: Path, name: str) -> None:
    rule = from_arrays(*FORMULA[name][:1]) if name != "open" else from_arrays({"": p.wave((1211,), 0.9)})
    l2o.save(rule, tmp_path / "ours.safetensors")
    other = l2o.load(tmp_path / "ours.safetensors")
    assert other.config == rule.config
    assert all(torch.equal(x, other.state_dict()[key]) for key, x in rule.state_dict().items())


def changed(**changes: np.ndarray | None) -> dict[str, np.ndarray]:
    weights = p.weights(p.CELO) | {key.replace("__", "."): x for key, x in changes.items()}  # type: ignore[operator]
    return {key: x for key, x in weights.items() if x is not None}


@pytest.mark.parametrize(
    ("weights", "message"),
    [
        (changed(rnn_params__linear__w=None), r"weights of Celo; rnn_params.linear.w must be there"),
        (changed(rnn_params__linear__w=np.zeros((17, 6))), r"must have the shape \(18, 6\).*got \(17, 6\)"),
        (changed(rnn_params__linear__b=np.zeros((6, 1))), r"must have 1 dimensions"),
        (changed(extra=np.zeros(3)), r"hold nothing else.*\['extra'\]"),
        (changed(rnn_params__step_size__b=np.full(1, np.nan)), r"weights must be finite"),
        (
            {"a": np.zeros(3), "b": np.zeros(2)},
            r"a kind with a reader, Celo, Celo-Adam, OPEN.*register_reader.*a \(3,\)",
        ),
        ({"": np.zeros(1000)}, r"holds array \(1000,\)"),
    ],
)
def test_weights_that_do_not_fit_are_refused(weights: dict[str, np.ndarray], message: str) -> None:
    with pytest.raises(ValueError, match=message):
        from_arrays(weights)


@pytest.mark.parametrize("name", ["celo", "celo_adam"])
def test_sizes_are_believed_once_all_arrays_have_them(name: str) -> None:
    """A file of no bytes may claim any size: nothing is made of it before."""
    claims = FORMULA[name][0] | {"lstm_init_state.hidden": np.zeros((0, 10**13), np.float32)}
    with pytest.raises(ValueError, match="must have the shape"):
        from_arrays(claims)


def test_wrong_options_and_names_are_refused(tmp_path: Path) -> None:
    path = written(tmp_path, ".npz", FORMULA["celo"][0])
    with pytest.raises(ValueError, match=r"theta.npz must hold the weights of Celo; .*unexpected keyword"):
        l2o.load(path, seed=1)
    with pytest.raises(FileNotFoundError, match="nothing at"):
        l2o.load(tmp_path / "none.npz")
    with pytest.raises(ValueError, match=r"named .npz, .npy"):
        load_released(tmp_path / "theta.pkl")


def test_readers_of_other_weights_may_be_registered(tmp_path: Path) -> None:
    def convert(arrays: dict[str, np.ndarray], **options: Any) -> UpdateRule:
        return l2o.load("adam", lr=float(arrays["learning_rate"]), **options)

    reader = register_reader(Reader("tuned Adam", lambda arrays: "learning_rate" in arrays, convert))
    try:
        path = written(tmp_path, ".npz", {"learning_rate": np.asarray(0.5)})
        assert l2o.load(path, eps=1e-6).config == {**l2o.load("adam").config, "lr": 0.5, "eps": 1e-6}
    finally:
        _readers.remove(reader)
