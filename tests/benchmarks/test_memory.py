import dataclasses
import math
from functools import partial
from pathlib import Path
from typing import Any

import pytest
import torch
from torch import nn

from benchmarks import memory, memory_problems
from benchmarks.memory import PATIENCE, RUNS, Config, Training
from benchmarks.memory_problems import (
    TOLD_APART,
    Bits,
    Characters,
    Setting,
    bits_model,
    few_repeats,
    online_mann,
    tell_apart,
)
from l2o.compiled import compile_seconds
from l2o.learners import NTM, OnlineLearner
from l2o.tasks import Copy, RepeatCopy
from l2o.tasks.data.labelled import LabelledDataset
from l2o.types import seeded

PROBLEM = Bits(Copy(2, (1, 3)), {"short": (Copy(2, (1, 1)), Copy(2, (3, 3))), "long": (Copy(2, (5, 5)),)})
SMALL = partial(bits_model, NTM, PROBLEM, controller=4, rows=6, width=3)
SETTING = Setting(SMALL, PROBLEM, steps=6, batch=2, evaluate_every=2)
CONFIG = Config(judged=4, validated=4, checkpoint_every=3)


def finished(folder: Path, setting: Setting = SETTING) -> dict[str, Any]:
    training = Training(setting, CONFIG, 0, folder)
    training.run()
    return training.report()


def test_a_stopped_run_goes_on_as_if_it_had_never_stopped(tmp_path: Path) -> None:
    whole = finished(tmp_path / "whole")
    assert whole["step"] == 6 and [point["step"] for point in whole["curve"]] == [2, 4, 6]
    assert finished(tmp_path / "whole") == whole  # and one that is finished is judged again
    finished(tmp_path / "cut")
    (tmp_path / "cut" / "checkpoints" / "step_00000006.safetensors").unlink()
    again = finished(tmp_path / "cut")
    assert {**again, "cpu_seconds": 0} == {**whole, "cpu_seconds": 0}


@pytest.mark.compiled
@pytest.mark.filterwarnings("ignore:The .grad attribute:UserWarning")  # read by the compiler itself
def test_fused_steps_learn_the_same(tmp_path: Path) -> None:
    plain, began = finished(tmp_path / "plain"), compile_seconds()
    training = Training(SETTING, dataclasses.replace(CONFIG, compile=True), 0, tmp_path / "fused")
    training.run()
    for point, other in zip(training.report()["curve"], plain["curve"], strict=True):
        assert point == pytest.approx(other, rel=1e-3)
    assert compile_seconds() > began


def test_a_run_with_another_rate_is_not_gone_on_with(tmp_path: Path) -> None:
    finished(tmp_path)
    with pytest.raises(ValueError, match="a run must go on with its rate"):
        Training(dataclasses.replace(SETTING, lr=0.5), CONFIG, 0, tmp_path)
    with pytest.raises(ValueError, match="a run must go on with its settings"):
        Training(dataclasses.replace(SETTING, prepare=lambda model, generator: None), CONFIG, 0, tmp_path)


def test_the_model_that_is_kept_is_the_best_one_and_a_run_without_a_fault_ends_early(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    wrong = iter([3.0, 1.0, 2.0, *[0.0] * 20])
    monkeypatch.setattr(Bits, "scores", lambda *_: {"all: a step": next(wrong)})
    training = Training(dataclasses.replace(SETTING, steps=1000, evaluate_every=1), CONFIG, 0, tmp_path)
    training.run()
    assert training.told["step"] == 3 + PATIENCE and training.best["badness"] == 0.0
    newest = Training(SETTING, CONFIG, 0, tmp_path)
    assert newest.done and newest.told["step"] == 3 + PATIENCE


@pytest.mark.parametrize(
    ("mastered", "asked"), [(0.0, [0.0] * 6), (float("inf"), [0.0, 0.0, 0.5, 0.5])], ids=["never", "every two steps"]
)
def test_a_curriculum_grows_where_a_size_is_mastered(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, mastered: float, asked: list[float]
) -> None:
    monkeypatch.setattr(memory, "RECENT", 2)
    monkeypatch.setattr(memory_problems, "MASTERED", mastered)
    said: list[float] = []

    def easy(grown: float) -> Copy:
        said.append(grown)
        return Copy(2, (1, 1))

    setting = dataclasses.replace(SETTING, problem=dataclasses.replace(PROBLEM, easy=easy), growing=2)
    whole = finished(tmp_path, setting)
    assert said == asked
    (tmp_path / "checkpoints" / "step_00000006.safetensors").unlink()
    assert {**finished(tmp_path, setting), "cpu_seconds": 0} == {**whole, "cpu_seconds": 0}
    with pytest.raises(ValueError, match="a curriculum needs easy sequences"):
        dataclasses.replace(SETTING, growing=4)


def test_a_curriculum_of_repeats_ends_with_the_whole_problem() -> None:
    assert few_repeats(0.0) == RepeatCopy(length=(1, 2), repeats=(1, 2), known=(1, 10))
    assert few_repeats(1.0) == dataclasses.replace(RepeatCopy(), known=(1, 10))


def test_streams_of_characters_grow_once_all_but_first_instances_are_told_apart() -> None:
    problem = Characters(way=2, instances=5, easy=3)
    assert [problem.length(grown) for grown in (0.0, 0.5, 1.0)] == [3, 4, 5]
    guessed = math.log(2) / 2  # a first instance: one of two labels, then the one that is left
    for grown, length in ((0.0, 3), (1.0, 5)):
        just = (guessed + (length - 1) * TOLD_APART) / length
        assert problem.mastered(just - 1e-6, grown) and not problem.mastered(just + 1e-6, grown)


@pytest.fixture
def characters(monkeypatch: pytest.MonkeyPatch) -> Characters:
    """Of thirty patterns, with noise, in place of Omniglot's."""
    patterns = torch.rand(30, 28, 28, generator=seeded(1)).repeat_interleave(8, 0)
    noisy = (patterns + 0.1 * torch.randn(patterns.shape, generator=seeded(2))).clamp(0, 1).unsqueeze(1)
    data = LabelledDataset("patterns", noisy, torch.arange(30).repeat_interleave(8))
    monkeypatch.setattr(memory_problems, "omniglot_classes", lambda part: data)
    return Characters(way=3, instances=4, easy=2)


def test_an_encoder_learns_to_tell_apart_before_and_nothing_else_does(characters: Characters) -> None:
    def prepared(steps: int) -> OnlineLearner:
        torch.manual_seed(0)
        model = online_mann(way=3, width=4, features=8)
        tell_apart(model, seeded(0), steps)
        return model

    before, after, again = (dict(prepared(steps).named_parameters()) for steps in (0, 30, 30))
    for name, value in after.items():
        assert torch.equal(value, again[name])
        assert name.startswith("learner.encoder") != torch.equal(value, before[name])

    def apart(model: OnlineLearner) -> float:
        drawn = characters.source("train").data
        with torch.no_grad():
            z = torch.nn.functional.normalize(model.learner.encoder(drawn.x), dim=-1)
        same = drawn.y.unsqueeze(0) == drawn.y.unsqueeze(1)
        return float((z @ z.T)[same].mean() - (z @ z.T)[~same].mean())

    assert apart(prepared(30)) > apart(prepared(0)) + 0.1


def test_streams_are_as_long_as_they_have_grown(characters: Characters) -> None:
    seen: list[int] = []

    class Guess(nn.Module):
        weight = nn.Parameter(torch.zeros(1))

        def forward(self, x: torch.Tensor, before: torch.Tensor) -> torch.Tensor:
            seen.append(x.shape[1])
            return before * 0 + self.weight

    for grown in (0.0, 0.5, 1.0):
        assert characters.loss(Guess(), seeded(0), 2, grown).item() == pytest.approx(math.log(3))
    assert seen == [6, 9, 12]
    for easy in (1, 11):
        with pytest.raises(ValueError, match="easy must be from 2"):
            Characters(easy=easy)


def test_what_a_model_learns_before_is_learned_once(tmp_path: Path) -> None:
    prepared: list[float] = []

    def prepare(model: NTM, generator: torch.Generator) -> None:
        prepared.append(float(torch.rand((), generator=generator)))
        torch.nn.init.zeros_(model.output.bias)

    whole = finished(tmp_path, dataclasses.replace(SETTING, prepare=prepare))
    (tmp_path / "checkpoints" / "step_00000006.safetensors").unlink()
    assert finished(tmp_path, dataclasses.replace(SETTING, prepare=prepare))["curve"] == whole["curve"]
    assert len(prepared) == 1 and whole["curve"] != finished(tmp_path / "without")["curve"]


def test_a_larger_memory_is_judged_with_the_trained_weights(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    judged: list[NTM] = []
    monkeypatch.setattr(Bits, "scores", lambda problem, model, *_: judged.append(model) or {"all: a step": 1.0})
    larger = partial(bits_model, NTM, PROBLEM, controller=4, rows=9, width=3)
    training = Training(dataclasses.replace(SETTING, judged=larger), CONFIG, 0, tmp_path)
    training.run()
    assert training.model.rows == 6 and [model.rows for model in judged] == [9] * 3
    for name, value in training.model.state_dict().items():
        assert torch.equal(value, judged[-1].state_dict()[name])


def test_wrong_bits_are_told_by_sequence_and_by_step() -> None:
    model = bits_model(NTM, PROBLEM, controller=4, rows=6, width=3)
    with torch.no_grad():
        model.output.weight.zero_()
        model.output.bias.fill_(-1.0)  # says 0 always: half the bits are wrong
    found = PROBLEM.scores(model, seeded(0), 4000)
    assert found["short: bits wrong"] == pytest.approx(2 * 2 / 2, rel=0.05)
    assert found["short: a step"] == pytest.approx(1.0, rel=0.05)
    assert found["long: bits wrong"] == pytest.approx(5.0, rel=0.05)


@pytest.mark.parametrize("name", [name for name, setting in RUNS.items() if isinstance(setting.problem, Bits)])
def test_targets_are_scores_that_are_measured(name: str) -> None:
    problem = RUNS[name].problem
    assert isinstance(problem, Bits)
    measured = {f"{kind}: {what}" for kind in problem.judged for what in ("bits wrong", "a step")}
    assert RUNS[name].targets.keys() <= measured
    for sources in problem.judged.values():
        assert all(s.inputs == problem.source.inputs and s.outputs == problem.source.outputs for s in sources)


def test_rows_of_speed_are_rates() -> None:
    rows = list(memory.speeds(seconds=0.1))
    assert [row["run"] for row in rows] == ["speed, batch 1", "speed, batch 16"]
    assert all(row["scores"]["sequences per CPU-second"] > 0 for row in rows)
