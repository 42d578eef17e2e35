"""Writes the page of benchmarks from committed rows, with the writers of the README's tables."""

from __future__ import annotations

import ast
from pathlib import Path

from benchmarks import robustness
from benchmarks.readme import TABLES
from benchmarks.record import RESULTS

BENCHMARKS = Path(__file__).parents[1] / "benchmarks"
TITLES = {
    "quickstart": "Two rules after minutes of meta-training",
    "optimizers": "The optimizer in the box, untuned, on problems it never saw",
    "celo": "Beside Celo's released weights",
    "versions": "Versions of the optimizer in the box",
    "speed": "Speed, beside others",
    "few_shot": "Few-shot classification of Omniglot",
    "meta_step": "What a meta-iteration costs",
    "sinusoid": "Regression of sinusoids",
    "inner_rule": "A learned rule inside MAML",
    "outer_rule": "A learned rule that trains learners",
    "scaling": "Ray's workers",
    "soak": "A long run whose workers die",
}


def page(path: Path) -> None:
    """Write the page: a section for each table, then one for each file of benchmarks/ with its question."""
    parts = [
        "# Benchmarks",
        "Every table is written from the rows in `benchmarks/results`, which carry their config, commit, versions and "
        "machine. One command each makes them again.",
    ]
    written = {name: table for name, table in robustness.TABLES.items() if (RESULTS / f"{name}.jsonl").exists()}
    for name, table in (TABLES | written).items():
        parts += [f"## {(TITLES | robustness.TITLES)[name]}", table()]
    parts += ["## Every question", "| question | command |\n| --- | --- |\n" + "\n".join(questions())]
    path.write_text("\n\n".join(parts) + "\n")


def questions() -> list[str]:
    """A line for each benchmark: the question that its docstring begins with, and the command."""
    found = []
    for file in sorted([*BENCHMARKS.glob("*.py"), *BENCHMARKS.glob("*/__main__.py")]):
        text = ast.get_docstring(ast.parse(file.read_text())) or ""
        command = next((line.strip() for line in text.splitlines() if line.strip().startswith("python -m")), "")
        command = command.split("  #")[0].strip()
        if command and text.split("\n")[0].rstrip(")").split("(")[0].strip().endswith("?"):
            found.append(f"| {text.splitlines()[0]} | `{command}` |")
    return found
