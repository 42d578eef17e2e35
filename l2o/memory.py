"""How a process that trains at a steady size keeps its memory."""

from __future__ import annotations

import ctypes
import sys

M_TRIM_THRESHOLD, M_TOP_PAD, M_MMAP_MAX = -1, -2, -4
"""Of malloc.h."""


def keep_freed_memory() -> bool:
    """Have the C library keep what is freed for the next step, in place of handing it back to the system.

    Meta-training on a CPU allocates and frees the same megabytes in every inner step. Handed back and asked for again,
    they are mapped, filled with zeros and unmapped each time; `benchmarks.meta_throughput --no-keep-freed` shows what
    that costs. Afterwards the process stays as large as it once was. It holds for the whole process, so a library does
    not do it unasked; the command `l2o` does.

    Returns:
        whether it could be done: on Linux, with glibc.
    """
    if not sys.platform.startswith("linux"):
        return False
    mallopt = getattr(ctypes.CDLL(None), "mallopt", None)
    if mallopt is None:
        return False
    settings = {M_MMAP_MAX: 0, M_TRIM_THRESHOLD: 2**31 - 1, M_TOP_PAD: 2**26}
    return all([bool(mallopt(key, value)) for key, value in settings.items()])
