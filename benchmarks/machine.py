"""What this machine can do at best: the rates that floors are computed from.

python -m benchmarks.machine --threads 1
"""

from __future__ import annotations

import ctypes
import shutil
import subprocess
import tempfile
import time
from collections.abc import Callable, Iterator
from concurrent.futures import ThreadPoolExecutor
from contextlib import contextmanager
from dataclasses import dataclass
from functools import lru_cache
from pathlib import Path
from typing import Any

import torch
import tyro

VECTOR_SOURCE = """
#ifdef __AVX512F__
typedef float vector __attribute__((vector_size(64)));
#else
typedef float vector __attribute__((vector_size(32)));
#endif
/* ten chains of multiply-adds, all in registers: two units of latency four want eight */
float chains(long repeats, float a, float b) {
    vector x[10], va, vb;
    for (int k = 0; k < sizeof(vector) / 4; k++) { va[k] = a; vb[k] = b; }
    for (int i = 0; i < 10; i++) x[i] = vb * (float)i;
    for (long r = 0; r < repeats; r++)
        for (int i = 0; i < 10; i++) x[i] = x[i] * va + vb;
    float total = 0;
    for (int i = 0; i < 10; i++) for (int k = 0; k < sizeof(vector) / 4; k++) total += x[i][k];
    return total;
}
long width(void) { return sizeof(vector) / 4; }
"""


@lru_cache
def matrix_rate(threads: int, dtype: torch.dtype = torch.float32) -> float:
    """Operations a second of a large matrix product, a multiply-add counted as two."""
    num = 1024
    with _threads(threads), torch.no_grad():
        x, y, out = (torch.ones(num, num, dtype=dtype) for _ in range(3))
        return 2 * num**3 / _best(lambda: torch.mm(x, y, out=out))


@lru_cache
def vector_rate(threads: int) -> float:
    """Operations a second of multiply-adds in registers, a multiply-add counted as two: what no kernel can beat.

    The probe is ten lines of C; without a compiler it is the rate of the matrix product.
    """
    library = _library()
    if library is None:
        return matrix_rate(threads)
    repeats = 2_000_000

    def probe(_: int = 0) -> float:
        return float(library.chains(repeats, 0.999, 0.001))

    with ThreadPoolExecutor(threads) as pool:  # a foreign call lets other threads run
        seconds = _best(lambda: list(pool.map(probe, range(threads))))
    return 2 * 10 * library.width() * repeats * threads / seconds


@lru_cache
def bandwidth(threads: int, working_set: int = 2**29) -> float:
    """Bytes a second, read and written, over `working_set` bytes: small ones stay in the caches.

    The faster of a copy and a product in place: a copy also fetches what it overwrites, which no count shows.
    """
    num = min(max(working_set, 2**18), 2**29) // 4  # below, calls are measured, above, nothing changes
    with _threads(threads), torch.no_grad():
        x, half = torch.ones(num), num // 2
        calls = max(1, 2**24 // num)

        def copies() -> None:
            for _ in range(calls):
                x[:half].copy_(x[half : 2 * half])

        def products() -> None:
            for _ in range(calls):
                x.mul_(1.0)

        return 8 * calls * max(half / _best(copies), num / _best(products))


def rates(threads: int) -> dict[str, float]:
    """All of them, for a row."""
    return {
        "matrix_rate": matrix_rate(threads),
        "vector_rate": vector_rate(threads),
        "bandwidth": bandwidth(threads),
    }


def _best(function: Callable[[], Any], repeats: int = 7) -> float:
    function()
    times = []
    for _ in range(repeats):
        start = time.perf_counter()
        function()
        times.append(time.perf_counter() - start)
    return min(times)


@contextmanager
def _threads(num: int) -> Iterator[None]:
    """Torch's number of threads, for a while."""
    before = torch.get_num_threads()
    torch.set_num_threads(num)
    try:
        yield
    finally:
        torch.set_num_threads(before)


@lru_cache
def _library() -> Any:
    compiler = shutil.which("cc") or shutil.which("gcc") or shutil.which("clang")
    if compiler is None:
        return None
    with tempfile.TemporaryDirectory() as folder:
        source, library = Path(folder, "probe.c"), Path(folder, "probe.so")
        source.write_text(VECTOR_SOURCE)
        options = ["-O3", "-march=native", "-ffast-math", "-shared", "-fPIC"]
        made = subprocess.run([compiler, *options, str(source), "-o", str(library)], capture_output=True)
        if made.returncode:
            return None
        loaded = ctypes.CDLL(str(library))
    loaded.chains.restype = ctypes.c_float
    loaded.chains.argtypes = [ctypes.c_long, ctypes.c_float, ctypes.c_float]
    loaded.width.restype = ctypes.c_long
    return loaded


@dataclass(frozen=True)
class Config:
    """Everything that can change the result.

    Arguments:
        threads: CPU threads.
    """

    threads: int = 1


if __name__ == "__main__":
    config = tyro.cli(Config)
    for name, rate in rates(config.threads).items():
        print(f"{name} {rate / 1e9:.1f}e9 / s")
    for size in (2**18, 2**20, 2**22, 2**25):
        print(f"bandwidth within {size / 2**20:.2f} MiB {bandwidth(config.threads, size) / 1e9:.1f}e9 / s")
