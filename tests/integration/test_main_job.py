"""The main job as a user does it: meta-train from the command line, resume, evaluate, swap the optimizer."""

import os
import shutil
import signal
import subprocess
import sys
import time

import pytest
import torch
import torch.nn.functional as F
import yaml
from tensorboard.backend.event_processing.event_accumulator import EventAccumulator

import l2o
from l2o.cli import main
from l2o.load import recipe_file
from l2o.tasks.data import digits
from l2o.training.commands import labels
from l2o.training.config import read_config

TINY = "tests.integration.tiny:suite"
SMALL = ["--steps", "4", "--num-tasks", "2", "--window", "5", "--horizon", "10", "--evaluate-every", "2"]
TINY_LSTM = ["--rule", "lstm", "--rule-args", "{hidden_size: 4}", "--tasks", TINY]


def meta_train(folder, *extra):
    return main(["meta-train", *TINY_LSTM, *SMALL, "--checkpoint-every", "2", "--run", str(folder), *extra])


def weights(folder):
    return {name: value.clone() for name, value in l2o.load(str(folder)).named_parameters()}


@pytest.fixture(scope="module")
def trained(tmp_path_factory):
    """A run folder, as one command leaves it."""
    folder = tmp_path_factory.mktemp("runs") / "lstm"
    assert meta_train(folder) == 0
    return folder


def test_a_run_leaves_config_weights_checkpoints_and_dashboard(trained):
    config = yaml.safe_load((trained / "config.yaml").read_text())
    assert config["rule"] == "lstm" and config["steps"] == 4 and config["rule_args"] == {"hidden_size": 4}
    assert l2o.load(str(trained)).hidden_size == 4
    assert [path.name for path in sorted((trained / "checkpoints").iterdir())] == [
        "step_00000002.safetensors",
        "step_00000004.safetensors",
    ]


def test_what_is_not_to_be_trained_stays(tmp_path, trained):
    assert meta_train(tmp_path / "run", "--only", "weights.*") == 0
    kept = [name for name, _ in l2o.load(str(trained)).named_parameters() if "weight" not in name]
    first, after = weights(trained), weights(tmp_path / "run")
    with torch.random.fork_rng():
        torch.manual_seed(0)
        fresh = dict(l2o.load("lstm", hidden_size=4).named_parameters())
    assert kept
    for name, value in after.items():
        assert torch.equal(value, fresh[name]) == (name in kept), name
        assert not torch.equal(first[name], fresh[name])
    for pattern in ("nothing", "("):
        assert main(["meta-train", *TINY_LSTM, "--only", pattern, "--run", str(tmp_path / "none")]) != 0


def test_what_was_saved_frozen_stays_so(tmp_path):
    rule = l2o.load("lstm", hidden_size=4)
    rule.biases.requires_grad_(False)
    l2o.save(rule, tmp_path / "rule.safetensors")
    going_on = ["--rule", str(tmp_path / "rule.safetensors"), "--tasks", TINY, *SMALL, "--run", str(tmp_path / "run")]
    assert main(["meta-train", *going_on]) == 0
    after = weights(tmp_path / "run")
    for name, value in rule.named_parameters():
        assert torch.equal(value, after[name]) == name.startswith("biases"), name


def test_a_recipe_gives_the_settings_of_a_shipped_optimizer(tmp_path, capsys):
    recipe = read_config(recipe_file("default"))
    small = ["--steps", "1", "--num-tasks", "1", "--num-groups", "2", "--window", "5", "--horizon", "10"]
    assert main(["meta-train", "--recipe", "default", "--tasks", TINY, *small, "--run", str(tmp_path / "run")]) == 0
    made = read_config(tmp_path / "run" / "config.yaml")
    assert (made.rule, made.estimator, made.std) == (recipe.rule, recipe.estimator, recipe.std)
    assert made.steps == 1
    assert main(["meta-train", "--recipe", "other", "--run", str(tmp_path / "other")]) != 0
    assert "recipe must be one of default" in capsys.readouterr().err


def test_the_dashboard_holds_curves_a_figure_and_hyperparameters(trained):
    events = EventAccumulator(str(trained / "tensorboard"), size_guidance={"images": 0, "scalars": 0}).Reload()
    tags = events.Tags()
    assert [point.step for point in events.Scalars("outer/meta_loss")] == [1, 2, 3, 4]
    assert [point.step for point in events.Scalars("held_out/score")] == [2, 4]
    assert "held_out/curves" in tags["images"]
    assert events.Images("held_out/curves")[-1].width > 400
    plugins = {event.plugin_data.plugin_name for event in map(events.SummaryMetadata, ["_hparams_/experiment"])}
    assert plugins == {"hparams"}


def test_a_killed_run_resumes_and_ends_as_if_never_killed(trained, tmp_path):
    folder = tmp_path / "killed"
    command = [sys.executable, "-m", "l2o.cli", "meta-train", *TINY_LSTM, *SMALL, "--checkpoint-every", "2"]
    environment = os.environ | {"OMP_NUM_THREADS": "1"}
    process = subprocess.Popen([*command, "--run", str(folder)], env=environment)
    while not list(folder.glob("checkpoints/step_*")):
        assert process.poll() is None, "the run ended before its first checkpoint"
        time.sleep(0.01)
    process.send_signal(signal.SIGKILL)
    process.wait()
    assert main(["meta-train", "--resume", str(folder)]) == 0
    for name, value in weights(trained).items():
        assert torch.equal(value, weights(folder)[name])


def test_a_second_run_does_not_overwrite_the_first(trained, capsys):
    assert meta_train(trained) == 1
    assert "needs a folder without checkpoints" in capsys.readouterr().err


def test_a_damaged_checkpoint_falls_back_to_the_one_before(trained, tmp_path):
    folder = tmp_path / "damaged"
    shutil.copytree(trained, folder)
    newest = folder / "checkpoints" / "step_00000004.safetensors"
    newest.write_bytes(newest.read_bytes()[:100])
    with pytest.warns(UserWarning, match="the run goes on from step_00000002"):
        assert main(["meta-train", "--resume", str(folder)]) == 0
    for name, value in weights(trained).items():
        assert torch.equal(value, weights(folder)[name])


def test_a_run_resumes_longer_but_not_as_another_run(trained, tmp_path, capsys):
    folder = tmp_path / "changed"
    shutil.copytree(trained, folder)
    written = (folder / "config.yaml").read_text()
    (folder / "config.yaml").write_text(written.replace("hidden_size: 4", "hidden_size: 5"))
    assert main(["meta-train", "--resume", str(folder)]) == 1
    assert "rule_args was {'hidden_size': 4} and is {'hidden_size': 5}" in capsys.readouterr().err
    (folder / "config.yaml").write_text(written.replace("\nsteps: 4\n", "\nsteps: 5\n"))
    assert main(["meta-train", "--resume", str(folder)]) == 0
    assert (folder / "checkpoints" / "step_00000005.safetensors").exists()


def test_flags_go_over_a_config_file(tmp_path):
    (tmp_path / "c.yaml").write_text(
        "rule: adam\ntasks: tests.integration.tiny:suite\nhorizon: 10\nwindow: 5\nsteps: 3\nnum_tasks: 2\n"
    )
    arguments = ["--config", str(tmp_path / "c.yaml"), "--steps", "1", "--run", str(tmp_path / "run")]
    assert main(["meta-train", *arguments]) == 0
    config = yaml.safe_load((tmp_path / "run" / "config.yaml").read_text())
    assert (config["rule"], config["steps"], config["horizon"]) == ("adam", 1, [10])


@pytest.mark.parametrize("optimizer", ["SGD", "PATH", "sgd"])
def test_any_outer_optimizer_trains_a_rule_a_learned_one_too(tmp_path, optimizer):
    l2o.save(l2o.load("sgd", lr=1e-3), tmp_path / "outer.safetensors")
    name = optimizer.replace("PATH", str(tmp_path / "outer.safetensors"))
    plain = ("--optimizer", "SGD", "--lr", "1e-3", "--schedule", "constant")
    assert meta_train(tmp_path / "run", *(plain if optimizer == "SGD" else ("--optimizer", name))) == 0
    assert meta_train(tmp_path / "plain", *plain) == 0
    for key, value in weights(tmp_path / "run").items():
        torch.testing.assert_close(value, weights(tmp_path / "plain")[key])


@pytest.mark.parametrize(
    ("arguments", "told"),
    [
        (["meta-train", "--optimizer", "Adaam", "--tasks", TINY, "--run", "RUN"], "a class of torch.optim"),
        (["meta-train", "--rule", "lstmm", "--run", "RUN"], "Did you mean 'lstm'"),
        (["meta-train", "--tasks", "digit-mlp", "--run", "RUN"], "Did you mean 'digits-mlp'"),
        (["meta-train", "--config", "RUN/none.yaml", "--run", "RUN"], "there is none at"),
        (["meta-train", "--resume", "RUN"], "there is none at"),
        (["meta-train", "--evaluate-every", "0", "--run", "RUN"], "evaluate_every must be at least 1"),
        (["evaluate", "--rule", "adam", "--tasks", TINY, "--num-seeds", "0"], "needs a step and a seed"),
        (["evaluate", "--rule", "adam", "adam", "--tasks", TINY], "must be different ones"),
        (["meta-train", "--window", "30", "--horizon", "100", "--run", "RUN"], "multiple of window"),
        (["evaluate", "--rule", "RUN/nothing.safetensors"], "nothing at"),
        (["fly"], "the command must be one of"),
    ],
)
def test_bad_input_is_told_in_one_line_without_a_traceback(tmp_path, capsys, arguments, told):
    assert main([a.replace("RUN", str(tmp_path / "run")) for a in arguments]) != 0
    error = capsys.readouterr().err
    assert told in error and "Traceback" not in error


@pytest.mark.parametrize(
    ("text", "told"),
    [
        ("rule: adam\nspeed: 9", "unknown settings"),
        ("estimator: magic", "must be one of backprop, es, pes, nres; got 'magic'"),
        ("steps: ten", "steps in .* must be int; got 'ten'"),
        ("horizon: [5, ten]", r"horizon in .* must be tuple\[int, ...\]"),
        ("stagger: 1", "stagger in .* must be bool"),
        ("lr: [}", "must be YAML"),
        ("- adam", "must be a mapping"),
    ],
)
def test_bad_config_files_are_told(tmp_path, text, told):
    (tmp_path / "c.yaml").write_text(text)
    with pytest.raises(ValueError, match=told):
        read_config(tmp_path / "c.yaml")


def test_numbers_in_a_config_file_may_be_written_as_in_python(tmp_path):
    (tmp_path / "c.yaml").write_text("lr: 3e-3\nstd: 1.5e-2\nbound: 10\nhorizon: 40\nrule_args: {lr: 1e-1, name: 1e}\n")
    config = read_config(tmp_path / "c.yaml")
    assert (config.lr, config.std, config.bound, config.horizon) == (3e-3, 1.5e-2, 10.0, (40,))
    assert config.rule_args == {"lr": 0.1, "name": "1e"}


def test_threads_are_part_of_the_config_so_that_a_resumed_run_has_as_many(trained):
    assert meta_train(trained.parent / "threads", "--threads", "1") == 0
    assert read_config(trained.parent / "threads" / "config.yaml").threads == 1


def test_no_two_contestants_have_one_name():
    assert labels(["runs/a", "b.safetensors"]) == ["a", "b"]
    same = ["runs/a/best.safetensors", "runs/b/best.safetensors", "momentum"]
    assert labels(same) == [f"rule {name}" for name in same]


def test_evaluate_writes_rows_and_a_figure_and_prints_a_table(trained, tmp_path, capsys):
    out = tmp_path / "out"
    arguments = ["--rule", str(trained), "--tasks", TINY, "--steps", "10", "--num-seeds", "2", "--out", str(out)]
    assert main(["evaluate", *arguments]) == 0
    shown = capsys.readouterr().out
    assert all(method in shown for method in ("SGD", "momentum", "Adam", "lstm", "valid."))
    assert len((out / "rows.jsonl").read_text().splitlines()) == 4  # methods on one task
    assert (out / "curves.png").stat().st_size > 5000


def test_info_shows_a_rule_and_the_suites(trained, capsys):
    assert main(["info", str(trained)]) == 0
    assert "LSTMRule" in capsys.readouterr().out
    assert main(["info"]) == 0
    shown = capsys.readouterr().out
    assert "digits-mlp" in shown and "Draws from Gaussian processes" in shown


def test_help_does_not_import_torch():
    code = "import sys; from l2o.cli import main; main(['--help']); sys.exit('torch' in sys.modules)"
    shown = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True)
    assert shown.returncode == 0 and "meta-train" in shown.stdout


def train_unseen_network(make_optimizer):
    """A plain PyTorch loop over a network unlike those of meta-training; the mean loss of its last ten steps."""
    part = digits().split(0.5, seed=0)[1].train
    torch.manual_seed(0)
    layers = [torch.nn.Flatten(), torch.nn.Linear(64, 30), torch.nn.GELU(), torch.nn.LayerNorm(30)]
    model = torch.nn.Sequential(*layers, torch.nn.Linear(30, 10))
    optimizer = make_optimizer(model.parameters())
    losses = []
    for _ in range(60):
        x, y = part.select(torch.randint(len(part.x), (64,)))
        optimizer.zero_grad()
        loss = F.cross_entropy(model(x), y)
        loss.backward()
        optimizer.step()
        losses.append(loss.item())
    return sum(losses[-10:]) / 10


def test_one_line_swaps_adamw_for_the_checkpoint_just_trained(tmp_path):
    """The README's swap: a learned rule, meta-trained for seconds, trains a network that it never saw."""
    folder = tmp_path / "rule"
    arguments = ["--rule", "mlp", "--tasks", "tests.integration.tiny:digits_suite", "--order", "full", "--log"]
    arguments += ["--num-tasks", "2", "--window", "10", "--horizon", "60", "--lr", "0.02", "--steps", "60"]
    assert main(["meta-train", *arguments, "--evaluate-every", "60", "--run", str(folder)]) == 0

    learned = train_unseen_network(lambda params: l2o.LearnedOptimizer(params, rule=str(folder)))
    fresh = train_unseen_network(lambda params: l2o.LearnedOptimizer(params, rule=l2o.load("mlp")))
    adamw = train_unseen_network(lambda params: torch.optim.AdamW(params, lr=1e-3))
    assert fresh > 1.5, "an untrained rule learns nothing, so what is learned below comes from meta-training"
    assert learned < adamw < fresh
