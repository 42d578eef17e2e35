"""How an agent became what it is: every trial in one ledger, every accepted version in a file of its own."""

from __future__ import annotations

import hashlib
import json
import os
import re
import warnings
from pathlib import Path
from typing import Any

from l2o.agents.gate import Verdict, told
from l2o.agents.spec import AgentSpec, Part, Proposal
from l2o.files import write_atomically
from l2o.training.checkpoint import fingerprint, load_tree, save_tree

NAME = re.compile(r"[A-Za-z0-9_.][A-Za-z0-9_./ -]*")


class LineageWarning(UserWarning):
    """Something of a lineage was damaged; what was good is kept."""


class Lineage:
    """The folder of an agent's versions.

    ledger.jsonl    a line for each trial, and one for each part at the start
    versions/       PART-TRIAL.safetensors: values that were accepted

    A line carries the checksum of its version's value and, chained, its own and that of all lines before it. It is
    appended by one write, after the file; so a process that dies leaves a whole lineage, perhaps with a torn last line
    or with a file that no line names, and both are as if that trial had not begun. A line or a file that was damaged
    later is told by a `LineageWarning`; the agent is then made of the last good version of each part.

    Arguments:
        folder: of the lineage; made if there is none.
    """

    def __init__(self, folder: str | Path) -> None:
        self.folder = Path(folder)
        self.path = self.folder / "ledger.jsonl"
        self.lines: list[dict[str, Any]] = _verified(self.path) if self.path.exists() else []

    @property
    def num_trials(self) -> int:
        """Trials so far."""
        return sum(line["trial"] > 0 for line in self.lines)

    def trials_of(self, part: str) -> int:
        """Trials of one part."""
        return sum(line["trial"] > 0 and line["part"] == part for line in self.lines)

    def begin(self, spec: AgentSpec) -> None:
        """Note an agent's first parts; those that are noted already stay as they are."""
        known = {line["part"] for line in self.lines}
        for name, part in spec.parts.items():
            if name not in known:
                self._append({"trial": 0, "part": name, "accepted": True, "sha256": self._keep(name, 0, part.value)})

    def record(self, spec: AgentSpec, proposal: Proposal, verdict: Verdict, **notes: Any) -> tuple[AgentSpec, Verdict]:
        """Add a trial; returns the agent after it, the very same one where the proposal was rejected, and the verdict.

        A value that no file can hold is rejected after all.

        Arguments:
            spec: the agent that the proposal was made to.
            notes: further plain values for the line.
        """
        number, sha256 = self.num_trials + 1, None
        if verdict.accepted:
            try:
                sha256 = self._keep(proposal.part, number, proposal.value)
            except TypeError:
                verdict = verdict._replace(accepted=False, reason="no file can hold it")
        parent = spec.parts[proposal.part].version if proposal.part in spec.parts else None
        line = {"trial": number, "part": proposal.part, "by": proposal.by, "parent": parent, **told(verdict), **notes}
        self._append(line | ({"sha256": sha256} if verdict.accepted else {}))
        after = spec.replaced(proposal.part, proposal.value, number) if verdict.accepted else spec
        return after, verdict

    def spec(self) -> AgentSpec:
        """The agent as the ledger tells it: of each part the last accepted version whose file is whole.

        Raises:
            ValueError: no version of a part is.
        """
        parts: dict[str, Part] = {}
        for name in dict.fromkeys(line["part"] for line in self.lines if line["trial"] == 0):
            accepted = [line for line in self.lines if line["part"] == name and line["accepted"]]
            for line in reversed(accepted):
                value = self._load(line)
                if value is not None:
                    parts[name] = Part(line["trial"], value[0])
                    break
            else:
                raise ValueError(f"a part needs a version that is whole; of {name!r} in {self.folder} none is.")
        return AgentSpec(parts)

    def rewind(self, lines: list[dict[str, Any]]) -> None:
        """Go back to a ledger of an earlier moment, such as a checkpoint holds: later trials are to be made again.

        A ledger that is not its continuation has been damaged: that is told, and the earlier one is put in its place.
        """
        if self.lines[: len(lines)] != lines:
            warnings.warn(
                f"{self.path} has other lines than its checkpoint; those of the checkpoint are kept.",
                LineageWarning,
                stacklevel=2,
            )
        self.lines = [dict(line) for line in lines]
        write_atomically(self.path, "".join(json.dumps(line) + "\n" for line in self.lines).encode())

    def version(self, part: str, number: int) -> Any:
        """The value of a part that trial `number` accepted.

        Raises:
            ValueError: it did not, or the file is damaged.
        """
        for line in self.lines:
            if line["part"] == part and line["trial"] == number and line["accepted"]:
                found = self._load(line)
                if found is not None:
                    return found[0]
        raise ValueError(f"{part!r} has no whole version {number} in {self.folder}.")

    def _file(self, part: str, number: int) -> Path:
        if not NAME.fullmatch(part) or ".." in part:
            raise ValueError(f"a part's name must be one that a file can have; got {part!r}.")
        return self.folder / "versions" / f"{part.replace('/', '_')}-{number:05d}.safetensors"

    def _keep(self, part: str, number: int, value: Any) -> str:
        path = self._file(part, number)
        save_tree(value, path)
        return fingerprint(value)

    def _load(self, line: dict[str, Any]) -> tuple[Any] | None:
        """The value of an accepted line in a tuple; None, and a warning, where its file is damaged."""
        path = self._file(line["part"], line["trial"])
        try:
            value = load_tree(path)
            if fingerprint(value) != line["sha256"]:
                raise ValueError("its checksum is another one")
            return (value,)
        except (OSError, ValueError) as error:
            warnings.warn(f"{path} is damaged, its parent is taken: {error}", LineageWarning, stacklevel=4)
            return None

    def _append(self, line: dict[str, Any]) -> None:
        line = line | {"chain": _chained(self.lines[-1]["chain"] if self.lines else "", line)}
        self.folder.mkdir(parents=True, exist_ok=True)
        handle = os.open(self.path, os.O_WRONLY | os.O_APPEND | os.O_CREAT, 0o644)
        try:
            os.write(handle, (json.dumps(line) + "\n").encode())
            os.fsync(handle)
        finally:
            os.close(handle)
        self.lines.append(line)


def _chained(before: str, line: dict[str, Any]) -> str:
    return hashlib.sha256((before + json.dumps(line, sort_keys=True)).encode()).hexdigest()[:16]


def _is_trial(line: dict[str, Any]) -> bool:
    """Whether a line says what its readers ask it for."""
    kinds = {"trial": int, "part": str, "accepted": bool} | ({"sha256": str} if line.get("accepted") else {})
    return all(type(line.get(key)) is kind for key, kind in kinds.items())


def _verified(path: Path) -> list[dict[str, Any]]:
    """The lines of a ledger up to the first that is damaged; if there is one, the whole file is kept beside it."""
    data = path.read_bytes()
    good: list[dict[str, Any]] = []
    before, length, fault = "", 0, ""
    for number, text in enumerate(data.splitlines(keepends=True), 1):
        try:
            line = json.loads(text)
            chain = line.pop("chain")
            if not text.endswith(b"\n") or chain != _chained(before, line) or not _is_trial(line):
                raise ValueError("checksum")
        except (ValueError, KeyError, AttributeError, TypeError, RecursionError):
            fault = f"line {number}"
            break
        good.append(line | {"chain": chain})
        before, length = chain, length + len(text)
    if fault:
        torn = not data.endswith(b"\n") and data.count(b"\n") == len(good)
        write_atomically(path.with_name(path.name + ".damaged"), data)
        write_atomically(path, data[:length])
        what = "was torn when a process died" if torn else "does not have its checksum"
        warnings.warn(
            f"{fault} of {path} {what}; the {len(good)} lines before it are kept, the file as it was is beside it.",
            LineageWarning,
            stacklevel=3,
        )
    return good
