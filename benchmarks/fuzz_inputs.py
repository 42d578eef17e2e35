"""What the fuzzer gives to every reader of files: whole ones, and what hypothesis makes of them."""

from __future__ import annotations

import copy
import gzip
import io
import json
import tempfile
import zipfile
from collections.abc import Callable
from dataclasses import dataclass
from functools import cache
from pathlib import Path
from typing import Any

import numpy as np
import torch
import yaml
from hypothesis import strategies as st

import l2o
from l2o.arrays import read_arrays
from l2o.distributed import LocalPool
from l2o.estimators import PES, Problems, Truncation
from l2o.learners import MAML, MLP, Adaptation, PrototypicalNetwork
from l2o.released import CELO, GROUPS, SCHEDULE, load_released
from l2o.rules import SGD, Adam, LSTMRule, MatrixRule, MLPRule, Scaled
from l2o.saved import to_bytes
from l2o.tasks import Quadratics
from l2o.tasks.data.image_folder import image_folder
from l2o.tasks.data.images import read_idx, read_npz
from l2o.tasks.data.omniglot import PNG, omniglot_characters, read_omniglot_zip
from l2o.tensor_file import pack, take_apart, unpack
from l2o.training import ledger
from l2o.training.checkpoint import load_tree, save_tree
from l2o.training.config import MetaTrainConfig, read_config, to_plain
from l2o.training.learn import LearnConfig
from l2o.training.meta_trainer import MetaTrainer, theta_of

NAMES = ["../../outside", "/tmp/outside", "C:\\outside", "a" * 300, ".", "..", "a/../../b", "é", "-rf"]
DRAWING = "images_background/Greek/character01/0001_01.png"


@dataclass(frozen=True)
class Target:
    """A reader of files.

    Arguments:
        file: the name of the file that it is given, in an empty folder.
        inputs: draws the file's bytes.
        read: what a user would do with the file.
    """

    file: str
    inputs: st.SearchStrategy[bytes]
    read: Callable[[Path], Any]


@st.composite
def damaged(draw: Callable[..., Any], whole: st.SearchStrategy[bytes]) -> bytes:
    """A file with up to eight places overwritten, removed, doubled or filled in; or just cut off."""
    data = bytearray(draw(whole))
    for kind in draw(st.lists(st.sampled_from(["write", "remove", "double", "insert", "cut"]), max_size=8)):
        at = draw(st.integers(0, max(0, len(data) - 1)))
        size = draw(st.sampled_from([1, 1, 2, 4, 8, 64, 1000]))
        if kind == "cut":
            del data[at:]
        elif kind == "remove":
            del data[at : at + size]
        elif kind == "double":
            data[at:at] = data[at : at + size]
        else:
            fill = st.sampled_from([b"\xff" * 8, b"\0" * 8, b"\x7f" + b"\xff" * 7, b"9" * 30, b"[" * 2000, b"{"])
            new = draw(st.binary(min_size=1, max_size=8) | fill)
            data[at : at + len(new) if kind == "write" else at] = new
    return bytes(data)


SCALARS = (
    st.none()
    | st.booleans()
    | st.integers(-4, 40)
    | st.sampled_from([10**4, 10**6, 2**31, 2**63, 10**25, -1, 1e308, 1e-308, 0.5, "relu", "adam", "", "\ud800", "t0"])
    | st.floats(allow_nan=False, allow_infinity=False)
    | st.text(max_size=8)
)
JSON = st.recursive(
    SCALARS,
    lambda inside: (
        st.lists(inside, max_size=4)
        | st.dictionaries(
            st.sampled_from(["module", "class", "config", "dict", "named", "tensor", "items", "list", "tuple", "float"])
            | st.text(max_size=5),
            inside,
            max_size=4,
        )
    ),
    max_leaves=12,
)


@st.composite
def changed(draw: Callable[..., Any], value: Any, new: st.SearchStrategy[Any] = JSON) -> Any:
    """Plain values with some of them replaced by new ones, removed or put under other names."""
    value = copy.deepcopy(value)
    for _ in range(draw(st.integers(1, 4))):
        node = value
        while isinstance(node, dict | list) and node:
            key = draw(st.sampled_from(list(node))) if isinstance(node, dict) else draw(st.integers(0, len(node) - 1))
            if not (isinstance(node[key], dict | list) and node[key]) or draw(st.integers(0, 3)) == 0:
                how = draw(st.sampled_from(["replace", "replace", "remove", "swap"]))
                taken = node.pop(key)
                if how == "swap" and isinstance(node, dict):
                    node[draw(st.text(max_size=4))] = taken
                elif how != "remove":
                    put = draw(new)
                    node.insert(key, put) if isinstance(node, list) else node.update({key: put})
                break
            node = node[key]
    return value


@cache
def modules() -> list[bytes]:
    """Saved rules and learners."""
    made = [SGD(0.1), Adam(), LSTMRule(hidden_size=4), MLPRule(), MatrixRule(), Scaled(LSTMRule(hidden_size=3), 2.0)]
    made += [l2o.load(name) for name in ("default", "velo", "celo", "open")]
    made += [Adaptation(MAML(MLP([3, 4, 2])), SGD(0.1), 2), Adaptation(PrototypicalNetwork(MLP([3, 4, 2]), 2))]
    return [to_bytes(module, {"score": 1.5}) for module in made]


@st.composite
def headers(draw: Callable[..., Any]) -> bytes:
    """Saved modules with a checksum that is right, and a header that nobody wrote."""
    data = draw(st.sampled_from(modules()))
    header = json.loads(take_apart(data, "").texts["l2o"])
    if draw(st.integers(0, 3)):
        header["config"] = draw(changed(header["config"], SCALARS | JSON))
    else:
        header = draw(changed(header))
    text = json.dumps(header).replace("0.5", draw(st.sampled_from(["NaN", "Infinity", "0.5", "9" * 5000])))
    return pack(unpack(data, "", True), {"l2o": text})


def trainer() -> MetaTrainer:
    """Of a run so small that a step takes milliseconds."""
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(0)
        rule = LSTMRule(hidden_size=3)
    problems = Problems(rule, Quadratics(3), num_tasks=2, truncation=Truncation(window=2, horizon=4))
    pool = LocalPool(PES(problems), theta_of(rule))
    return MetaTrainer(rule, pool, torch.optim.Adam(rule.parameters(), lr=1e-2, fused=True))


@cache
def checkpoint() -> bytes:
    """Of that run after two steps."""
    run = trainer()
    run.step(), run.step()
    path = Path(_scratch()) / "whole.safetensors"
    save_tree({"trainer": run.state_dict(), "scores": {}, "best": float("inf")}, path)
    return path.read_bytes()


@cache
def _scratch() -> str:
    return tempfile.mkdtemp(prefix="l2o-fuzz-")


@st.composite
def trees(draw: Callable[..., Any]) -> bytes:
    """Checkpoints with a checksum that is right, and a tree or tensors that nobody wrote."""
    data = checkpoint()
    texts, tensors = take_apart(data, "").texts, unpack(data, "", True)
    tree = draw(changed(json.loads(texts["tree"])))
    for name in draw(st.lists(st.sampled_from(sorted(tensors)), max_size=2)):
        shape = draw(st.sampled_from([(), (0,), (1,), (3,), (2, 3), (7, 1, 2)]))
        tensors[name] = torch.zeros(shape, dtype=draw(st.sampled_from([torch.float32, torch.int64, torch.uint8])))
    return pack(tensors, {**texts, "tree": json.dumps(tree)})


def resume(path: Path) -> None:
    """Go on from a checkpoint, for one step if it is one."""
    tree = load_tree(path)
    if not isinstance(tree, dict) or not isinstance(tree.get("trainer"), dict):
        raise ValueError("no run.")
    trainer().load_state_dict(tree["trainer"])


CONFIGS = [yaml.safe_dump(to_plain(make())) for make in (MetaTrainConfig, LearnConfig)]
WORDS = ["&a ", "*a", "!!python/object/apply:os.system ", "!!int ''", "!!float x", "!!timestamp x", "!!bool maybe"]
WORDS += ["[", "]", "{", "}", ": ", "- ", "<<: ", "? ", "|\n", ">\n", "\n", " ", "'", '"', "%YAML 9.9\n", "---\n"]
WORDS += ["1e999", ".nan", "-.inf", "0x", "2001-99-99", "190:20:30", "9" * 5000, "[" * 2000, "\t", "\0", "#", "~"]
WORDS += ["steps", "horizon", "rule_args", "lr", "tasks", "threads", "Adam", "cuda"]
YAML = st.lists(st.sampled_from(WORDS) | st.text(max_size=4), max_size=30).map("".join)


@st.composite
def configs(draw: Callable[..., Any]) -> bytes:
    """Settings: as written, with other values, with other texts between, or made of words of YAML."""
    text = draw(st.sampled_from(CONFIGS) | YAML)
    if draw(st.booleans()):
        text = yaml.safe_dump(draw(changed(yaml.safe_load(draw(st.sampled_from(CONFIGS))))))
    lines = text.splitlines(keepends=True)
    if draw(st.integers(0, 3)):
        lines.insert(draw(st.integers(0, len(lines))), draw(YAML) + "\n")
    return "".join(lines).encode(errors="replace")


def read_configs(path: Path) -> None:
    """As commands of both kinds read them; a whole file is one of either."""
    refused: list[ValueError] = []
    for kind in (MetaTrainConfig, LearnConfig):
        try:
            to_plain(read_config(path, kind))
        except ValueError as error:
            assert len(str(error)) < 10**6, "an error to be read"
            refused.append(error)
    if len(refused) == 2:
        raise refused[0]


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


def picture(side: int = 105, kind: str = "PNG") -> bytes:
    """A picture's file."""
    from PIL import Image

    file = io.BytesIO()
    Image.new("L", (side, side), 255).save(file, kind)
    return file.getvalue()


@st.composite
def zips(draw: Callable[..., Any]) -> bytes:
    """Zip files of drawings, of names that lead elsewhere, of bombs, of what else one may pack."""
    file = io.BytesIO()
    names = st.sampled_from([DRAWING, DRAWING.replace("01.png", "02.png"), *NAMES]) | st.from_regex(PNG)
    names |= st.sampled_from([f"{name}/character01/0001_01.png" for name in NAMES])
    with zipfile.ZipFile(file, "w", draw(st.sampled_from([zipfile.ZIP_STORED, zipfile.ZIP_DEFLATED]))) as packed:
        for name in draw(st.lists(names, max_size=4, unique=True)):
            content = st.sampled_from([picture(), picture(), picture(3), b"", bytes(10**6)]) | st.binary(max_size=20)
            packed.writestr(name, draw(content))
    return file.getvalue()


def omniglot(**more: np.ndarray) -> bytes:
    """A packed file of two characters."""
    labels = {"alphabet": np.array([0, 1], np.uint8), "split": np.array([0, 1], np.uint8)}
    texts = {"alphabet_names": np.array(["a", "b"]), "split_names": np.array(["background", "evaluation"])}
    return arrays({"images": np.zeros((2, 20, 28, 28), np.uint8), **labels, **texts, **more})


IDX = bytes([0, 0, 8, 3, 0, 0, 0, 2, 0, 0, 0, 3, 0, 0, 0, 3]) + bytes(18)
LINE = {"step": 1, "used": [[0, 1, 0]], "skipped": False, "not_finite": [], "events": [{"event": "lost"}]}
MNIST = {name: np.zeros((3, 4, 4) if name[0] == "x" else 3, np.uint8) for name in ("x_train", "x_test")}
MNIST |= {name: np.zeros(3, np.uint8) for name in ("y_train", "y_test")}


def ledgers() -> st.SearchStrategy[bytes]:
    """Ledgers of some lines."""
    lines = st.lists(changed(LINE) | st.just(LINE), min_size=1, max_size=3)
    return damaged(lines.map(lambda some: "\n".join(map(json.dumps, some)).encode()))


def some(*whole: bytes) -> st.SearchStrategy[bytes]:
    """Damaged files of one kind."""
    return damaged(st.sampled_from(whole))


@cache
def targets() -> dict[str, Target]:
    """Every reader, by the kind of its files."""
    bomb = gzip.compress(bytes(10**7))
    state = flax({"a": celo()[f"{CELO}w1"], "b": {"c/d": np.zeros((), np.float32)}})
    return {
        "weights": Target("a.safetensors", some(*modules()), l2o.load),
        "weights, headers": Target("a.safetensors", headers(), l2o.load),
        "checkpoints": Target("a.safetensors", some(checkpoint()), resume),
        "checkpoints, trees": Target("a.safetensors", trees(), resume),
        "settings (YAML)": Target("config.yaml", configs(), read_configs),
        "ledgers (JSON)": Target("ledger.jsonl", ledgers(), ledger.audit),
        "library files, .npz": Target("a.npz", libraries() | damaged(libraries()), load_released),
        "library files, .npy": Target("a.npy", NPY | damaged(NPY), load_released),
        "library files, flax": Target("a.state", some(state), read_arrays),
        "drawings (zip)": Target("images_background.zip", zips() | damaged(zips()), read_omniglot_zip),
        "drawings (.npz)": Target(
            "omniglot_28.npz", some(omniglot()), lambda path: omniglot_characters.__wrapped__(root=str(path.parent))
        ),
        "digits (.npz)": Target("mnist.npz", some(arrays(MNIST)), read_npz),
        "digits (IDX)": Target("a-idx3-ubyte.gz", some(IDX, gzip.compress(IDX), bomb), read_idx),
        "pictures": Target(
            "mine/cat/a.png",
            some(picture(9), picture(9, "GIF"), picture(9, "BMP"), picture(9, "JPEG")),
            lambda path: image_folder.__wrapped__(str(path.parents[1])),
        ),
    }
