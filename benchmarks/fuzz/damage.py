"""What hypothesis makes of whole files and plain values: damaged and hostile ones."""

from __future__ import annotations

import copy
from collections.abc import Callable
from typing import Any

from hypothesis import strategies as st

NAMES = ["../../outside", "/tmp/outside", "C:\\outside", "a" * 300, ".", "..", "a/../../b", "é", "-rf"]
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


def some(*whole: bytes) -> st.SearchStrategy[bytes]:
    """Damaged files of one kind."""
    return damaged(st.sampled_from(whole))


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
