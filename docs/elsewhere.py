"""Brings pages that stand beside what they tell of, such as model cards, into the site, with the links to them."""

from __future__ import annotations

import os
import re
from collections.abc import Callable
from pathlib import Path

DOCS = Path(__file__).parent
ROOT = DOCS.parent
COPIES = DOCS / "_elsewhere"
PAGES = [*sorted(ROOT.glob("l2o/weights/*.md")), ROOT / "benchmarks/clients/README.md", ROOT / "agents/README.md"]

LINK = re.compile(r"\]\((?!https?:)([^)#]+)")


def copy() -> None:
    """Write the copies; their links lead to where the originals' do."""
    for page in PAGES:
        copied = _copied(page)
        copied.parent.mkdir(parents=True, exist_ok=True)
        copied.write_text(_relinked(page.read_text(), page.parent, copied.parent, lambda target: True))


def relink(text: str, folder: Path) -> str:
    """A page of the docs whose links to the originals lead to the copies."""
    return _relinked(text, folder, folder, lambda target: target in PAGES)


def _relinked(text: str, old: Path, new: Path, moved: Callable[[Path], bool]) -> str:
    def lead(link: re.Match[str]) -> str:
        target = (old / link[1]).resolve()
        return f"]({os.path.relpath(_copied(target), new)}" if moved(target) else link[0]

    return LINK.sub(lead, text)


def _copied(page: Path) -> Path:
    return COPIES / page.relative_to(ROOT) if page in PAGES else page
