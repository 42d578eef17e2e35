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
    reckoned = "; ".join(
        f"{row['workers']}: {100 * row['efficiency']:.0f}% of their time at work with estimates of a second, 90% with "
        f"ones of {readable(row['estimate_for_90_percent'])} s"
        for row in clusters
    )
    lines += [
        "",
        f"A worker moves {readable(pieces['theta_bytes'] / 1e3)} kB of theta, {readable(pieces['gradient_bytes'] / 1e3)} "
        f"kB of gradient and a tenth of {readable(pieces['state_bytes'] / 1e6)} MB of snapshot a step, and costs the "
        f"driver {readable(1e3 * pieces['call_seconds'])} ms, with the workers' own part, which shares its two cores "
        f"here. With 256 simulated workers, of which {simulated['lost']} died in {rows[0]['config']['simulated_steps']} "
        f"steps, the driver itself took {readable(1e3 * simulated['driver_seconds'])} ms a step. From these pieces, "
        f"workers that wait for each other are reckoned to spend: {reckoned}. Assumed: {clusters[0]['assumptions']}. "
        f"{rows[0]['machine']}, commit {rows[0]['commit']}.",
    ]
    return "\n".join(lines)
