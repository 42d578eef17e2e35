"""Weights that a learner starts from in place of fresh ones: those of another one, or of its encoder."""

from __future__ import annotations

from pathlib import Path

from torch import nn

from l2o.configured import Configured
from l2o.learners.adaptation import Adaptation
from l2o.load import LEARNER_FILE, load
from l2o.training.run import RunDirectory


def take_weights(learner: nn.Module, start: str) -> None:
    """Give a learner the slow weights of a saved one.

    Arguments:
        start: the file, or the folder of a run for its best one.

    Raises:
        ValueError: it is no learner, or has other weights.
    """
    _take(learner, _saved("start", start), f"start must have the same weights as this learner; {start}")


def take_encoder(learner: nn.Module, path: str) -> None:
    """Give a learner's encoder the weights of a saved one's, which may be a learner of another kind.

    Arguments:
        path: the file, or the folder of a run for its best one.

    Raises:
        ValueError: one of them has no encoder, or they are different networks.
    """
    ours, theirs = (getattr(of, "encoder", None) for of in (learner, _saved("encoder", path)))
    for name, found in ((type(learner).__name__, ours), (path, theirs)):
        if not isinstance(found, nn.Module):
            raise ValueError(f"encoder is for learners that have one, and of one that has; {name} has none.")
    assert isinstance(ours, nn.Module) and isinstance(theirs, nn.Module)
    told = f"encoder must be the same network as this learner's; {path}"
    if isinstance(ours, Configured) and type(ours) is type(theirs):
        others = [name for name in ours.config if name != "precision" and ours.config[name] != theirs.config[name]]
        had, mine = ({name: of.config[name] for name in others} for of in (theirs, ours))
        if others:
            raise ValueError(f"{told} has {had}, this one {mine}.")
    _take(ours, theirs, told)


def _saved(name: str, path: str) -> nn.Module:
    best = RunDirectory(Path(path).expanduser(), file=LEARNER_FILE).best
    found = load(best if best.is_file() else path)
    if not isinstance(found, Adaptation):
        raise ValueError(f"{name} must be a saved learner, for its slow weights; {path} is a {type(found).__name__}.")
    return found.learner


def _take(ours: nn.Module, theirs: nn.Module, told: str) -> None:
    state = theirs.state_dict()
    given = {name: tuple(x.shape) for name, x in state.items()}
    wanted = {name: tuple(x.shape) for name, x in ours.state_dict().items()}
    if given != wanted:
        differing = sorted({name for name, _ in given.items() ^ wanted.items()})[:3]
        shapes = "; ".join(f"{name}: {given.get(name, 'none')}, not {wanted.get(name, 'none')}" for name in differing)
        raise ValueError(f"{told} has others ({shapes}).")
    ours.load_state_dict(state)
