"""Tables of Ray's workers, from committed rows."""

from __future__ import annotations

from statistics import mean

from benchmarks.record import markdown, read, readable


def scaling() -> str:
    """Throughput, what the driver spends, and what a cluster is reckoned to reach."""
    rows = read("scaling")
    measured = [
        [row["pool"], *(f"{row[key]:.2f}" for key in ("step_seconds", "estimates_per_second"))]
        for row in rows
        if row["kind"] == "throughput"
    ]
    (pieces,) = (row for row in rows if row["kind"] == "pieces")
    (simulated,) = (row for row in rows if row["kind"] == "driver" and row["workers"] == 256)
    clusters = [row for row in rows if row["kind"] == "model"]
    reckoned = []
    for row in clusters:
        moved = readable(row["bytes_per_step"] / 1e6)
        long = readable(row["estimate_for_90_percent"])
        reckoned.append([str(row["workers"]), f"{100 * row['efficiency']:.0f}%", f"{long} s", moved])
    theta, gradient, state = (readable(pieces[f"{name}_bytes"] / 1e3) for name in ("theta", "gradient", "state"))
    caption = (
        f"Measured: a step moves {theta} kB of theta, {gradient} kB of gradient and a tenth of {state} kB of snapshot "
        f"for each worker, and takes the driver {readable(1e3 * pieces['call_seconds'])} ms for it (the worker's own "
        f"part included, on the same two cores); with 256 simulated workers, of which {simulated['lost']} died in "
        f"{rows[0]['config']['simulated_steps']} steps, the driver itself took "
        f"{readable(1e3 * simulated['driver_seconds'])} ms a step. Assumed: {clusters[0]['assumptions']}. "
        f"{rows[0]['machine']}, commit {rows[0]['commit']}."
    )
    heads = ["workers, reckoned", "time at work, estimates of 1 s", "estimates for 90%", "MB moved a step"]
    first = markdown(["workers", "seconds of a step", "estimates a second"], measured)
    return f"{first}\n\n{markdown(heads, reckoned, caption)}"


def soak() -> str:
    """How a long run on Ray fares while its workers die."""
    *course, end = read("soak")
    tenth = max(1, len(course) // 10)
    heads = ["minutes", "driver, MiB", "workers, MiB", "meta-loss", "of the undisturbed twin", "killed"]
    lines = []
    for part in [course[i : i + tenth] for i in range(1, len(course), tenth)]:
        minutes = f"{part[0]['seconds'] / 60:.0f} to {part[-1]['seconds'] / 60:.0f}"
        workers = [size for row in part for size in row["worker_mebibytes"]]
        driver = mean(row["driver_mebibytes"] for row in part)
        losses = (mean(row[key] for row in part) for key in ("meta_loss", "undisturbed_meta_loss"))
        sizes = (f"{size:.0f}" for size in (driver, mean(workers)))
        lines.append([minutes, *sizes, *(f"{loss:.3f}" for loss in losses), str(part[-1]["kills"])])
    at_work = end.get("kills_at_work")
    when = "between estimates" if at_work is None else f"at a random moment ({at_work} at work)"
    caption = (
        f"{end['steps']:,} outer steps in {end['seconds'] / 3600:.1f} hours, on a machine with other work. Once in "
        f"every {end['config']['kill_every']:.0f} s one of {end['config']['workers']} workers dies, {when}, unless "
        "it is starting; means over the time. After "
        f"{end['steps_of_other_theta']} steps theta differed from the twin's in a bit. The ledger has "
        f"{end['used']:,} estimates, {end['missing']} missing, none twice. {end['machine']}, commit {end['commit']}."
    )
    return markdown(heads, lines, caption)
