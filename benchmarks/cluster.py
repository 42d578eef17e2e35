"""Tables of Ray's workers, from committed rows."""

from __future__ import annotations

from statistics import mean

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


def soak() -> str:
    """How a long run on Ray fares while its workers die."""
    *course, end = read("soak")
    tenth = max(1, len(course) // 10)
    lines = ["| minutes | driver, MiB | workers, MiB | meta-loss | of the undisturbed twin | killed |"]
    lines.append("| --- | --- | --- | --- | --- | --- |")
    for part in [course[i : i + tenth] for i in range(1, len(course), tenth)]:
        minutes = f"{part[0]['seconds'] / 60:.0f} to {part[-1]['seconds'] / 60:.0f}"
        workers = [size for row in part for size in row["worker_mebibytes"]]
        driver = mean(row["driver_mebibytes"] for row in part)
        losses = (mean(row[key] for row in part) for key in ("meta_loss", "undisturbed_meta_loss"))
        shown = [f"{driver:.0f}", f"{mean(workers):.0f}", *(f"{loss:.3f}" for loss in losses), str(part[-1]["kills"])]
        lines.append(f"| {minutes} | " + " | ".join(shown) + " |")
    at_work = end.get("kills_at_work")
    when = "between estimates" if at_work is None else f"at a random moment ({at_work} at work)"
    lines += [
        "",
        f"{end['steps']:,} outer steps in {end['seconds'] / 3600:.1f} hours, on a machine with other work. Once in "
        f"every {end['config']['kill_every']:.0f} s one of {end['config']['workers']} workers dies, {when}, unless "
        "it is starting; means over the time. After "
        f"{end['steps_of_other_theta']} steps theta differed from the twin's in a bit. The ledger has "
        f"{end['used']:,} estimates, {end['missing']} missing, none twice. {end['machine']}, commit {end['commit']}.",
    ]
    return "\n".join(lines)
