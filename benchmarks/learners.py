"""Tables of learners, from committed rows."""

from __future__ import annotations

from math import hypot, sqrt
from statistics import mean
from typing import Any, NamedTuple

from benchmarks import gaussian_classes as gaussian
from benchmarks.record import markdown, read, readable

BESIDE = ("Adam", "its rate", "the optimizer in the box", "CPU minutes", "difference")
"""Heads of what `side_by_side` finds."""


def few_shot() -> str:
    """Accuracy on Omniglot, by learner."""
    rows = read("few_shot")
    order = list(dict.fromkeys(row["learner"] for row in rows))
    rows.sort(key=lambda row: (order.index(row["learner"]), "steps" not in row))  # what is judged again comes after
    heads = ["learner", "way", "accuracy, 1 shot", "how queries are normalised", "outer steps", "CPU minutes"]
    lines = []
    for row in rows:
        accuracy = f"{100 * row['score']:.2f}% ± {100 * row['half_interval']:.2f}"
        steps = f"{row['steps']:,}" + ", stopped there" * ("stopped" in row) if "steps" in row else ""
        together = "together" if row["norm"] == "batch" else "alone"
        encoder = row.get("settings", {}).get("encoder")
        name = row["learner"] + (f", encoder of {encoder}" if encoder else "")
        lines.append([name, str(row["way"]), accuracy, together, steps, _minutes(row)])
    first = rows[0]
    caption = (
        f"Conv4-64, the 423 test characters, {first['episodes']:,} episodes, 95% interval over episodes, one seed; the "
        "checkpoint is chosen on 100 other characters. An encoder's own training is not in the CPU minutes of the "
        "learner that begins with it. Queries normalised together tell each other what they are "
        f"(transductive). One thread of {first['machine']}, commits {_commits(rows, 'trained_at')}."
    )
    return markdown(heads, lines, caption)


def sinusoid() -> str:
    """Mean squared error by number of inner steps."""
    rows = read("sinusoid")
    shown = ("0", "1", "2", "3", "5", "10")
    lines = []
    for name in dict.fromkeys(row["learner"] for row in rows):
        of = [row for row in rows if row["learner"] == name]
        errors = [_mean([row["errors"].get(step) for row in of]) for step in shown]
        lines.append([name, str(of[0]["inner_steps"]), *errors])
    first = rows[0]
    caption = (
        f"Mean squared error on {first['episodes']:,} tasks of 100 points after so many inner steps on 10 points, mean "
        f"over {len({row['seed'] for row in rows})} seeds, {first['steps']:,} outer steps; *diverges*: not finite, or "
        f"above 100, for at least one seed. {first['machine']}, commits {_commits(rows, 'commit')}."
    )
    return markdown(["learner", "trained for", *(f"after {step}" for step in shown)], lines, caption)


def inner_rule() -> str:
    """The LSTM as inner optimizer against SGD at its best rate, and against learned rates."""
    rows = read("inner_rule")
    config, sources = rows[0]["config"], list(dict.fromkeys(row["data"] for row in rows))
    measures = [f"{data}: {_row_of(rows, data)['measure']}" for data in sources]
    heads = ["inner rule", "outer steps"]
    for measure in measures:
        heads += [measure, "better than SGD by", "CPU min"]
    lines = []
    for rule in dict.fromkeys(row["rule"] for row in rows):
        cells = [rule, f"{next(row['steps'] for row in rows if row['rule'] == rule):,}"]
        for data in sources:
            of = [row for row in rows if (row["data"], row["rule"]) == (data, rule)]
            gain, half = mean(row["gain"] for row in of), sqrt(sum(row["half_gain"] ** 2 for row in of)) / len(of)
            cells.append(_mean([row["score"] for row in of], 4))
            cells.append("" if rule == "SGD" else f"{gain:.4f} ± {half:.4f}")
            cells.append(f"{mean(row['cpu_seconds'] for row in of) / 60:.1f}")
        lines.append(cells)
    pairs = len(_row_of(rows, sources[0])["swept"])
    rates = "; ".join(f"{data}: {row['rate']:g}" for data in sources for row in [_row_of(rows, data)])
    caption = (
        f"After {config['inner_steps']} inner steps on {rows[0]['episodes']:,} held-out tasks, mean of "
        f"{len(config['seeds'])} seeds; differences on the same tasks, 95% interval over tasks. All go on from the "
        f"same MAML, trained with SGD for {config['first_steps']:,} outer steps at the best of {pairs} pairs of rates "
        f"(inner: {rates}), each with the best of two outer rates; rates are chosen on validation tasks. CPU minutes "
        f"after that, compilation in them, beside other work. {rows[0]['machine']}, commits "
        f"{_commits(rows, 'computed_at')}."
    )
    return markdown(heads, lines, caption)


def _row_of(rows: list[dict[str, Any]], data: str) -> dict[str, Any]:
    return next(row for row in rows if row["data"] == data)


def outer_rule() -> str:
    """The LSTM as outer optimizer against Adam at its best rate."""
    rows = read("outer_rule")
    lines = []
    for task in dict.fromkeys(row["task"] for row in rows):
        of = {row["method"]: row for row in rows if row["task"] == task}
        ours, adam = of["LSTM"], of["Adam"]
        cells = [
            "diverges"
            if r["final_loss"] is None
            else f"{r['final_loss']:.3f} [{r['final_low']:.3f}, {r['final_high']:.3f}]"
            for r in (ours, adam)
        ]
        ratio = "" if ours["final_loss"] is None else f"{ours['final_loss'] / adam['final_loss']:.2f}"
        lines.append([task, cells[0], f"{cells[1]} ({adam['rate']:.3g})", ratio])
    first = rows[0]
    caption = (
        f"Query loss over the last tenth of {first['num_steps']} steps, mean over {first['num_seeds']} seeds [95% "
        f"interval]; Adam's rate in brackets, chosen of 11 on these very runs. {first['machine']}, commit "
        f"{', '.join(sorted({row['computed_at'] for row in rows}))}."
    )
    return markdown(["learner", "LSTM", "Adam at its best rate", "LSTM / Adam"], lines, caption)


def meta_step() -> str:
    """Time and memory of a meta-iteration."""
    rows = read("meta_step")
    lines = []
    for case in dict.fromkeys(row["case"] for row in rows):
        of = [row for row in rows if row["case"] == case]
        ours = [row for row in of if row["system"].startswith("l2o")]
        best = min(ours, key=lambda row: row["wall"])
        mine = "; ".join(f"{row['system'].removeprefix('l2o ')} {_cost(row)}" for row in ours)
        others = "; ".join(
            f"{row['system']} {_cost(row)} ({readable(row['wall'] / best['wall'])}x)" for row in of if row not in ours
        )
        lines.append([case, mine, others])
    first = rows[0]
    caption = (
        "Milliseconds, medians of alternating repeats, 1 thread; MiB: the most that the process grows by. Sinusoid: 25 "
        "tasks of 10 points; conv4: 4 tasks, 5-way 1-shot, 15 queries a class; proto: 4 episodes of the same. How many "
        f"times: of our fastest form. {first['machine']}, commit {_commits(rows, 'commit')}."
    )
    return markdown(["meta-iteration", "l2o", "others: ms, and how many times ours"], lines, caption)


def memory() -> str:
    """What networks with a memory get wrong."""
    rows = [row for row in read("memory") if "step" in row]
    heads = ["run", "steps", "CPU minutes", "scores, and targets", "steps that were not finite"]
    lines = []
    for row in rows:
        scores = "; ".join(
            f"{name} {readable(value)}" + (f" ({readable(row['targets'][name])})" if name in row["targets"] else "")
            for name, value in row["scores"].items()
        )
        run = row["run"] + ", judged with a larger memory" * row["larger_memory"]
        run += ", encoder trained before" * row.get("prepared", False)
        done = f"{row['step']:,}" + (", until nothing was wrong" if row["faultless"] else "")
        lines.append([run, done, _minutes(row), scores, str(row["skipped"])])
    first = rows[0]
    caption = (
        "Bits wrong of a sequence, and of a step of its answer, on 1,000 sequences that nothing was chosen by; "
        "instances: accuracy in percent at the first, second, ... drawing of a character. Batches of 16, Adam, one "
        f"seed. Trained at commits {_commits(rows, 'trained_at')}, judged on {first['machine']}."
    )
    return markdown(heads, lines, caption)


def gaussian_classes() -> str:
    """Accuracy beside the best possible, trained by Adam and by the optimizer in the box."""
    limits = ", ".join(f"{row['learner']} {row['score']:.4f}" for row in read("gaussian_classes") if "steps" not in row)
    usual = usual_length()
    lines = [[each.learner, *_cells(each)] for each in side_by_side(usual)]
    first = usual[0]
    told = f"Limits: {limits}. {first['train_episodes']:,} training episodes, {first['episodes']:,} test episodes"
    return markdown(["learner", *BESIDE], lines, f"{told}, {_about(usual)}")


def gaussian_classes_longer() -> str:
    """The same of learners that so few episodes are too few for."""
    longer = [row for row in _trained() if row["train_episodes"] > gaussian.Config.train_episodes]
    lines = [
        [each.learner, f"{episodes:,}", *_cells(each)]
        for episodes in sorted({row["train_episodes"] for row in longer})
        for each in side_by_side([row for row in longer if row["train_episodes"] == episodes])
    ]
    about = f"{longer[0]['episodes']:,} test episodes, {_about(longer)}"
    return markdown(["learner", "training episodes", *BESIDE], lines, about)


def usual_length() -> list[Any]:
    """Rows of learners that saw as many episodes as is usual."""
    return [row for row in _trained() if row["train_episodes"] == gaussian.Config.train_episodes]


def _trained() -> list[Any]:
    """Rows of learners; the others are limits."""
    return [row for row in read("gaussian_classes") if "steps" in row and row["seed"] == 0]


class Beside(NamedTuple):
    """A learner's row by Adam at the best of so many rates, and that by the optimizer in the box; None if not run."""

    learner: str
    adam: Any
    rates: int
    ours: Any

    @property
    def rows(self) -> list[Any]:
        """Those that there are."""
        return [row for row in (self.adam, self.ours) if row is not None]

    @property
    def gain(self) -> float | None:
        """By which the optimizer in the box is ahead."""
        return None if self.adam is None or self.ours is None else self.ours["score"] - self.adam["score"]

    @property
    def apart(self) -> bool:
        """Whether by more than the 95% interval of a difference of two that know nothing of each other."""
        return self.gain is not None and abs(self.gain) > hypot(*(row["half_interval"] for row in self.rows))


def side_by_side(trained: list[Any]) -> list[Beside]:
    """By learner, in the order of rows; Adam's rate is the best on episodes kept for that."""
    found = []
    for name in dict.fromkeys(row["learner"] for row in trained):
        of = [row for row in trained if row["learner"] == name]
        swept = [row for row in of if row["optimizer"] == "Adam"]
        adam = max((row for row in swept if row["score"]), key=lambda row: row["choice"] or 0.0, default=None)
        ours = next((row for row in of if row["optimizer"] == "default"), None)
        found.append(Beside(name, adam, len(swept), ours))
    return found


def _cells(each: Beside) -> list[str]:
    both = (each.adam, each.ours)
    accuracies = ["" if row is None else f"{row['score']:.4f} ± {row['half_interval']:.4f}" for row in both]
    rate = "" if each.adam is None else f"{each.adam['lr']:g}" + f" (of {each.rates})" * (each.rates > 1)
    minutes = ", ".join(f"{row['cpu_seconds'] / 60:.1f}" for row in each.rows)
    return [accuracies[0], rate, accuracies[1], minutes, "" if each.gain is None else f"{each.gain:+.4f}"]


def _about(trained: list[Any]) -> str:
    """The end of the caption."""
    return (
        "95% interval over them, one seed. Adam: at the learner's usual rate, or the best of so many, chosen on other "
        "episodes; the optimizer in the box is not tuned. CPU minutes of one training, most of them beside other work. "
        f"{trained[0]['machine']}, commits {_commits(trained, 'trained_at')}."
    )


def neural_processes() -> str:
    """Log-likelihoods beside exact limits, and calibration."""
    rows = read("neural_processes")
    heads = (
        "learner",
        "data",
        "optimizer",
        "steps",
        "nats",
        "wanted",
        "below the limit",
        "90% intervals cover",
        "CPU min",
    )
    lines = []
    for row in rows:
        cells = [row["learner"], row["data"], row["optimizer"], f"{row['steps']:,}"]
        cells += [f"{row['log_likelihood']:.3f} ± {row['half_interval']:.3f}"]
        cells += ["" if row["target"] is None else f"{row['target']:.2f}"]
        cells += [f"{row['gap']:.3f} ± {row['half_gap']:.3f}", f"{100 * row['coverage']['0.9']:.1f}%"]
        lines.append([*cells, _minutes(row)])
    first = rows[0]
    caption = (
        "Nats of a target point, 95% intervals over batches of 16 tasks. The limit: the best that one Gaussian at each "
        "point can reach on the same tasks, for tnp-a that of all points together. One seed. "
        f"{first['machine']}, commits {_commits(rows, 'computed_at')}."
    )
    return markdown(heads, lines, caption)


def _minutes(row: dict[str, Any]) -> str:
    """Of CPU time, where they are known, and whether a GPU worked beside."""
    told = f"{row['cpu_seconds'] / 60:.0f}" if "cpu_seconds" in row else ""
    return f"{told} beside a GPU".strip() if row.get("device", "cpu") != "cpu" else told


def _cost(row: dict[str, Any]) -> str:
    memory = f", {row['mebibytes']:.0f} MiB" if row["mebibytes"] else ""
    return f"{readable(1e3 * row['wall'])}{memory}"


def _mean(values: list[float | None], digits: int = 3) -> str:
    known = [value for value in values if value is not None]
    return f"{mean(known):.{digits}f}" if len(known) == len(values) else "diverges"


def _commits(rows: list[dict[str, Any]], key: str) -> str:
    return ", ".join(sorted({row[key] for row in rows}))
