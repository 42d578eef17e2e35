import math
import os
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest
import torch

from benchmarks.optimizers import language, tables, vision
from benchmarks.optimizers.cartpole import PPO, Carts
from benchmarks.optimizers.measures import final
from benchmarks.optimizers.methods import BASELINES, NAMES, chosen, cosine
from benchmarks.optimizers.muon import Muon, parted
from benchmarks.optimizers.problems import PROBLEMS
from benchmarks.optimizers.train import EVALUATIONS, Run, train
from l2o.types import seeded

DATA = Path(os.environ.get("L2O_DATA") or "nowhere")
ADAMW = BASELINES["adamw"]
SMALL = {
    "wide-mlp": {"width": 32},
    "gpt": {"width": 16, "length": 8},
    "convnet": {"batch_size": 16},
    "resnet": {"batch_size": 16},
    "diffusion": {"batch_size": 16},
    "ppo": {"num_steps": 32, "batch_size": 64},
}


def small(name, steps):
    return replace(PROBLEMS[name], steps=steps, **SMALL.get(name, {}))


@pytest.mark.parametrize("name", PROBLEMS)
def test_a_few_steps_of_adamw_reduce_the_loss(small_data, name):
    steps = 400 if name == "ppo" else 40
    problem = small(name, steps)
    curve = train(Run(problem, ADAMW, -5, 0, steps))
    assert curve.losses.shape == (steps,) and curve.validation.shape == (EVALUATIONS,)
    assert np.isfinite(curve.losses).all() and np.isfinite(curve.validation).all()
    assert curve.losses[-5:].mean() < curve.losses[:5].mean()
    assert curve.validation[-1] < (curve.validation[0] if name != "ppo" else -20)


@pytest.mark.parametrize("name", PROBLEMS)
def test_equal_seeds_give_equal_weights_and_batches_whatever_the_optimizer(small_data, name):
    problem = small(name, 2)
    runs = [Run(problem, BASELINES[method], -20, seed, 2) for method, seed in (("adamw", 0), ("sgd", 0), ("sgd", 1))]
    before = torch.get_rng_state()
    one, same, other = (train(run).losses for run in runs)  # rates so small that weights stay
    assert torch.equal(torch.get_rng_state(), before)
    np.testing.assert_allclose(one, same, rtol=1e-5)
    assert not np.allclose(one, other, rtol=1e-5) or name in ("ppo", "skip-gram")  # which begin alike


@pytest.mark.parametrize("name", NAMES)
def test_every_method_trains(small_data, name):
    (method,) = chosen((name,), "adam").values()
    run = Run(small("resnet", 6), method, -4, 0, 6)
    curve = train(run)
    assert np.isfinite(curve.losses).all() and np.isfinite(curve.validation).all()
    assert np.array_equal(curve.losses, train(run).losses)


def test_a_run_that_is_not_finite_ends(small_data):
    curve = train(Run(small("regression", 50), BASELINES["sgd"], 20, 0, 50))
    assert np.isinf(curve.losses[-1]) and final(curve.losses) == np.inf


def test_the_precision_is_that_of_the_run(small_data):
    curve = train(Run(small("autoencoder", 20), ADAMW, -6, 0, 20, dtype="bfloat16", accumulate=2))
    assert curve.losses[-1] < curve.losses[0]


def test_muon_takes_the_steps_of_torch_on_matrices():
    """Torch's own in bfloat16, so only nearly."""
    w = torch.randn(6, 4, generator=seeded(0))
    ours, theirs = (torch.nn.Parameter(w.clone()) for _ in range(2))
    one = Muon([ours], [], 0.1, weight_decay=0.01)
    other = torch.optim.Muon([theirs], lr=0.1, weight_decay=0.01, adjust_lr_fn="match_rms_adamw")
    for i in range(3):
        ours.grad = torch.randn(6, 4, generator=seeded(i + 1))
        theirs.grad = ours.grad.clone()
        one.step()
        other.step()
    torch.testing.assert_close(ours, theirs, rtol=0.0, atol=0.005)
    assert float((ours.detach() - w).abs().mean()) > 0.03


def test_muons_other_parameters_take_the_steps_of_adamw():
    ours, theirs = (torch.nn.Parameter(torch.ones(5)) for _ in range(2))
    one = Muon([], [ours], 0.1, weight_decay=0.01)
    other = torch.optim.AdamW([theirs], 0.1, (0.9, 0.95), 1e-10, 0.01)
    for i in range(3):
        ours.grad = torch.randn(5, generator=seeded(i))
        theirs.grad = ours.grad.clone()
        one.step()
        other.step()
    torch.testing.assert_close(ours, theirs)


@pytest.mark.parametrize("name", PROBLEMS)
def test_muon_leaves_embeddings_and_heads_to_adamw(small_data, name):
    model = small(name, 1).model()
    matrices, others = parted(model)
    assert len(matrices) + len(others) == len(list(model.parameters()))
    names = {id(p): key for key, p in model.named_parameters()}
    embeddings = {id(m.weight) for m in model.modules() if isinstance(m, torch.nn.Embedding)}
    assert not any(id(p) in embeddings for p in matrices)
    assert not any("head" in names[id(p)] for p in matrices)
    assert matrices or name == "skip-gram"


def test_the_schedule_rises_over_a_twentieth_and_falls_to_zero():
    factors = [cosine(100)(step) for step in range(101)]
    assert factors[0] == pytest.approx(0.2) and factors[4:6] == [1.0, 1.0]
    assert factors[52] == pytest.approx(0.5 * (1 + math.cos(math.pi * 47 / 95))) and factors[100] == pytest.approx(0.0)


def test_a_pole_falls_as_gyms_does():
    """First steps of CartPole-v1 from the same state, by its equations for x = y = 0 and an angle of 0.01."""
    carts = Carts(1, seeded(0))
    carts.state = torch.tensor([[0.0, 0.0, 0.01, 0.0]])
    fell, late, age = carts.step(torch.tensor([1]))
    force = 10 / 1.1
    turning = (9.8 * math.sin(0.01) - math.cos(0.01) * force) / (0.5 * (4 / 3 - 0.1 * math.cos(0.01) ** 2 / 1.1))
    expected = [0.0, 0.02 * (force - 0.05 * turning * math.cos(0.01) / 1.1), 0.01, 0.02 * turning]
    torch.testing.assert_close(carts.state, torch.tensor([expected]))
    assert (bool(fell), bool(late), float(age)) == (False, False, 1.0)
    for _ in range(20):
        if carts.step(torch.tensor([1]))[0]:
            break
    assert float(carts.age) == 0.0 and carts.state.abs().max() <= 0.05


def test_advantages_are_sums_of_discounted_errors():
    values, last = torch.tensor([[1.0], [2.0], [3.0]]), torch.tensor([4.0])
    ended, cut = torch.tensor([[False], [True], [False]]), torch.tensor([[False], [False], [False]])
    found = PPO(discount=0.5, trace=0.5).advantages(values, last, ended, cut)
    errors = [1 + 0.5 * 2 - 1, 1 - 2, 1 + 0.5 * 4 - 3]
    torch.testing.assert_close(found.flatten(), torch.tensor([errors[0] + 0.25 * errors[1], errors[1], errors[2]]))


@pytest.mark.skipif(not (DATA / "text/names.txt").exists(), reason="needs L2O_DATA with text and images")
def test_the_data_are_there():
    assert len(language.names().alphabet) == 27
    assert len(language.banking().train) > 400_000 and language.banking().num_classes < 50
    assert 500 < len(language.pairs()[2]) < 2000
    assert len(vision.alphabets(14).train.x) == 964 * 17
    assert tables.contraception().train.x.shape == (1178, 9)
    assert sorted(set(tables.sentences().y.tolist())) == list(range(77))
