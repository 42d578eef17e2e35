"""Draws the house: which part of l2o may import which, as `setup.cfg` says and `lint-imports` checks.

python docs/house.py          # writes docs/house.svg
"""

from __future__ import annotations

import configparser
from html import escape
from pathlib import Path

ROOT = Path(__file__).parents[1]
SAYS = {
    "cli": "the command l2o",
    "agents": "agents that change themselves",
    "training": "in which loop",
    "distributed": "where",
    "estimators": "how theta is improved",
    "learners": "how a model adapts",
    "inner_loop": "a rule training a task",
    "optim": "the drop-in optimizer",
    "load": "names and paths",
    "released": "weights of others",
    "saved": "a module as a file",
    "rules": "how parameters move",
    "tasks": "what is learned",
    "kernels": "rules, fast",
    "types": "shared words",
}
WIDTH, HEIGHT, GAP = 760, 44, 8


def layers() -> list[list[str]]:
    """Modules that may not import each other, row by row, from the top."""
    config = configparser.ConfigParser()
    config.read(ROOT / "setup.cfg")
    rows = config["importlinter:contract:layers"]["layers"].split("\n")
    return [[name.strip().removeprefix("l2o.") for name in row.split(":")] for row in rows if row.strip()]


def draw(path: Path) -> None:
    """Write the picture: a row imports from the rows below it, never from those above."""
    rows = layers()
    height = len(rows) * (HEIGHT + GAP) + 40
    parts = [
        f'<svg xmlns="http://www.w3.org/2000/svg" viewBox="0 0 {WIDTH} {height}" font-family="sans-serif" role="img">',
        "<title>The layers of l2o: each imports from those below it only</title>",
        f'<text x="{WIDTH / 2}" y="16" text-anchor="middle" font-size="13" fill="#777">imports point down</text>',
    ]
    for i, row in enumerate(rows):
        y, width = 26 + i * (HEIGHT + GAP), (WIDTH - GAP * (len(row) - 1)) / len(row)
        for j, name in enumerate(row):
            x = j * (width + GAP)
            parts.append(f'<rect x="{x:g}" y="{y}" width="{width:g}" height="{HEIGHT}" rx="6" fill="#4b6b9a"/>')
            lines = [(name, 14, 17 if name in SAYS else 27)] + ([(SAYS[name], 11, 34)] if name in SAYS else [])
            for text, size, down in lines:
                parts.append(
                    f'<text x="{x + width / 2:g}" y="{y + down}" text-anchor="middle" font-size="{size}" '
                    f'fill="white">{escape(text)}</text>'
                )
    path.write_text("\n".join([*parts, "</svg>\n"]))


if __name__ == "__main__":
    draw(Path(__file__).parent / "house.svg")
