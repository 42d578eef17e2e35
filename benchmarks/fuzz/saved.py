"""Weights, checkpoints, settings and ledgers: what l2o writes and reads itself."""

from __future__ import annotations

import json
import tempfile
from collections.abc import Callable
from functools import cache
from pathlib import Path
from typing import Any

import torch
import yaml
from hypothesis import strategies as st

import l2o
from benchmarks.fuzz.damage import JSON, SCALARS, changed, damaged
from l2o.distributed import LocalPool
from l2o.estimators import PES, Problems, Truncation
from l2o.learners import MAML, MLP, Adaptation, PrototypicalNetwork
from l2o.rules import SGD, Adam, LSTMRule, MatrixRule, MLPRule, Scaled
from l2o.saved import to_bytes
from l2o.tasks import Quadratics
from l2o.tensor_file import pack, take_apart, unpack
from l2o.training.checkpoint import load_tree, save_tree
from l2o.training.config import MetaTrainConfig, read_config, to_plain
from l2o.training.learn import LearnConfig
from l2o.training.meta_trainer import MetaTrainer, theta_of

LINE = {"step": 1, "used": [[0, 1, 0]], "skipped": False, "not_finite": [], "events": [{"event": "lost"}]}


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


def ledgers() -> st.SearchStrategy[bytes]:
    """Ledgers of some lines."""
    lines = st.lists(changed(LINE) | st.just(LINE), min_size=1, max_size=3)
    return damaged(lines.map(lambda some: "\n".join(map(json.dumps, some)).encode()))
