"""Tables of what damaged files, faults and imports do, from committed rows."""

from __future__ import annotations

from collections.abc import Callable

from benchmarks.record import markdown, read, readable


def fuzz() -> str:
    """How many files each reader was given, and what was found."""
    rows = read("fuzz")
    lines = []
    for row in rows:
        numbers = (row["accepted"], row["refused"], len(row["findings"]), row["peak_megabytes"])
        lines.append([row["files"], *(f"{number:,}" for number in numbers)])
    minutes, cpu = (sum(row[key] for row in rows) / 60 for key in ("seconds", "cpu_seconds"))
    total = sum(row["accepted"] + row["refused"] for row in rows)
    caption = (
        f"{total:,} files drawn by hypothesis in {minutes:.0f} minutes of the clock, {cpu:.0f} of the CPU. A finding "
        "is any error but ValueError and FileNotFoundError, a file that appears or changes, 20 s of the CPU for one "
        f"file, or memory without end. {rows[0]['machine']}, commit {rows[0]['commit']}."
    )
    return markdown(["files", "accepted", "refused as documented", "findings", "peak memory, MB"], lines, caption)


def faults() -> str:
    """What each kind of fault cost."""
    rows = read("faults")
    heads = [
        "work",
        "fault",
        "file",
        "faults",
        "told",
        "ended as if nothing had been",
        "most steps lost",
        "silent harm",
    ]
    lines = []
    for row in rows:
        lost = (
            "" if row["most_steps_lost"] is None else f"{row['most_steps_lost']} of {row['steps_between_checkpoints']}"
        )
        numbers = [f"{row[key]:,}" for key in ("faults", "told", "recovered")]
        lines.append([row["subject"], row["fault"], row["file"], *numbers, lost, str(row["silent"])])
    total = sum(row["faults"] for row in rows)
    caption = (
        f"{total:,} faults, each in a run of its own of 10 steps that keeps checkpoints every second one; then the "
        "work goes on and must end with the same bits as one that nothing struck. Told: by an error, a warning or the "
        f"exit status. {rows[0]['machine']}, commit {rows[0]['commit']}."
    )
    return markdown(heads, lines, caption)


def import_time() -> str:
    """Seconds of each program."""
    rows = read("import_time")
    lines = []
    for row in rows:
        seconds = f"{readable(row['cpu_seconds'])} [{readable(row['low'])}, {readable(row['high'])}]"
        lines.append([f"`{row['program']}`", seconds, f"{row['ratio_to_torch']:.2f}x"])
    caption = f"Medians of {rows[0]['config']['repeats']}, in turn. {rows[0]['machine']}, commit {rows[0]['commit']}."
    return markdown(["program", "seconds of the CPU [range]", "of `import torch`"], lines, caption)


def torch_suite() -> str:
    """How many of torch's own tests each rule passes."""
    rows = read("torch_suite")
    lines = []
    for row in rows:
        counts = (len(row[key]) for key in ("skipped", "excepted", "failed"))
        lines.append([row["rule"], str(row["passed"]), *map(str, counts)])
    reasons = {f"`{name}`: {why}" for row in rows for name, why in row["excepted"].items()}
    versions = f"torch {rows[0]['versions']['torch']}, the suite's file has sha256 {rows[0]['file_sha256'][:12]}"
    caption = f"Excepted: {'; '.join(sorted(reasons))}. {versions}, {rows[0]['machine']}, commit {rows[0]['commit']}."
    return markdown(["rule", "passed", "need a GPU", "excepted", "failed"], lines, caption)


def clients() -> str:
    """Both optimizers in every library."""
    rows = read("clients")
    lines = []
    for row in rows:
        cells = (f"{row[m]:.4g} [{row[f'{m}_low']:.4g}, {row[f'{m}_high']:.4g}]" for m in ("ours", "adamw"))
        lines.append([row["client"], row["measure"], *cells, "yes" if row["below"] else "no"])
    first, below = rows[0], sum(row["below"] for row in rows)
    caption = (
        f"Below AdamW's default on {below} of {len(rows)}. The last tenth of {first['config']['steps']} steps, means "
        f"of {first['config']['seeds']} seeds; reinforcement learning takes the steps that its episodes ask for. "
        f"{first['machine']}, commit {first['commit']}."
    )
    return markdown(["client", "measure", "ours [95%]", "AdamW's default [95%]", "below"], lines, caption)


TABLES: dict[str, Callable[[], str]] = {
    "fuzz": fuzz,
    "faults": faults,
    "import_time": import_time,
    "torch_suite": torch_suite,
    "clients": clients,
}
