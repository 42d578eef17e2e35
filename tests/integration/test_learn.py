"""`l2o learn` as its user meets it."""

import json
import math
from pathlib import Path

import pytest
import torch
import yaml
from tensorboard.backend.event_processing.event_accumulator import EventAccumulator

import l2o
from l2o.cli import main
from l2o.learners import MAML, MLP, Adaptation
from l2o.learners.batch_norm import BatchNorm
from l2o.rules import SGD
from l2o.tasks.data import digits
from l2o.tasks.gaussian_classes import GaussianClasses
from l2o.tasks.sinusoid import Sinusoid
from l2o.training.judge import judge
from l2o.training.learn import LearnConfig
from l2o.training.learn_command import JudgeConfig, judge_saved
from l2o.training.recipes import RECIPES
from l2o.types import seeded

SHORT = {"steps": 4, "evaluate-every": 2, "checkpoint-every": 2, "validation-episodes": 4, "test-episodes": 6}


def learn(*words: str) -> int:
    short = [part for name, value in SHORT.items() for part in (f"--{name}", str(value))]
    return main(["learn", *words, *short, "--threads", "1"])


@pytest.mark.parametrize("learner", [name for name in RECIPES if name != "convcnp"])
def test_every_learner_trains_from_the_command_line(learner: str, tmp_path: Path) -> None:
    words = ["--learner", learner, "--data", "gaussian-classes", "--num-episodes", "2", "--run", str(tmp_path / "run")]
    assert learn(*words, "--query", "2", "--train-query", "2", "--train-shot", "1", "--train-way", "5") == 0
    told = json.loads((tmp_path / "run" / "test.json").read_text())
    assert told["episodes"] == 6 and 0 <= told["score"] <= 1 and told["cpu_seconds"] > 0
    trained = l2o.load(tmp_path / "run")
    assert isinstance(trained, Adaptation)


@pytest.mark.parametrize("learner", ["maml++", "prototypical", "reptile", "mann", "tnp-d", "cnaps"])
def test_images_are_learned_too(learner: str, tmp_path: Path) -> None:
    words = ["--learner", learner, "--data", "digits", "--way", "2", "--train-way", "2", "--num-episodes", "1"]
    assert learn(*words, "--query", "2", "--train-query", "2", "--run", str(tmp_path)) == 0


@pytest.mark.parametrize(("learner", "data"), [("tnp-a", "gp-rbf"), ("convcnp", "gp-fixed"), ("pfn", "tabular-prior")])
def test_distributions_are_learned_too(learner: str, data: str, tmp_path: Path) -> None:
    assert learn("--learner", learner, "--data", data, "--num-episodes", "2", "--run", str(tmp_path)) == 0
    told = json.loads((tmp_path / "test.json").read_text())
    assert told["measure"] == ("accuracy" if data == "tabular-prior" else "negative log-likelihood")
    assert math.isfinite(told["score"])


def test_a_stopped_run_goes_on_as_if_it_had_never_stopped(tmp_path: Path) -> None:
    words = ["--learner", "meta-sgd", "--data", "sinusoid", "--workers", "2", "--pool", "local", "--num-episodes", "3"]
    assert learn(*words, "--run", str(tmp_path / "whole")) == 0
    assert learn(*words, "--run", str(tmp_path / "cut")) == 0
    for path in (tmp_path / "cut" / "checkpoints").glob("*4.safetensors"):
        path.unlink()
    assert main(["learn", "--resume", str(tmp_path / "cut")]) == 0
    whole, cut = (l2o.load(tmp_path / name).state_dict() for name in ("whole", "cut"))
    assert all(torch.equal(whole[name], cut[name]) for name in whole)
    reports = [json.loads((tmp_path / name / "test.json").read_text()) for name in ("whole", "cut")]
    assert reports[0]["by_steps"] == reports[1]["by_steps"]


def test_a_finished_run_that_is_given_more_steps_learns_on(tmp_path: Path) -> None:
    words = ["--learner", "maml", "--data", "gaussian-classes", "--num-episodes", "2", "--run", str(tmp_path)]
    assert learn(*words) == 0
    before = l2o.load(tmp_path).state_dict()
    config = (tmp_path / "config.yaml").read_text()
    (tmp_path / "config.yaml").write_text(config.replace("steps: 4\n", "steps: 8\n", 1))
    assert main(["learn", "--resume", str(tmp_path)]) == 0
    rates = EventAccumulator(str(tmp_path / "tensorboard")).Reload()
    found = {event.step: event.value / 1e-3 for event in rates.Scalars("outer/lr")}
    assert list(found) == list(range(1, 9))
    for step in (6, 7, 8):
        assert found[step] == pytest.approx(0.5 + 0.5 * math.cos(math.pi * (step - 1) / 8), abs=1e-3)
    assert any(not torch.equal(before[name], value) for name, value in l2o.load(tmp_path).state_dict().items())


def test_the_dashboard_has_its_curves(tmp_path: Path) -> None:
    assert learn("--learner", "maml", "--data", "gaussian-classes", "--num-episodes", "2", "--run", str(tmp_path)) == 0
    events = EventAccumulator(str(tmp_path / "tensorboard"))
    events.Reload()
    tags = events.Tags()["scalars"]
    assert {"outer/meta_loss", "outer/train_score", "held_out/accuracy", "held_out/score"} <= set(tags)
    assert [e.step for e in events.Scalars("outer/meta_loss")] == [1, 2, 3, 4]


def test_any_rule_can_be_the_inner_and_the_outer_one(tmp_path: Path) -> None:
    outer = tmp_path / "outer.safetensors"
    l2o.save(l2o.load("lstm"), outer)
    words = ["--data", "sinusoid", "--num-episodes", "2", "--rule", "lstm", "--rule-args", "{hidden_size: 4}"]
    words += ["--learn-rule", "True", "--inner-steps", "2", "--optimizer", str(outer)]
    assert learn(*words, "--run", str(tmp_path / "run")) == 0
    assert l2o.load(tmp_path / "run").rule.hidden_size == 4
    written = yaml.safe_load((tmp_path / "run" / "config.yaml").read_text())
    assert [written[name] for name in ("lr", "schedule", "max_grad_norm")] == [1.0, "constant", 0.0]


def test_a_learned_rule_takes_over_where_sgd_ended(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    words = ["--data", "sinusoid", "--num-episodes", "2", "--inner-steps", "2"]
    assert learn("--learner", "maml", *words, "--run", str(tmp_path / "sgd")) == 0
    rule = ["--rule", "lstm", "--rule-args", "{base_lr: 0.01, hidden_size: 4}", "--learn-rule", "True", "--lr", "0"]
    start = ["--start", str(tmp_path / "sgd")]
    assert learn("--learner", "maml", *words, *start, *rule, "--run", str(tmp_path / "lstm")) == 0
    ours, theirs = (l2o.load(tmp_path / name).learner.state_dict() for name in ("lstm", "sgd"))
    assert all(torch.equal(ours[name], theirs[name]) for name in theirs)
    errors = [json.loads((tmp_path / name / "test.json").read_text())["score"] for name in ("lstm", "sgd")]
    assert errors[0] == pytest.approx(errors[1], rel=1e-2)  # a fresh rule of rates is nearly SGD
    for path in (tmp_path / "lstm" / "checkpoints").glob("*4.safetensors"):
        path.unlink()
    (tmp_path / "sgd").rename(tmp_path / "moved")
    assert main(["learn", "--resume", str(tmp_path / "lstm")]) == 0  # what goes on needs its start no more
    (tmp_path / "moved").rename(tmp_path / "sgd")
    assert learn("--learner", "cavia", *words, *start, "--run", str(tmp_path / "other")) == 1
    assert "start must have the same weights as this learner" in capsys.readouterr().err


def test_an_encoder_goes_from_a_learner_to_one_of_another_kind(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    words = ["--data", "gaussian-classes", "--num-episodes", "2"]
    assert learn("--learner", "siamese", *words, "--run", str(tmp_path / "siamese")) == 0
    encoder = ["--encoder", str(tmp_path / "siamese"), "--lr", "0"]
    assert learn("--learner", "r2d2", *words, *encoder, "--run", str(tmp_path / "r2d2")) == 0
    paths = (tmp_path / "r2d2", tmp_path / "siamese" / "best.safetensors")
    ours, theirs = (l2o.load(path).learner.encoder.state_dict() for path in paths)
    assert ours.keys() == theirs.keys() and all(torch.equal(ours[name], theirs[name]) for name in theirs)
    for path in (tmp_path / "r2d2" / "checkpoints").glob("*4.safetensors"):
        path.unlink()
    (tmp_path / "siamese").rename(tmp_path / "moved")
    assert main(["learn", "--resume", str(tmp_path / "r2d2")]) == 0  # what goes on needs it no more
    (tmp_path / "moved").rename(tmp_path / "siamese")
    for learner, told in (("maml", "MAML has none"), ("snail", "encoder must be the same network as this learner's")):
        assert learn("--learner", learner, *words, *encoder, "--run", str(tmp_path / learner)) == 1
        assert told in capsys.readouterr().err
    assert learn("--learner", "r2d2", *words, *encoder, "--start", "there", "--run", str(tmp_path / "both")) == 1
    assert "leave out one of --start" in capsys.readouterr().err


def test_an_encoder_of_pictures_goes_on_in_another_precision_but_not_as_another_network(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    words = ["--data", "digits", "--way", "2", "--num-episodes", "2", "--query", "2", "--train-query", "2"]
    assert learn("--learner", "prototypical", *words, "--train-way", "3", "--run", str(tmp_path / "proto")) == 0
    words += ["--encoder", str(tmp_path / "proto"), "--lr", "0"]
    assert learn("--learner", "snail", *words, "--precision", "bfloat16", "--run", str(tmp_path / "snail")) == 0
    paths = (tmp_path / "snail", tmp_path / "proto" / "best.safetensors")
    ours, theirs = (dict(l2o.load(path).learner.encoder.named_parameters()) for path in paths)
    assert all(torch.equal(ours[name], theirs[name]) for name in theirs)
    assert main(["judge", "--learner", str(tmp_path / "snail"), "--episodes", "2"]) == 0  # by statistics of its own
    for other, told in ((["--norm", "batch"], "'norm': 'running'"), (["--strided", "True"], "'strided': False")):
        assert learn("--learner", "snail", *words, *other, "--run", str(tmp_path / "other")) == 1
        assert told in capsys.readouterr().err


def test_a_context_modulates_networks_of_few_blocks(tmp_path: Path) -> None:
    words = ["--data", "digits", "--way", "2", "--num-episodes", "2", "--query", "2", "--train-query", "2"]
    assert learn("--learner", "cavia", *words, "--run", str(tmp_path)) == 0


def test_a_folder_of_pictures_is_learned(tmp_path: Path) -> None:
    image = pytest.importorskip("PIL.Image")
    data = digits().train
    for label in range(10):
        (tmp_path / "pictures" / str(label)).mkdir(parents=True)
        for i, x in enumerate(data.x[data.y == label][:4]):
            pixels = (255 * x[0]).byte().numpy()
            image.fromarray(pixels).save(tmp_path / "pictures" / str(label) / f"{i}.png")
    words = ["--learner", "prototypical", "--data", str(tmp_path / "pictures"), "--way", "2", "--train-way", "3"]
    assert learn(*words, "--query", "2", "--train-query", "2", "--run", str(tmp_path / "run")) == 0


@pytest.mark.parametrize(
    ("words", "told"),
    [
        (["--learner", "mamba"], "learner must be one of"),
        (["--data", "omnigloth"], "Did you mean 'omniglot'"),
        (["--data", "gaussian-classes", "--order", "second"], "order must be full, first"),
        (["--data", "gaussian-classes", "--steps", "0"], "steps must be at least 1"),
    ],
)
def test_what_makes_no_sense_is_told(
    words: list[str], told: str, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    assert main(["learn", *words, "--run", str(tmp_path)]) == 1
    assert told in capsys.readouterr().err


def test_a_folder_with_a_run_is_not_written_over(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    assert learn("--data", "sinusoid", "--num-episodes", "1", "--run", str(tmp_path)) == 0
    assert learn("--data", "sinusoid", "--num-episodes", "1", "--run", str(tmp_path)) == 1
    assert "folder without checkpoints" in capsys.readouterr().err


def test_a_judgement_is_of_the_same_episodes_whatever_the_batching() -> None:
    config = LearnConfig(learner="maml", data="sinusoid")
    adaptation = config.adaptation(config.suite())
    found = [judge(adaptation, Sinusoid(5, 10), 7, (0, 1, 3), seed=4, batching=b) for b in ("loop", "vmap")]
    torch.testing.assert_close(found[0].scores, found[1].scores)
    mean, half = found[0].score(3)
    values = found[0].scores[:, 2]
    assert mean == pytest.approx(float(values.mean())) and half == pytest.approx(2.447 * float(values.std()) / 7**0.5)
    one = judge(adaptation, Sinusoid(5, 10), 1, (3,), seed=4)
    episode = Sinusoid(5, 10).sample_many(seeded(4), 1)
    fast = adaptation.adapt(type(episode.support)(episode.support.x[0], episode.support.y[0]), 3)
    prediction = adaptation.learner.predict(fast, episode.query.x[0])
    assert one.score(3)[0] == pytest.approx(float((prediction - episode.query.y[0]).square().mean().detach()), rel=1e-4)
    with pytest.raises(ValueError, match="needs an episode"):
        judge(adaptation, Sinusoid(), 0)


def test_a_run_is_judged_as_it_was_reported(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    words = ["--learner", "prototypical", "--data", "gaussian-classes", "--num-episodes", "1", "--shot", "3"]
    assert learn(*words, "--train-way", "5", "--norm", "none", "--run", str(tmp_path)) == 0
    told = judge_saved(JudgeConfig(str(tmp_path), episodes=6))
    report = json.loads((tmp_path / "test.json").read_text())
    assert told["data"] == "gaussian-classes" and told["shot"] == 3
    assert [told[name] for name in ("score", "by_steps")] == [report[name] for name in ("score", "by_steps")]
    assert judge_saved(JudgeConfig(str(tmp_path), episodes=6, way=2))["score"] > 0.5  # of other numbers of classes
    adaptation = l2o.load(tmp_path)
    with pytest.raises(ValueError, match="the 5 classes that the learner is made for"):
        judge(adaptation, GaussianClasses(way=2), 3)
    with pytest.raises(ValueError, match="an output for each class; it has 5"):
        judge(Adaptation(MAML(MLP([16, 5])), SGD(0.1), 1), GaussianClasses(way=8), 3)
    assert main(["evaluate", "--rule", str(tmp_path)]) == 1
    assert "is a learner" in capsys.readouterr().err


@pytest.mark.parametrize(
    ("words", "told"),
    [
        (["--rule", "sgd", "--inner-lr", "0.4"], "--rule-args"),
        (["--rule-args", "{lr: 3.0}"], "rule_args need a rule"),
        (["--shot", "0"], "shot must be at least 1"),
        (["--order", "implicit:5"], "maml has no gradient with order implicit"),
        (["--learner", "imaml", "--order", "implicit:5", "--learn-rule", "True"], "a rule gets no gradient"),
        (["--learner", "reptile", "--learn-rule", "True"], "a rule gets no gradient from Reptile"),
        (["--train-way", "8"], "train_way must be the way"),
        (["--learner", "prototypical", "--data", "sinusoid"], "learns labels only"),
        (["--width", "8"], "takes no width"),
        (["--learner", "convcnp"], "convcnp learns numbers on a line"),
        (["--quorum", "1", "--pool", "local"], "quorum needs workers of Ray"),
    ],
)
def test_settings_that_do_not_go_together_are_told(
    words: list[str], told: str, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    assert learn("--data", "gaussian-classes", *words, "--run", str(tmp_path / "run")) == 1
    assert told in capsys.readouterr().err


def test_a_run_that_diverges_says_so(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    (tmp_path / "best.safetensors").write_bytes(b"of another run")
    assert learn("--data", "sinusoid", "--inner-lr", "1e30", "--run", str(tmp_path)) == 1
    assert "finite score" in capsys.readouterr().err


def test_a_learner_takes_as_many_training_classes_as_there_are(tmp_path: Path) -> None:
    with pytest.warns(UserWarning, match="all of the 16 training classes, in place of 60"):
        suite = LearnConfig(learner="prototypical", data="digits", way=3).suite()
    assert suite.train.way == 16  # type: ignore[attr-defined]


def test_learners_have_their_own_rates_and_steps() -> None:
    assert LearnConfig(learner="cavia", data="sinusoid").resolved().inner_lr == 1.0
    assert LearnConfig(learner="maml", data="sinusoid").resolved().inner_lr == 0.01
    config = LearnConfig(learner="maml++", data="digits", way=3, train_way=3, inner_steps=2)
    made = config.adaptation(config.suite())
    assert made.learner.num_steps == made.rule.num_steps == 2  # type: ignore[union-attr]


def test_statistics_are_measured_before_a_learner_is_saved_or_judged(tmp_path: Path) -> None:
    words = ["--learner", "prototypical", "--data", "digits", "--way", "2", "--train-way", "2", "--num-episodes", "1"]
    assert learn(*words, "--checkpoint-every", "1", "--run", str(tmp_path)) == 0
    saved = l2o.load(tmp_path / "learner.safetensors")
    assert not any(m.variance.isnan().any() for m in saved.modules() if isinstance(m, BatchNorm))
    config = LearnConfig(learner="prototypical", data="digits", way=2, train_way=2)
    suite = config.suite()
    fresh = config.adaptation(suite)
    with pytest.raises(ValueError, match="must be measured before evaluation"):
        judge(fresh, suite.test, 2)
    assert torch.isfinite(torch.tensor(judge(fresh, suite.test, 2, calibration=suite.train).score(0))).all()
