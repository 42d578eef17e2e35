"""The README's short table: what was measured, in a line each, from the committed rows of the longer tables."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path
from statistics import fmean

from benchmarks import agents_loop
from benchmarks.learners import side_by_side, usual_length
from benchmarks.meta_icl_table import mean_of_models, pooled
from benchmarks.record import RESULTS, markdown, read, readable

OPTIMIZERS, AGENTS = "docs/results/optimizers.md", "docs/results/agents.md"
NAMES = {"torchopt": "TorchOpt"}


def table() -> str:
    """A line a claim: what, how much, and the page where the whole table stands."""
    claims = (
        ("the optimizer in the box, untuned, beside AdamW at its best rate", _box(), OPTIMIZERS),
        ("what its step costs", _cost(), OPTIMIZERS),
        ("beside Celo's released weights (24 GPU hours), on small networks", _celo(), OPTIMIZERS),
        ("meta-training: time of an inner step", _throughput(), "docs/results/speed.md"),
        ("MAML: time of a meta-iteration", _meta_step(), "docs/results/learners.md"),
        ("few-shot learning: Omniglot, 5 classes, 1 example each", _few_shot(), "docs/results/learners.md"),
        (
            "few-shot learners trained on Gaussian classes by the optimizer in the box, untuned, beside Adam",
            _outer(),
            "docs/results/learners.md",
        ),
        (
            "regression in context: a transformer's error over ridge regression's",
            _linear(),
            "docs/results/in_context.md",
        ),
        ("a LoRA of SmolLM2-135M, tuned on 16 examples", _lora(), "docs/results/in_context.md"),
        ("SmolLM2-135M, meta-trained to learn in context (MetaICL)", _meta_icl(), "docs/results/in_context.md"),
        ("meta-training on Ray while its workers are killed", _soak(), "docs/guide/cluster.md"),
        ("an agent that improves itself, on lives of kinds it never saw", _loop(), AGENTS),
        ("the gate that its changes must pass", _gate(), AGENTS),
        ("an optimizer for PPO, untuned, beside Adam at its best rate", _ppo(), AGENTS),
    )
    lines = ([what, measured, f"[{Path(page).stem}]({page})"] for what, measured, page in claims)
    return markdown(["what", "measured", "all of it"], lines)


def _box() -> str:
    of = {(row["method"], row["reference"]): row for row in read("optimizers") if row["kind"] == "aggregate"}
    row, muon, beside = of["ours", "adamw"], of["muon", "adamw"], of["ours", "muon"]
    tuned, tuned_beside = of["ours-tuned", "adamw"], of["ours-tuned", "muon"]
    num, (low, high) = row["problems"], row["step_ratio_interval"]
    return (
        f"reaches AdamW's final loss in {row['step_ratio']:.2f} [{low:.2f}, {high:.2f}] of its steps, on {num} "
        f"problems that it was not trained on; training loss ends no higher on {row['train_share'] * num:.0f}, "
        f"validation loss on {row['validation_share'] * num:.0f}. Muon at its best rate: {muon['step_ratio']:.2f} of "
        f"the steps, and it ends lower than ours on {(1 - beside['train_share']) * num:.0f}; with the same sweep ours "
        f"takes {tuned['step_ratio']:.2f} and ends no higher than Muon on {tuned_beside['train_share'] * num:.0f}. "
        f"SOAP at its best rate: {of['soap', 'adamw']['step_ratio']:.2f}"
    )


def _cost() -> str:
    rows = [row for row in read("optimizers") if row["kind"] == "problem"]
    ours, adamw = ([row["optimizer_ms"] for row in rows if row["method"] == name] for name in ("ours", "adamw"))
    return (
        f"{min(ours):.0f} to {max(ours):.0f} ms of a CPU on these problems, AdamW's {min(adamw):.1f} to "
        f"{max(adamw):.1f}: by the clock, small models gain less or lose"
    )


def _celo() -> str:
    rows = read("celo")
    of = {(row["task"], row["method"]): row["speed_up_Adam"] for row in rows}
    tasks = dict.fromkeys(row["task"] for row in rows)
    won = {name: sum(of[task, "l2o"] > of[task, name] for task in tasks) for name in ("Celo", "Celo-Adam")}
    return "reaches Adam's final loss in fewer steps than " + ", than ".join(
        f"{name} on {count} of {len(tasks)}" for name, count in won.items()
    )


def _throughput() -> str:
    rows = read("meta_throughput")
    key, told = "wall_microseconds_per_inner_step", []
    for setting, title in (("pes", "evolution strategies (PES)"), ("backprop", "backpropagation")):
        times: dict[str, list[float]] = {}
        for num in sorted({row["num_tasks"] for row in rows if row["setting"] == setting}):
            of = [row for row in rows if (row["setting"], row["num_tasks"]) == (setting, num)]
            ours = min(row[key] for row in of if row["system"].startswith("l2o"))
            for row in of:
                if not row["system"].startswith("l2o"):
                    times.setdefault(NAMES.get(row["system"], row["system"]), []).append(row[key] / ours)
        others = ", ".join(f"{name} takes {_range(ratios)} times as long as l2o" for name, ratios in times.items())
        told.append(f"{title}: {others}")
    return "; ".join(told)


def _meta_step() -> str:
    rows, told = read("meta_step"), []
    for case in ("sinusoid, 5 steps", "conv4, 5 steps"):
        of = {row["system"]: row["wall"] for row in rows if row["case"] == case}
        ours = min(wall for name, wall in of.items() if name.startswith("l2o"))
        ratios = [wall / ours for name, wall in of.items() if not name.startswith("l2o")]
        told.append(f"{case}: {_range(ratios)} times as long as l2o")
    others = dict.fromkeys(NAMES.get(row["system"], row["system"]) for row in rows)
    named = [name for name in others if not name.startswith("l2o") and name != "hand"]
    return f"{', '.join(named)} and a loop by hand take: {'; '.join(told)}"


def _few_shot() -> str:
    rows = [row for row in read("few_shot") if (row["way"], row["shot"]) == (5, 1) and "steps" in row]
    return ", ".join(f"{row['learner']} {100 * row['score']:.1f}%" for row in rows)


def _outer() -> str:
    rows = usual_length()
    both = [each for each in side_by_side(rows) if each.gain is not None]
    apart = [each for each in both if each.apart]
    told = []
    for words, several in (("its best of several rates", True), ("its usual rate", False)):
        num = sum((each.rates > 1) == several for each in both)
        gains = [each.gain or 0.0 for each in apart if (each.rates > 1) == several]
        higher = sum(gain > 0 for gain in gains)
        told.append(f"where Adam had {words} ({num} learners) {higher} higher, {len(gains) - higher} lower")
    most = sorted((each for each in both if each.rates > 1), key=lambda each: each.gain or 0.0)
    ends = (f"{each.learner} {each.ours['score']:.3f} beside {each.adam['score']:.3f}" for each in (most[-1], most[0]))
    return (
        f"{rows[0]['train_episodes']:,} episodes, one seed: accuracy differs by more than the 95% interval on "
        f"{len(apart)} of {len(both)}: {'; '.join(told)}. Furthest apart with several rates: {', '.join(ends)}"
    )


def _linear() -> str:
    asked = ("in-context", "linear", "as in training")
    row = next(row for row in read("in_context") if (row["learner"], row["data"], row["inputs"]) == asked)
    of = [row["by_examples"][k]["error"] for k in ("5", "10", "15")]
    ratios = ", ".join(f"{error['transformer'] / error['ridge']:.2f}" for error in of)
    return f"{ratios} with 5, 10, 15 examples, after {row['cpu_seconds'] / 60:.0f} CPU minutes"


def _lora() -> str:
    rows, told = read("icl_models"), []
    for name in dict.fromkeys(row["set"] for row in rows):
        of = {row["how"]: f"{100 * row['mean']:.0f}%" for row in rows if row["set"] == name}
        told.append(f"{name} {of['LoRA, learned rule']}, {of['LoRA, Adam']}, {of['in-context']}")
    return (
        "accuracy with the optimizer in the box, with Adam at the best of 3 rates, and with the examples in the prompt "
        f"instead: {'; '.join(told)}"
    )


def _meta_icl() -> str:
    found = {key: pool for key, pool in pooled(read("meta_icl")).items() if key.model == "smollm2"}
    gains = {(key.task, key.renamed, key.how): mean_of_models(pool.gains) for key, pool in found.items()}
    minutes = fmean(s / 60 for key, pool in found.items() if key.how == "MetaICL" for s in pool.cpu_seconds.values())
    told = []
    for task, renamed in dict.fromkeys((task, renamed) for task, renamed, _ in gains):
        over = (gains[task, renamed, how] for how in ("in-context", "zero-shot"))
        points = " and ".join(f"{100 * mean:+.0f} ± {100 * half:.0f}" for mean, half in over)
        told.append(f"{task.removesuffix('-test')}{' with renamed options' * renamed} {points}")
    return (
        f"{minutes:.0f} CPU minutes; points of accuracy on tasks that it was not trained on, over the model as it was "
        f"and over training as long without demonstrations: {', '.join(told)}"
    )


def _soak() -> str:
    *_, end = read("soak")
    return (
        f"{end['kills']} kills in {end['seconds'] / 3600:.1f} hours: of {end['steps']:,} steps "
        f"{end['steps_of_other_theta'] or 'none'} gave weights other than an undisturbed run's, of {end['used']:,} "
        f"estimates {end['missing'] or 'none'} went missing"
    )


def _loop() -> str:
    rows = agents_loop.at_best_rates(agents_loop.kept(agents_loop.Config(), RESULTS))
    if not rows:
        return "not measured yet"
    whole = agents_loop.by_seed(rows, agents_loop.WHOLE)

    def mean(agent: str) -> str:
        return f"{fmean(x for seed, x in agents_loop.by_seed(rows, agent).items() if seed in whole):.2f}"

    frozen = ", ".join(f"{mean(name)} {name}" for name in agents_loop.AGENTS if name != agents_loop.WHOLE)
    return (
        f"area under the curve after 20 rounds, share of the possible return, means over up to {len(whole)} agents: "
        f"{mean(agents_loop.WHOLE)}, at round 0 {mean(agents_loop.BEGINNING)}, PPO with Adam at its best rate "
        f"{mean(next(iter(agents_loop.SWEPT)))}; with a part frozen {frozen}"
    )


def _gate() -> str:
    rows = [row for row in read("agents_gate") if "shape" in row]
    false, runs = sum(row["false_runs"] for row in rows), sum(row["runs"] for row in rows)
    return f"of {runs} runs of changes that change nothing, {false or 'none'} let one through"


def _ppo() -> str:
    of = {(row["kind"], row["method"]): row["area"] for row in read("agents_ppo")}
    kinds = dict.fromkeys(kind for kind, method in of if method == "adam")
    gains = (f"{of[kind, 'learned'] / of[kind, 'adam'] - 1:+.0%} on {kind}" for kind in kinds)
    inside = {(row["environment"], row["contestant"]): row["mean"] for row in read("agents_sb3")}
    ends = (
        f"{inside[name, 'l2o, ppo']:.0f} beside {inside[name, 'Adam, tuned']:.0f} on {name}"
        for name in dict.fromkeys(name for name, _ in inside)
    )
    told = "area under the curve of whole lives: " + "; ".join(gains)
    return f"{told}. Return at the end inside Stable-Baselines3: {', '.join(ends)}"


def _range(values: Sequence[float]) -> str:
    low, high = readable(min(values)), readable(max(values))
    return low if low == high else f"{low} to {high}"
