"""A trained module with its card, as a repository of the Hugging Face Hub."""

from __future__ import annotations

import tempfile
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import yaml
from torch import nn

from l2o import hub
from l2o.load import LEARNER_FILE, RUN_FILE, save
from l2o.rules.base import UpdateRule
from l2o.training.run import RunDirectory

USE = {
    True: "optimizer = l2o.LearnedOptimizer(model.parameters(), {name!r}, total_steps=10_000)",
    False: "learner = l2o.load({name!r})",
}


def push(
    module: nn.Module,
    name: str,
    run: str | Path | None = None,
    *,
    private: bool = False,
    token: str | None = None,
    message: str = "",
) -> str:
    """Put a module on the Hub, with a card written from the run that trained it.

    Arguments:
        name: `org/name`, as `l2o.load` takes it.
        run: the folder of that run; its settings and scores go into the card, nothing else of it.
        private: for you and your organisation alone, where the repository is made.
        token: of huggingface_hub; None for the one it keeps.

    Returns:
        where it can be seen.

    Raises:
        ValueError: the name is none, or the module could not be loaded again.
        FileNotFoundError: the run has no checkpoint.
    """
    if not hub.is_name(name) or "@" in name:
        raise ValueError(f"a name on the Hub must be org/name, of letters, digits, '-', '_' and '.'; got {name!r}.")
    with tempfile.TemporaryDirectory() as folder:
        write_repository(module, name, Path(folder), run)
        return hub.upload(Path(folder), name, private, token, message)


def write_repository(module: nn.Module, name: str, folder: Path, run: str | Path | None = None) -> None:
    """The files of the repository; errors as `push`."""
    text = card(module, name, run)  # what can fail comes first
    save(module, folder / (RUN_FILE if isinstance(module, UpdateRule) else LEARNER_FILE))
    (folder / "README.md").write_text(text, encoding="utf-8")


def card(module: nn.Module, name: str, run: str | Path | None = None) -> str:
    """The card of a module, as Markdown; errors as `push`."""
    is_rule = isinstance(module, UpdateRule)
    tags = ["l2o", "learned-optimizer" if is_rule else "meta-learning"]
    head = yaml.safe_dump({"library_name": "l2o", "tags": tags}, sort_keys=False)
    num = sum(p.numel() for p in module.parameters())
    parts = [
        f"---\n{head}---\n\n# {name.split('/')[1]}",
        f"{type(module).__name__} of l2o, {num:,} weights.",
        f"```python\nimport l2o\n\n{USE[is_rule].format(name=name)}\n```",
    ]
    if config := getattr(module, "config", {}):
        parts.append("## Made with\n\n" + _table({key: _short(value) for key, value in config.items()}))
    if run is not None:
        parts += _of_run(RunDirectory(run))
    return "\n\n".join(parts) + "\n"


def _of_run(directory: RunDirectory) -> list[str]:
    state = directory.newest() if directory.path.is_dir() else None
    if state is None:
        raise FileNotFoundError(
            f"a card is written from a run that has a checkpoint; there is none in {directory.path}."
        )
    settings = {key: _short(value) for key, value in (state.get("hyperparameters") or {}).items() if value is not None}
    reached = {key: f"{value:.4g}" for key, value in state["scores"].items()}
    reached |= {"lowest score of the run": f"{state['best']:.4g}"} if reached else {}
    told = f"{state['trainer']['num_steps']:,} outer steps, {state.get('cpu_seconds', 0) / 60:.1f} CPU minutes."
    parts = [f"## Trained\n\n{told}\n\n{_table(settings)}"]
    return [*parts, f"## Reached on held-out tasks\n\nLower is better.\n\n{_table(reached)}"] if reached else parts


def _short(value: Any) -> str:
    """A value in a cell; a folder of this machine by its name alone."""
    text = Path(value).name if isinstance(value, str) and Path(value).is_absolute() else str(value)
    text = " ".join(text.split()).replace("|", "\\|")
    return text if len(text) <= 80 else text[:77] + "..."


def _table(values: Mapping[str, str]) -> str:
    rows = ["| what | value |", "| --- | --- |", *(f"| {key} | {value} |" for key, value in values.items())]
    return "\n".join(rows)
