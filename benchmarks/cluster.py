"""The README's tables of Ray's workers, from committed rows."""

from __future__ import annotations

from benchmarks.record import read, readable


def scaling() -> str:
    """Throughput, what the driver spends, and what a cluster is reckoned to reach."""
    rows = read("scaling")
    lines = ["| workers | seconds of a step | estimates a second |", "| --- | --- | --- |"]
    for row in rows:
        if row["kind"] == "throughput":
            lines.append(f"| {row['pool']} | {row['step_seconds']:.2f} | {row['estimates_per_second']:.2f} |")
    (pieces,) = (row for row in rows if row["kind"] == "pieces")
    (simulated,) = (row for row in rows if row["kind"] == "driver" and row["workers"] == 256)
    clusters = [row for row in rows if row["kind"] == "model"]
    lines += ["", "| workers, reckoned | time at work, estimates of 1 s | estimates for 90% | MB moved a step |"]
    lines.append("| --- | --- | --- | --- |")
    for row in clusters:
        moved = readable(row["bytes_per_step"] / 1e6)
        long = readable(row["estimate_for_90_percent"])
        lines.append(f"| {row['workers']} | {100 * row['efficiency']:.0f}% | {long} s | {moved} |")
    theta, gradient, state = (readable(pieces[f"{name}_bytes"] / 1e3) for name in ("theta", "gradient", "state"))
    lines += [
        "",
        f"Measured: a step moves {theta} kB of theta, {gradient} kB of gradient and a tenth of {state} kB of snapshot "
        f"for each worker, and takes the driver {readable(1e3 * pieces['call_seconds'])} ms for it (the worker's own "
        f"part included, on the same two cores); with 256 simulated workers, of which {simulated['lost']} died in "
        f"{rows[0]['config']['simulated_steps']} steps, the driver itself took "
        f"{readable(1e3 * simulated['driver_seconds'])} ms a step. Assumed: {clusters[0]['assumptions']}. "
        f"{rows[0]['machine']}, commit {rows[0]['commit']}.",
    ]
    return "\n".join(lines)
