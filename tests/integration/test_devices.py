"""Training on another device than the CPU equals training there (see `second_device`)."""

import json
import os
import subprocess
import sys
from pathlib import Path

import pytest
import torch

from l2o.cli import main
from l2o.estimators import ES, Problems
from l2o.rules import SGD
from l2o.tasks import Quadratics
from l2o.training.config import MetaTrainConfig
from l2o.training.suites import load_suite

ROOT = Path(__file__).parents[2]

CASES = {
    "rules": [
        {"run": "meta_train", "rule": rule} for rule in ("mlp", "lstm", "rnnprop", "rates", "matrix", "velo", "muon")
    ],
    "estimators": [{"run": "meta_train", "rule": "mlp", "estimator": one} for one in ("es", "nres", "backprop")],
    "families": [
        {"run": "meta_train", "rule": "mlp", "family": one}
        for one in ("conv", "recurrent", "transformer", "autoencoder", "student")
    ],
    "meta-losses": [{"run": "meta_train", "rule": "mlp", "reduction": one} for one in ("final", "validation")],
    "what is sent": [{"run": "sent"}],
    "learners as tasks": [{"run": "outer", "rule": rule} for rule in ("mlp", "lstm")],
    "learners": [
        {"run": "learn", "learner": one}
        for one in ("maml", "anil", "meta-sgd", "meta-curvature", "imaml", "cavia", "meta-lstm", "r2d2", "metaoptnet")
    ],
    "learners of images": [
        {"run": "learn", "learner": one, "data": "digits"}
        for one in ("prototypical", "matching", "siamese", "maml++", "reptile")
    ],
}


@pytest.mark.parametrize("cases", CASES.values(), ids=CASES)
def test_a_device_gives_the_numbers_of_the_cpu(cases: list[dict[str, str]]) -> None:
    words = [sys.executable, "-W", "ignore", "-m", "tests.integration.second_device", json.dumps(cases)]
    found = subprocess.run(
        words, cwd=ROOT, capture_output=True, text=True, timeout=600, env=os.environ | {"L2O_KERNELS": "0"}
    )
    assert found.returncode == 0, found.stderr[-3000:]
    assert found.stdout.count("same") == len(cases)


@pytest.mark.skipif(torch.cuda.is_available(), reason="there is a GPU")
def test_a_device_that_is_not_there_is_told(tmp_path: object, capsys: pytest.CaptureFixture[str]) -> None:
    assert main(["meta-train", "--rule", "mlp", "--device", "cuda", "--run", f"{tmp_path}/run"]) == 1
    assert "device must be one that torch has here" in capsys.readouterr().err


def test_a_device_for_workers_elsewhere_is_refused() -> None:
    config = MetaTrainConfig(rule="mlp", tasks="quadratics", estimator="pes", workers=2, pool="ray", device="cuda")
    with pytest.raises(ValueError, match="device is that of this process only"):
        config.make_pool(ES(Problems(SGD(), Quadratics(3))), {}, 0, 1)
    config = MetaTrainConfig(rule="mlp", tasks="quadratics", estimator="pes", gpus_per_worker=0.5, pool="local")
    with pytest.raises(ValueError, match="gpus_per_worker needs workers of Ray's"):
        config.build(load_suite("quadratics"))
    assert MetaTrainConfig(rule="mlp", gpus_per_worker=0.5).on_ray
