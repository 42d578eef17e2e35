"""Starts a peer's process and has it run one repetition at a time, so that repeats of all systems can alternate.

A folder of peers, made by hand and never part of this repository, holds

    venv_jax      jax, flax, dm-haiku, optax, gin-config, chex, absl-py, oryx, scikit-learn
    venv_torch    torch, numpy, huggingface_hub, safetensors, mup, higher, torchopt
    refs          checkouts: learned_optimization (google), celo (amoudgl), pylo (Belilovsky-Lab), learn2learn
                  (learnables; its C files built in place: cython and setuptools < 81 in venv_torch, then
                  `python setup.py build_ext --inplace`; it imports gym 0.26, scipy, requests and torchvision)

and is named by `--peers` or the environment variable L2O_PEERS.
"""

from __future__ import annotations

import json
import os
import subprocess
import sys
import tempfile
from dataclasses import dataclass
from functools import lru_cache
from pathlib import Path
from typing import Any, NoReturn

HERE = Path(__file__).parent


def default_peers() -> Path | None:
    """The folder that L2O_PEERS names."""
    return Path(os.environ["L2O_PEERS"]) if os.environ.get("L2O_PEERS") else None


@dataclass(frozen=True)
class Peers:
    """A folder of peers; without one, every peer is absent.

    Arguments:
        folder: where the environments and checkouts are, or None.
        threads: CPU threads of each peer.
    """

    folder: Path | None
    threads: int

    def start(self, script: str, *arguments: object, venv: str) -> Peer | None:
        """The peer of `benchmarks/peers/SCRIPT.py` at work, or None with a line that says what is missing."""
        if self.folder is None:
            _tell("other systems are left out, because --peers was not given")
            return None
        python = self.folder / venv / "bin" / "python"
        if not python.exists():
            _tell(f"{script} is left out, because there is no {python}")
            return None
        options = [*map(str, arguments), "--threads", str(self.threads), "--refs", str(self.folder.resolve() / "refs")]
        return Peer([str(python), str(HERE / f"{script}.py"), *options], self.threads)


@lru_cache
def _tell(text: str) -> None:
    """Said once."""
    print(text, file=sys.stderr)


class Peer:
    """One process; alive from its construction to `close`.

    Arguments:
        command: interpreter, script, options.
        threads: CPU threads, as far as the environment sets them.
    """

    def __init__(self, command: list[str], threads: int) -> None:
        self.command = command
        self._errors = tempfile.TemporaryFile("w+")  # noqa: SIM115 - closed with the process
        environment = {**os.environ, "OMP_NUM_THREADS": str(threads), "JAX_PLATFORMS": "cpu", "PYTHONUNBUFFERED": "1"}
        environment.pop("PYTHONPATH", None)
        self._process = subprocess.Popen(
            command,
            stdin=subprocess.PIPE,
            stdout=subprocess.PIPE,
            stderr=self._errors,
            text=True,
            env=environment,
        )
        self.facts = self._answer()
        """What the first call took (`first_call_seconds`), and whatever else the script tells of itself."""

    def run(self) -> tuple[float, float]:
        """One repetition: wall and CPU seconds."""
        answer = self._ask("run")
        return answer["wall"], answer["cpu"]

    def memory(self) -> int:
        """Bytes that the process grows by in one repetition, at most."""
        return int(self._ask("memory")["bytes"])

    def close(self) -> None:
        """End the process."""
        if self._process.stdin is not None:
            self._process.stdin.close()
        try:
            self._process.wait(timeout=10)
        except subprocess.TimeoutExpired:
            self._process.kill()
            self._process.wait()
        self._errors.close()

    def _ask(self, line: str) -> dict[str, Any]:
        assert self._process.stdin is not None
        try:
            self._process.stdin.write(line + "\n")
            self._process.stdin.flush()
        except BrokenPipeError:
            self._fail()
        return self._answer()

    def _answer(self) -> dict[str, Any]:
        assert self._process.stdout is not None
        line = self._process.stdout.readline()
        if not line:
            self._fail()
        answer: dict[str, Any] = json.loads(line)
        return answer

    def _fail(self) -> NoReturn:
        code = self._process.wait()
        self._errors.seek(0)
        tail = "".join(self._errors.readlines()[-15:])
        raise RuntimeError(f"a peer must answer, but {' '.join(self.command)} ended with code {code}:\n{tail}")
