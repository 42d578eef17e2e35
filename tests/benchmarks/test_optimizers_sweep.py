import json
import math
from dataclasses import replace

import numpy as np
import pytest
import torch

import l2o
from benchmarks.optimizers import measures, methods, sweep
from benchmarks.optimizers.__main__ import Config, compare, main
from benchmarks.optimizers.report import table
from benchmarks.optimizers.rows import against, aggregate, compared, merged, row, swept
from benchmarks.optimizers.stress import Case, stress
from benchmarks.optimizers.sweep import Comparison, Result, Store, shortened
from benchmarks.optimizers.tables import Regression
from benchmarks.optimizers.train import Run
from benchmarks.record import machine


def test_a_final_loss_is_the_mean_of_the_last_twentieth():
    losses = np.arange(40.0)
    assert measures.final(losses) == 38.5
    losses[3] = np.nan
    assert measures.final(losses) == np.inf


def test_smoothing_has_no_bias():
    np.testing.assert_allclose(measures.smooth(np.full(100, 3.0)), 3.0)
    losses = np.zeros(60)
    losses[0] = 1.0
    weight = 2 / 4  # span 3
    assert measures.smooth(losses)[1] == pytest.approx(weight * (1 - weight) / (1 - (1 - weight) ** 2))


def test_steps_are_counted_until_the_smoothed_loss_is_low_enough():
    losses = np.stack([np.linspace(1, 0, 20), np.ones(20), np.linspace(2, 1, 20)])  # span 1: nothing is smoothed
    assert measures.steps_to(*measures.thinned(losses), 0.5).tolist() == [11, np.inf, np.inf]

    def ratio(losses):
        return measures.step_ratio(measures.median_steps_to(*measures.thinned(losses), 0.5), 20)

    assert ratio(losses[[0, 0, 1]]) == 11 / 20
    assert ratio(losses) == measures.NOT_REACHED
    assert ratio(losses[:2]) == measures.NOT_REACHED  # of two, the worse is the median


def test_an_average_that_tends_to_the_target_reaches_it():
    losses = -np.minimum(500.0, np.linspace(0, 1500, 200))
    assert measures.final(losses) == -500 and measures.smooth(losses)[-1] > -500
    assert 67 < measures.steps_to(*measures.thinned(losses), -500.0) < 100
    assert not measures.holds(1.002, 1.0) and measures.holds(1.0005, 1.0)


def test_a_curve_is_kept_at_two_hundred_steps_from_its_span_to_its_end():
    steps, curves = measures.thinned(np.stack([np.ones(2000), np.append(np.ones(1999), np.nan)]))
    assert (len(steps), steps[0], steps[-1]) == (200, 100, 2000) and np.ptp(np.diff(steps)) <= 1
    assert np.allclose(curves[0], 1.0) and np.isinf(curves[1]).all()


def test_ratios_below_one_are_better_for_losses_and_scores():
    assert measures.value_ratio(1.0, 2.0) == 0.5
    assert measures.value_ratio(-400.0, -200.0) == 0.5
    assert measures.value_ratio(1.0, -1.0) is None


def test_the_geometric_mean_and_its_interval():
    assert measures.geometric_mean([0.5, 2.0]) == pytest.approx(1.0)
    assert measures.geometric_mean([1.0, 1.0, 8.0]) == pytest.approx(2.0)
    assert measures.interval([0.7] * 5) == pytest.approx((0.7, 0.7))
    low, high = measures.interval([0.5, 2.0])  # both one, or both the other, a quarter of the time each
    assert (low, high) == pytest.approx((0.5, 2.0))


def test_diverging_is_being_infinite_or_worse_than_the_start():
    losses = np.array([[2.0] + 19 * [1.0], [2.0] + 19 * [3.0], [2.0] + 19 * [np.inf]])
    assert measures.diverged(losses).tolist() == [False, True, True]


def test_a_grid_grows_at_its_edges_until_the_best_is_inside():
    best, scores = measures.best_of((-1, 0, 1), lambda k: (k - 3) ** 2)
    assert best == 3 and sorted(scores) == [-1, 0, 1, 2, 3, 4]
    best, scores = measures.best_of((-1, 0, 1), lambda k: (k + 2) ** 2)
    assert best == -2 and sorted(scores) == [-3, -2, -1, 0, 1]
    best, scores = measures.best_of((0, 1), lambda k: -k, more=3)
    assert best == 4 and sorted(scores) == [0, 1, 2, 3, 4]
    best, scores = measures.best_of((0, 1, 2), lambda k: math.inf, more=2)  # where all diverge, smaller ones are tried
    assert sorted(scores) == [-2, -1, 0, 1, 2]


def comparison(folder, told, names=("adamw", "adamw-1e-3"), **settings):
    return Comparison(
        {"regression": Regression(steps=20)}, methods.chosen(names, "adam"), Store(folder, told.append), 2, **settings
    )


def test_a_comparison_that_was_stopped_goes_on(tmp_path, monkeypatch):
    whole = comparison(tmp_path / "whole", []).run()
    runs, train = [], sweep.train

    def stopping(run):
        if len(runs) == 3:
            raise KeyboardInterrupt
        runs.append(run)
        return train(run)

    monkeypatch.setattr(sweep, "train", stopping)
    with pytest.raises(KeyboardInterrupt):
        comparison(tmp_path / "stopped", []).run()
    monkeypatch.setattr(sweep, "train", train)
    told: list[str] = []
    again = comparison(tmp_path / "stopped", told).run()
    files = len(list((tmp_path / "whole").rglob("*.npz")))
    assert len(told) == files - 3 and "runs remain, about" in told[-1]
    for one, other in zip(whole, again, strict=True):
        assert one.half_decades == other.half_decades and np.array_equal(one.losses, other.losses)
    comparison(tmp_path / "stopped", told).run()
    assert len(told) == files - 3  # nothing is run twice


def test_rates_are_chosen_on_other_seeds_than_are_reported(tmp_path):
    seen = []

    class Watching(Store):
        def get(self, run):
            seen.append((run.half_decades, run.seed))
            return super().get(run)

    one = comparison(tmp_path, [], num_sweep_seeds=2)
    one.store = Watching(tmp_path, lambda line: None)
    (tuned, fixed) = one.run()
    swept = {seed for half_decades, seed in seen if half_decades != tuned.half_decades and half_decades != -6}
    assert swept == {sweep.SWEEP_SEED, sweep.SWEEP_SEED + 1}
    assert len(tuned.swept) >= 5 and fixed.swept == {} and tuned.losses.shape == (2, 20)


def test_keys_tell_problems_rates_and_weights_apart(tmp_path):
    store, problem = Store(tmp_path), Regression(steps=20)
    l2o.save(l2o.load("lstm"), tmp_path / "one.safetensors")
    l2o.save(l2o.load("adam", lr=0.5), tmp_path / "two.safetensors")
    learned = [methods.ours(str(tmp_path / f"{name}.safetensors"))["ours"] for name in ("one", "two", "one")]
    paths = [store.path(Run(problem, method, 0, 0, 20)) for method in learned]
    assert paths[0] == paths[2] != paths[1]
    assert store.path(Run(Regression(steps=20, width=8), learned[0], 0, 0, 20)) != paths[0]
    assert store.path(Run(problem, learned[0], 1, 0, 20)) != paths[0]
    tuned = methods.ours(str(tmp_path / "one.safetensors"))["ours-tuned"]
    assert store.path(Run(problem, tuned, 0, 0, 20)) == paths[0]  # the same run


def made(problem, method, losses, validation, half=None):
    losses = np.repeat(np.asarray(losses)[None], 3, axis=0)
    return Result(problem, method, 0, {}, losses, np.full((3, 10), validation), half, 100, 1.0, 0.1)


def synthetic():
    slow, fast, flat = np.linspace(2, 1, 20), np.linspace(2, 0, 20), np.full(20, 2.0)
    return [
        made("a", "adamw", slow, 1.0),
        made("a", "muon", fast, 1.2),
        made("a", "ours", fast, 0.9, fast[None, ::2]),
        made("b", "adamw", slow, 1.0),
        made("b", "muon", slow, 1.0),
        made("b", "ours", flat, 2.0, flat[None, ::2]),
    ]


def test_rows_state_ratios_by_problem_and_over_problems():
    found = compared([row(one) for one in synthetic()])
    ours = aggregate(found, "ours", "adamw")
    reached = 11  # of 20 steps: the fast curve is then below 1
    assert ours["step_ratio"] == pytest.approx(math.sqrt(reached / 20 * measures.NOT_REACHED))
    assert (ours["reached"], ours["train_share"], ours["validation_share"], ours["half_share"]) == (0.5,) * 4
    assert ours["diverged"] == 0 and ours["runs"] == 6
    assert aggregate(found, "adamw", "adamw")["step_ratio"] == 1.0
    assert aggregate(found, "ours", "muon")["train_share"] == 0.5
    json.dumps(found, allow_nan=False)


def test_a_copy_of_the_baseline_on_a_noisy_plateau_is_level_with_it():
    noise = np.random.default_rng(0).normal(1.0, 0.1, (2, 5, 400))
    one, other = (
        Result("a", name, 0, {}, x, np.ones((5, 10)), None, 1, 1.0, 1.0) for name, x in zip("ab", noise, strict=True)
    )
    one, other = row(one), row(other)
    assert against(one, one)["step_ratio"] == 1.0
    assert 0.5 < against(other, one)["step_ratio"] < 2.0


def test_what_diverges_gains_nothing():
    whole = made("a", "ours", np.linspace(2, 1, 20), 1.0)
    broken = made("a", "ours", np.append(np.linspace(2, 0, 19), np.inf), np.inf)
    found = against(row(broken), row(whole))
    assert (found["steps_to"], found["step_ratio"]) == (np.inf, measures.NOT_REACHED)
    assert (found["train_ratio"], found["validation_ratio"]) == (measures.DIVERGED, measures.DIVERGED)
    found = against(row(whole), row(broken))  # there is no target that could be held
    assert not found["train_holds"] and not found["validation_holds"] and found["steps_to"] == np.inf
    one_of_three = replace(whole, losses=np.stack([broken.losses[0], whole.losses[0], whole.losses[0]]))
    assert against(row(whole), row(one_of_three))["step_ratio"] == 1.0


def test_new_rows_take_the_place_of_old_ones_and_are_measured_against_the_others():
    old = compared([row(one) for one in synthetic()])
    better = row(made("b", "ours", np.linspace(2, 0, 20), 0.5, np.ones((3, 10))))
    found = compared(merged([better, row(made("c", "ours", np.ones(20), 1.0, np.ones((3, 10))))], old))
    pairs = [(one["problem"], one["method"]) for one in found if one["kind"] == "problem"]
    assert pairs == [(p, m) for p in "ab" for m in ("adamw", "muon", "ours")] + [("c", "ours")]
    assert [one for one in found if one.get("problem") == "a"] == [one for one in old if one.get("problem") == "a"]
    ours = aggregate(found, "ours", "adamw")
    assert ours["problems"] == 2 and ours["step_ratio"] == pytest.approx(11 / 20)


def test_known_rates_are_not_swept_again(tmp_path):
    told: list[str] = []
    first = comparison(tmp_path / "first", told).run()
    runs = len(told)
    known = swept(json.loads(json.dumps([row(one) for one in first])))
    again = comparison(tmp_path / "again", told, swept=known).run()
    assert len(told) - runs == 4 < runs  # two methods, two seeds
    assert [row(one) | {"model_ms": 0, "optimizer_ms": 0} for one in again] == [
        row(one) | {"model_ms": 0, "optimizer_ms": 0} for one in first
    ]


def test_the_table_is_made_of_rows():
    context = {"config": {"sweep_seeds": 1, "threads": 1}, "commit": "abc", **machine()}
    of = [row(one) for one in synthetic()]
    text = table([{**one, **context} for one in json.loads(json.dumps(compared(of)))])
    assert "| l2o | 1.05 [0.55, 2.00] of 2 | 50%, 50% | 50% |" in text
    assert "| b | 100 | 1 (1.00) | 1 (" in text and "| 2 (-) |" in text and "Left out" not in text


def test_baselines_at_one_rate_for_all_are_set_against_what_is_not_tuned():
    tried = {
        ("a", "adamw"): {-6: 3.0, -5: 3.0},
        ("b", "adamw"): {-6: 1.0, -5: 3.0},
        ("a", "muon"): {-6: 0.5, -5: -1.0},
        ("b", "muon"): {-6: 1.0, -5: math.inf, -4: 0.0},
    }
    context = {"config": {"sweep_seeds": 1, "threads": 1}, "commit": "abc", **machine()}
    of = [row(replace(one, swept=tried.get((one.problem, one.method), {}))) for one in synthetic()]
    text = table([{**one, **context} for one in compared(of)])
    assert "ends below l2o on | 0.001 | 0.00316 |\n" in text
    assert "| AdamW | 1 of 2 | 0 of 2 |" in text and "| Muon | 1 of 2 | 1 of 2 |" in text


def test_the_table_tells_what_was_left_out():
    context = {"config": {"sweep_seeds": 1, "threads": 1}, "commit": "abc", **machine()}
    found = compared([row(one) for one in synthetic() if (one.problem, one.method) != ("b", "muon")])
    assert "Left out: Muon on b." in table([one | context for one in found])
    assert next(r for r in found if r["kind"] == "aggregate" and r["reference"] == "muon")["problems"] == 1


def test_the_table_tells_of_runs_on_other_machines(tmp_path):
    told = comparison(tmp_path, [], names=("adamw",)).run()
    assert told[0].machines == (f"{machine()['machine']}, torch {torch.__version__}",)
    context = {"config": {"sweep_seeds": 1, "threads": 1}, "commit": "abc", **machine()}
    rows = [row(replace(told[0], machines=(*told[0].machines, "an abacus")))]
    assert "(AdamW also on an abacus), commits" in table([one | context for one in compared(rows)])


def test_the_command_writes_rows_and_a_picture(tmp_path, capsys):
    config = Config(
        rule="adam", only=("regression",), optimizers=("adamw", "muon", "ours"), seeds=2, steps=20, out=tmp_path
    )
    compare(config)
    lines = (tmp_path / "optimizers.jsonl").read_text().splitlines()
    assert [json.loads(line)["kind"] for line in lines] == 3 * ["problem"] + 6 * ["aggregate"]
    assert (tmp_path / "optimizers.png").stat().st_size > 10_000
    assert "Muon" in capsys.readouterr().out


def test_the_command_tells_what_all_would_take(tmp_path, capsys):
    main(Config(only=("regression",), optimizers=("adamw",), time=True, out=tmp_path))
    assert "hours, without validation" in capsys.readouterr().out


def test_names_are_checked():
    with pytest.raises(ValueError, match="optimizers must be among"):
        methods.chosen(("adam",), "adam")
    with pytest.raises(ValueError, match="problems must be among"):
        compare(Config(only=("imagenet",), optimizers=("adamw",)))


def test_stress_is_measured_against_adamw(tmp_path):
    cases = {"half precision": Case(Regression(steps=20), {"dtype": "bfloat16"}, 0.1)}
    found = list(stress(methods.chosen(("adamw-1e-3", "ours"), "adam"), Store(tmp_path, lambda line: None), cases))
    assert [row["method"] for row in found] == ["adamw-1e-3", "ours"]
    assert found[0]["ratio"] == 1.0 and all(row["finite"] for row in found)


def test_hard_cases_are_kept_beside_those_of_other_runs(tmp_path, monkeypatch):
    case = Case(Regression(), {})
    monkeypatch.setattr("benchmarks.optimizers.stress.CASES", {"one": case, "two": replace(case, weight_decay=0.1)})
    for name in ("one", "two"):
        main(Config(rule="adam", stress=True, cases=(name,), steps=20, out=tmp_path))
    rows = [json.loads(line) for line in (tmp_path / "optimizers_stress.jsonl").read_text().splitlines()]
    assert [(row["case"], row["steps"], row["device"]) for row in rows] == [
        (name, 20, "cpu") for name in ("one", "one", "two", "two")
    ]
    assert all(row["made_on"] == [f"{machine()['machine']}, torch {torch.__version__}"] for row in rows)
    with pytest.raises(ValueError, match="can only be found, not made"):
        main(Config(rule="adam", stress=True, cases=("one",), steps=20, device="An abacus", out=tmp_path))
    with pytest.raises(ValueError, match="cases must be among one, two; got three"):
        main(Config(rule="adam", stress=True, cases=("three",), out=tmp_path))


def test_problems_can_be_shortened():
    assert shortened({"a": Regression()}, 7)["a"].steps == 7
    assert shortened({"a": Regression()}, None)["a"].steps == 1000
