"""Population-based meta-training as its user meets it."""

import json
import math
from pathlib import Path

import pytest
import torch

import l2o
from l2o.cli import main
from l2o.training.population import Member, PopulationConfig, exchange
from l2o.types import seeded

WORDS = ["--tasks", "tests.integration.tiny:suite", "--rule", "mlp", "--estimator", "pes", "--num-tasks", "2"]
WORDS += ["--window", "2", "--horizon", "6", "--round", "4", "--size", "4", "--threads", "1", "--std", "0.02"]


def config(**changes: object) -> PopulationConfig:
    settings = {"tasks": "tests.integration.tiny:suite", "rule": "mlp", "estimator": "pes", "num_tasks": 2, "window": 2}
    return PopulationConfig(**{**settings, "horizon": (6,), "steps": 12, "round": 4, **changes})  # type: ignore[arg-type]


def members(**changes: object) -> list[Member]:
    made = config(**changes)
    return [Member(made.member(i).build(made.suite())) for i in range(made.size)]


def test_members_begin_apart() -> None:
    made = members()
    rates = [member.hyperparameters["lr"] for member in made]
    assert len(set(rates)) == 4 and all(1e-2 / 3 <= rate <= 3e-2 for rate in rates)  # type: ignore[operator]
    first, second = (member.trainer.module.state_dict() for member in made[:2])
    assert any(not torch.equal(first[name], second[name]) for name in first)
    assert made[0].trainer.step()["meta_loss"] != made[1].trainer.step()["meta_loss"]


def test_the_worst_takes_over_from_the_best_and_explores() -> None:
    made = members()
    for member, score in zip(made, (2.0, 1.0, math.nan, 3.0), strict=True):
        member.score = score
        member.trainer.step()
    assert exchange(made, seeded(0)) == [(2, 1)]  # what is not a number is worst
    best, copy = made[1], made[2]
    for name, value in best.trainer.module.state_dict().items():
        assert torch.equal(copy.trainer.module.state_dict()[name], value)
    moments = [next(iter(member.trainer.optimizer.state.values()))["exp_avg"] for member in (best, copy)]
    assert torch.equal(*moments)
    for name in ("lr", "max_grad_norm"):
        ratio = copy.hyperparameters[name] / best.hyperparameters[name]  # type: ignore[operator]
        assert ratio == pytest.approx(1.25) or ratio == pytest.approx(0.8)
    rate = copy.hyperparameters["lr"]
    assert copy.trainer.step()["lr"] == rate == copy.trainer.step()["lr"]  # the schedule leaves it
    assert not torch.equal(*(next(member.trainer.module.parameters()) for member in (best, copy)))


def test_a_population_that_was_stopped_goes_on_as_if_it_never_had(tmp_path: Path) -> None:
    for name in ("whole", "cut"):
        assert main(["population", *WORDS, "--steps", "12", "--run", str(tmp_path / name)]) == 0
    cut = tmp_path / "cut"
    for path in (cut / "checkpoints").glob("*12.safetensors"):
        path.unlink()
    before = (cut / "population.jsonl").read_text()
    (cut / "population.jsonl").unlink()
    assert main(["population", "--resume", str(cut)]) == 0
    assert (cut / "population.jsonl").read_text() == before
    for file in ("rule", "best", "members/0", "members/3"):
        whole, again = (l2o.load(tmp_path / name / f"{file}.safetensors").state_dict() for name in ("whole", "cut"))
        assert all(torch.equal(whole[name], again[name]) for name in whole)
    lines = [json.loads(line) for line in before.splitlines()]
    assert [line["step"] for line in lines] == [4, 8, 12] and len(lines[0]["exchanges"]) == 1
    assert lines[-1]["exchanges"] == []


def test_what_makes_no_population_is_told(capsys: pytest.CaptureFixture[str], tmp_path: Path) -> None:
    assert main(["population", "--size", "1", "--run", str(tmp_path)]) == 1
    assert "2 members or more" in capsys.readouterr().err
