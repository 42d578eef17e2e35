"""The documentation's site: pages in Markdown, the API from docstrings, pictures and copies made when it is built."""

from __future__ import annotations

import re
import sys
from importlib import metadata
from pathlib import Path
from typing import Any

HERE = Path(__file__).parent
sys.path[:0] = [str(HERE.parent), str(HERE)]

import elsewhere  # noqa: E402  (they stand beside this file, which Sphinx executes)
import house  # noqa: E402

project, author = "l2o", "The l2o authors"
release = metadata.version("l2o")
extensions = ["myst_parser", "sphinx.ext.autodoc", "sphinx.ext.napoleon"]
html_theme = "furo"
html_title = f"l2o {release}"
exclude_patterns = ["_build"]
myst_heading_anchors = 3
autodoc_member_order = "bysource"
autodoc_typehints = "signature"
autodoc_default_options = {"members": True, "show-inheritance": True}
napoleon_numpy_docstring = False

CODE = re.compile(r"(`[^`]+`)")


def plain_to_rst(app: Any, what: str, name: str, obj: Any, options: Any, lines: list[str]) -> None:
    """Docstrings are plain text with `code` in it; Sphinx reads reStructuredText, in which * | _ mean something."""
    for i, line in enumerate(lines):
        parts = CODE.split(line)
        lines[i] = "".join(
            f"`{part}`" if CODE.fullmatch(part) else re.sub(r"([*|\\])", r"\\\1", part) for part in parts
        )
        lines[i] = re.sub(r"(?<!`)(\w)_(?=[\s,.;:)]|$)", r"\1\\_", lines[i])


def lead_to_copies(app: Any, name: str, source: list[str]) -> None:
    """Links to pages outside of this folder lead to their copies in the site."""
    source[0] = elsewhere.relink(source[0], (HERE / name).parent)


def setup(app: Any) -> None:
    """Make what is made, before the pages are read."""
    house.draw(HERE / "house.svg")
    elsewhere.copy()
    app.connect("source-read", lead_to_copies)
    app.connect("autodoc-process-docstring", plain_to_rst, priority=100)  # before napoleon
