import dataclasses
import json
import shutil
from collections.abc import Callable, Sequence
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import pytest
import torch
import yaml

import l2o
from l2o.cli import main
from l2o.learners import Adaptation, InContextLanguageModel
from l2o.learners.in_context.language_model import tiny_gpt
from l2o.tasks.data.fetch import find
from l2o.tasks.data.text_collections import banking77_tasks, sentences
from l2o.tasks.data.text_tasks import Pair, TextTask
from l2o.tasks.text_episodes import SYMBOLS, TextEpisodes
from l2o.training.checkpoint import load_tree
from l2o.training.icl import IclConfig, load_tasks
from l2o.training.icl_command import Judgements, drawn, judge_task, macro_f1

pytest.importorskip("transformers")

NOUNS = {"north": ("ice", "snow", "bear"), "south": ("sand", "sun", "palm"), "sea": ("wave", "fish", "tide")}


@pytest.fixture(scope="module")
def folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Two tasks, in JSON lines and in CSV."""
    path = tmp_path_factory.mktemp("tasks")
    lines = [
        {"task": "places", "input": f"{noun} {i}", "output": option}
        for option, nouns in NOUNS.items()
        for noun in nouns
        for i in range(4)
    ]
    (path / "places.jsonl").write_text("\n".join(map(json.dumps, lines)))
    rows = [f"{word} {i},{label}" for label, word in (("hot", "fire"), ("cold", "ice")) for i in range(8)]
    (path / "heat.csv").write_text("text,category\n" + "\n".join(rows))
    return path


def icl(folder: Path, run: Path, *words: str) -> int:
    sizes = ("--width", "16", "--depth", "1", "--heads", "2", "--window", "160", "--vocabulary", "300")
    short = ("--num-episodes", "2", "--evaluate-every", "2", "--checkpoint-every", "2", "--validation-episodes", "4")
    judged = ("--judgements", "2", "--items", "6", "--way", "3", "--shot", "1", "--threads", "1", "--longest", "16")
    return main(["icl", "--data", str(folder), "--run", str(run), *sizes, *short, *judged, *words])


@pytest.mark.parametrize(
    "words",
    [
        ("--in-turn", "--symbols", "0.5"),
        ("--method", "channel", "--selection", "nearest"),
        ("--calibrated",),
        ("--learner", "soft-prompt", "--inner-steps", "1"),
        ("--learner", "lora", "--inner-steps", "1", "--rule", "sgd", "--rule-args", "{lr: 0.1}"),
        ("--learner", "context-adapter", "--freeze"),
    ],
)
def test_the_command_trains_and_judges(folder: Path, tmp_path: Path, words: tuple[str, ...], capsys) -> None:
    assert icl(folder, tmp_path / "run", "--held-out", "heat", "--steps", "4", *words) == 0
    told = json.loads((tmp_path / "run" / "test.json").read_text())
    assert told["tasks"].keys() == {"heat"} and told["steps"] == 4
    of = told["tasks"]["heat"]
    assert of["worst"] <= of["mean"] <= 1 and len(of["accuracies"]) == 2 and of["items"] == 6
    assert "held-out task" in capsys.readouterr().out
    assert list((tmp_path / "run" / "tensorboard").iterdir())
    assert isinstance(l2o.load(tmp_path / "run"), Adaptation)


def test_a_stopped_run_goes_on_as_if_it_had_never_stopped(folder: Path, tmp_path: Path) -> None:
    words = ("--held-out", "heat", "--steps", "4")
    assert icl(folder, tmp_path / "whole", *words) == 0
    assert icl(folder, tmp_path / "cut", *words) == 0
    cut = tmp_path / "cut"
    (cut / "checkpoints" / "step_00000004.safetensors").unlink()
    (cut / "test.json").unlink()
    assert main(["icl", "--resume", str(cut)]) == 0
    whole, again = (l2o.load(tmp_path / name / "learner.safetensors").state_dict() for name in ("whole", "cut"))
    assert all(torch.equal(whole[name], value) for name, value in again.items())
    assert (cut / "test.json").exists()


@pytest.mark.parametrize(
    ("words", "settings"),
    [
        ((), [1e-3, "cosine", 1.0]),
        (("--optimizer", "sgd"), [1.0, "constant", 0.0]),
        (("--optimizer", "sgd", "--lr", "0.5", "--max-grad-norm", "2"), [0.5, "constant", 2.0]),
    ],
)
def test_a_run_tells_what_its_outer_optimizer_was_given(
    folder: Path, tmp_path: Path, words: tuple[str, ...], settings: list[object]
) -> None:
    assert icl(folder, tmp_path, "--held-out", "heat", "--steps", "2", *words) == 0
    written = yaml.safe_load((tmp_path / "config.yaml").read_text())
    assert [written[name] for name in ("lr", "schedule", "max_grad_norm")] == settings
    assert load_tree(next((tmp_path / "checkpoints").iterdir()))["hyperparameters"] == written


def test_the_best_weights_are_chosen_by_tasks_that_are_neither_trained_on_nor_judged(
    folder: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    data = tmp_path / "three"
    shutil.copytree(folder, data)
    rows = [f"{word} {i},{label}" for label, word in (("up", "sky"), ("down", "pit")) for i in range(8)]
    (data / "ways.csv").write_text("text,category\n" + "\n".join(rows))
    config = IclConfig(data=str(data), held_out=("heat",), validation=("ways",))
    names = [[task.name for task in part] for part in (*config.tasks(), config.choosing_tasks())]
    assert names == [["places"], ["heat"], ["ways"]]
    assert (
        IclConfig(data=str(data), held_out=("heat",)).choosing_tasks()
        == IclConfig(data=str(data), held_out=("heat",)).tasks()[0]
    )
    families = []
    monkeypatch.setattr(IclConfig, "family", recorded(families, IclConfig.family))
    assert icl(data, tmp_path / "run", "--held-out", "heat", "--validation", "ways", "--steps", "2") == 0
    assert families == [["places"], ["ways"]]


def recorded(families: list[list[str]], family: Callable[..., TextEpisodes]) -> Callable[..., TextEpisodes]:
    """`IclConfig.family` that tells of which tasks."""

    def found(config: IclConfig, tasks: Sequence[TextTask], *more: object, **by_name: object) -> TextEpisodes:
        families.append([task.name for task in tasks])
        return family(config, tasks, *more, **by_name)

    return found


def test_bad_settings_are_told(folder: Path, tmp_path: Path, capsys) -> None:
    for words, message in (
        (("--held-out", "heat"), "a fresh tiny-gpt knows nothing"),
        (("--steps", "1"), "needs tasks with test pairs"),
        (("--held-out", "nothing", "--steps", "1"), "held-out and validation tasks must be among"),
        (
            ("--held-out", "heat", "--validation", "nothing", "--steps", "1"),
            "held-out and validation tasks must be among",
        ),
        (("--held-out", "heat", "--validation", "heat", "--steps", "1"), "a task must not be judged if"),
        (("--method", "channel", "--calibrated"), "must not be calibrated"),
        (("--renamed", "--way", "13"), "way must be at most 12"),
        (("--held-out", "heat", "--steps", "1", "--freeze"), "something must be trained"),
        (("--held-out", "heat", "--model", "/no/model"), "a model must be a llama2.c checkpoint"),
    ):
        assert icl(folder, tmp_path / "run", *words) == 1
        assert message in capsys.readouterr().err
    with pytest.raises(ValueError, match="data must be one of all, banking77"):
        load_tasks("nowhere")


def test_a_judgement_is_the_same_for_a_seed_and_has_no_test_pair_in_its_pool() -> None:
    pairs = tuple(Pair(f"{option} {i}", option) for option in ("a", "b", "c") for i in range(6))
    task = TextTask("t", ("a", "b", "c"), pairs)
    options, shown, pool, test = drawn(task, 2, 2, 5, 0)
    assert drawn(task, 2, 2, 5, 0) == (options, shown, pool, test) != drawn(task, 2, 2, 5, 1)
    assert len(options) == 2 and sorted(pair.output for pair in shown) == sorted(options * 2)
    assert set(shown) <= set(pool) and not set(pool) & set(test) and len(test) == 5


def test_draws_of_other_numbers_are_others(folder: Path) -> None:
    task = load_tasks(str(folder))["places"]
    config = IclConfig(way=2, shot=1, longest=16, judgements=2, items=5, width=8, depth=1, heads=1, window=64)
    adaptation = Adaptation(InContextLanguageModel(tiny_gpt(256, 8, 1, 1, 64), 0, 16))
    whole = judge_task(adaptation, config, Bytes(), task).accuracies
    each = [
        judge_task(adaptation, dataclasses.replace(config, judgements=1), Bytes(), task, first).accuracies
        for first in range(2)
    ]
    assert [accuracy for of in each for accuracy in of] == whole


def test_renamed_options_are_judged_on_the_same_texts(folder: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    seen: list[tuple[list[str], list[Pair], list[str]]] = []

    def choose(
        adaptation: object, shown: object, options: list[str], pairs: list[Pair], texts: list[str], *_: object
    ) -> Any:
        seen.append((list(options), pairs, texts))
        return SimpleNamespace(outputs=[options[0]] * len(texts))

    monkeypatch.setattr("l2o.training.icl_command.choose_options", choose)
    task = load_tasks(str(folder))["places"]
    config = IclConfig(way=2, shot=1, longest=16, judgements=3, items=5, width=8, depth=1, heads=1, window=64)
    adaptation = Adaptation(InContextLanguageModel(tiny_gpt(256, 8, 1, 1, 64), 0, 16))
    for renamed in (False, True):
        judge_task(adaptation, dataclasses.replace(config, renamed=renamed), Bytes(), task)
    for own, other in zip(seen[:3], seen[3:], strict=True):
        assert own[2] == other[2] and [pair.input for pair in own[1]] == [pair.input for pair in other[1]]
        assert set(own[0]) <= set(task.options) and set(other[0]) <= set(SYMBOLS)
        name = {a.output: b.output for a, b in zip(own[1], other[1], strict=True)}
        assert sorted(name) == sorted(own[0]) and sorted(name.values()) == sorted(other[0])
    assert len({tuple(options) for options, *_ in seen[3:]}) > 1


class Bytes:
    """A token is a byte."""

    start = 0

    def encode(self, text: str) -> list[int]:
        return list(text.encode())


def test_the_mean_the_worst_and_the_interval_are_over_the_draws() -> None:
    found = Judgements([0.5, 0.7, 0.9], [0.4, 0.6, 0.8], 10)
    assert (found.mean, found.worst) == (pytest.approx(0.7), 0.5)
    assert found.half_interval == pytest.approx(4.303 * 0.2 / 3**0.5)
    assert Judgements([0.5], [0.5], 10).half_interval is None


def test_macro_f1_is_scikit_learns() -> None:
    metrics = pytest.importorskip("sklearn.metrics")
    right = ["a", "a", "b", "c", "b", "a"]
    said = ["a", "b", "b", "a", "b", "a"]
    assert macro_f1(said, right) == pytest.approx(metrics.f1_score(right, said, average="macro", zero_division=0))


def test_accuracy_is_the_share_of_right_choices() -> None:
    """A model whose likelihood of a row is higher the more often its option's first token has been seen."""

    class Copies(InContextLanguageModel):
        def predict(self, fast, x):
            return (x[:, :, 0] == 7).float().sum(-1)

    class Digits:
        start = 0

        def encode(self, text: str) -> list[int]:
            return [7 if c == "y" else 1 for c in text]

    task = TextTask("t", ("no", "yes"), tuple(Pair(f"{i}", option) for option in ("no", "yes") for i in range(4)))
    config = IclConfig(way=2, shot=1, longest=8, judgements=2, items=6)
    adaptation = Adaptation(Copies(tiny_gpt(10, 8, 1, 1, 64), 0, 8))
    found = judge_task(adaptation, config, Digits(), task)  # it always says yes
    assert found.accuracies == [0.5, 0.5]


def test_named_collections_are_the_published_sets() -> None:
    names = ("banking77_train.csv", "TREC.train.all", "rt-polarity.all")
    if not all(find((name, f"text/{name}")) for name in names):
        pytest.skip("the sets are in no folder that L2O_DATA names")
    tasks, trec = banking77_tasks(), sentences("trec")
    assert [len(task.options) for task in tasks.values()] == [47, 10, 20]
    assert sum(len(task.train) for task in tasks.values()) == 10003
    assert sum(len(task.test) for task in tasks.values()) == 3080
    assert (len(trec.train), len(trec.test)) == (5452, 500) and trec.test[0].output == "number"
    mr = sentences("mr")
    assert len(mr.train) + len(mr.test) > 10_600 and not set(mr.train) & set(mr.test)
