"""What only a GPU shows: its kernels in the drop-in, half precision with a scaler, state that moves between devices."""

import copy
import json
from pathlib import Path

import pytest
import torch
from torch import Tensor, nn

import l2o
from l2o.cli import main
from l2o.types import seeded

pytestmark = pytest.mark.skipif(not torch.cuda.is_available(), reason="there is no GPU")

RULES = ("adam", "mlp", "lstm", "matrix", "velo", "default")


def network() -> nn.Module:
    """A convolution, a normalisation, an embedding-like table and matrices of unequal sides."""
    torch.manual_seed(0)
    layers = (nn.Conv2d(1, 6, 3), nn.GroupNorm(2, 6), nn.ReLU(), nn.Flatten(), nn.Linear(216, 33), nn.GELU())
    return nn.Sequential(*layers, nn.Linear(33, 10))


def images(generator: torch.Generator) -> tuple[Tensor, Tensor]:
    """Sixteen of ten classes: a pattern each, and noise."""
    y = torch.arange(16) % 10
    return torch.randn(10, 1, 8, 8, generator=seeded(0))[y] + torch.randn(16, 1, 8, 8, generator=generator), y


def train(
    model: nn.Module,
    optimizer: l2o.LearnedOptimizer,
    num: int,
    device: str,
    seed: int = 0,
    dtype: torch.dtype | None = None,
) -> list[float]:
    """The losses of so many steps, on the same images on all devices."""
    generator, losses = seeded(seed), []
    scaler = torch.amp.GradScaler(device, enabled=dtype == torch.float16)
    for _ in range(num):
        x, y = (part.to(device) for part in images(generator))
        optimizer.zero_grad()
        with torch.autocast(device, dtype, enabled=dtype is not None):
            loss = nn.functional.cross_entropy(model(x), y)
        scaler.scale(loss).backward()
        scaler.unscale_(optimizer)
        scaler.step(optimizer, loss=loss.detach())
        scaler.update()
        losses.append(float(loss.detach()))
    return losses


@pytest.fixture(autouse=True)
def _exact() -> None:
    torch.backends.cuda.matmul.allow_tf32 = False
    torch.backends.cudnn.allow_tf32 = False


@pytest.mark.parametrize("graph", [False, True], ids=["launched", "graph"])
@pytest.mark.parametrize("rule", RULES)
def test_the_drop_in_takes_the_steps_of_the_cpu(rule: str, graph: bool) -> None:
    torch.manual_seed(1)
    one, found = l2o.load(rule), {}
    for device in ("cpu", "cuda"):
        model = network().to(device)
        optimizer = l2o.LearnedOptimizer(model.parameters(), copy.deepcopy(one), total_steps=20, graph=graph)
        losses = train(model, optimizer, 8, device)
        assert device == "cpu" or bool(optimizer._runner._graphs) == graph
        found[device] = losses, torch.cat([p.detach().cpu().flatten() for p in model.parameters()])
    torch.testing.assert_close(torch.tensor(found["cuda"][0]), torch.tensor(found["cpu"][0]), rtol=5e-3, atol=5e-4)
    # Newton-Schulz iterates in bfloat16, whose rounding is each device's own
    moved = (found["cpu"][1] - torch.cat([p.detach().flatten() for p in network().parameters()])).norm()
    assert (found["cuda"][1] - found["cpu"][1]).norm() < 0.05 * moved


@pytest.mark.parametrize("rule", ["mlp", "default"])
def test_with_kernels_and_without_it_is_one_optimizer(rule: str, monkeypatch: pytest.MonkeyPatch) -> None:
    torch.manual_seed(1)
    one, found = l2o.load(rule), []
    for kernels in ("1", "0"):
        monkeypatch.setenv("L2O_KERNELS", kernels)
        model = network().cuda()
        train(model, l2o.LearnedOptimizer(model.parameters(), copy.deepcopy(one), total_steps=20), 5, "cuda")
        found.append(torch.cat([p.detach().flatten() for p in model.parameters()]))
    moved = (found[1] - torch.cat([p.detach().flatten() for p in network().parameters()]).cuda()).norm()
    assert (found[0] - found[1]).norm() < 0.02 * moved


@pytest.mark.parametrize("graph", [False, True], ids=["launched", "graph"])
@pytest.mark.parametrize("dtype", [torch.float16, torch.bfloat16], ids=["float16", "bfloat16"])
def test_mixed_precision_trains(dtype: torch.dtype, graph: bool) -> None:
    model = network().cuda()
    optimizer = l2o.LearnedOptimizer(model.parameters(), total_steps=60, graph=graph)
    losses = train(model, optimizer, 60, "cuda", dtype=dtype)
    assert all(p.dtype == torch.float32 and p.isfinite().all() for p in model.parameters())
    assert sum(losses[-10:]) < 0.8 * sum(losses[:10])


@pytest.mark.parametrize("graph", [False, True], ids=["launched", "graph"])
@pytest.mark.parametrize("dtype", [torch.float16, torch.bfloat16], ids=["float16", "bfloat16"])
def test_parameters_in_half_precision_train(dtype: torch.dtype, graph: bool) -> None:
    model = network().cuda().to(dtype)
    optimizer = l2o.LearnedOptimizer(model.parameters(), total_steps=40, graph=graph)
    first, last = [], []
    for step in range(40):
        x, y = (part.cuda() for part in images(seeded(step)))
        loss = nn.functional.cross_entropy(model(x.to(dtype)).float(), y)
        optimizer.zero_grad()
        loss.backward()
        optimizer.step(loss=loss.detach())
        (first if step < 10 else last).append(float(loss.detach()))
    assert all(p.isfinite().all() for p in model.parameters())
    assert sum(last) / len(last) < 0.9 * sum(first) / len(first)


def test_gradients_that_overflow_are_left_out_by_the_scaler() -> None:
    model = network().cuda()
    optimizer = l2o.LearnedOptimizer(model.parameters(), "adam")
    scaler = torch.amp.GradScaler("cuda", init_scale=2.0**40)
    before = [p.detach().clone() for p in model.parameters()]
    with torch.autocast("cuda", torch.float16):
        loss = model(torch.randn(4, 1, 8, 8, device="cuda")).square().mean()
    scaler.scale(loss).backward()
    scaler.step(optimizer)
    scaler.update()
    assert all(torch.equal(p, q) for p, q in zip(model.parameters(), before, strict=True))
    assert scaler.get_scale() < 2.0**40


@pytest.mark.parametrize("graph", [False, True], ids=["launched", "graph"])
def test_a_step_that_is_not_finite_changes_nothing(graph: bool) -> None:
    model = network().cuda()
    optimizer = l2o.LearnedOptimizer(model.parameters(), graph=graph)
    train(model, optimizer, 5, "cuda")
    before, state = copy.deepcopy(model.state_dict()), copy.deepcopy(optimizer.state_dict()["state"])
    next(model.parameters()).grad.view(-1)[0] = float("nan")
    with pytest.warns(RuntimeWarning, match="not finite"):
        optimizer.step(loss=torch.ones((), device="cuda"))
    assert optimizer.skipped_steps == 1
    assert all(torch.equal(x, before[name]) for name, x in model.state_dict().items())
    _same(optimizer.state_dict()["state"], state)


@pytest.mark.parametrize("rule", RULES)
def test_graphs_of_an_optimizer_that_is_changed_in_between(rule: str) -> None:
    torch.manual_seed(1)
    one, ends = l2o.load(rule), []
    for graph in (False, True):
        model = network().cuda()
        optimizer = l2o.LearnedOptimizer(model.parameters(), copy.deepcopy(one), total_steps=40, graph=graph)
        train(model, optimizer, 6, "cuda")
        saved = copy.deepcopy((model.state_dict(), optimizer.state_dict()))
        train(model, optimizer, 6, "cuda", seed=1)
        model.load_state_dict(saved[0])  # back to where it was
        optimizer.load_state_dict(saved[1])
        train(model, optimizer, 6, "cuda", seed=2)
        next(model.parameters()).requires_grad_(False)  # fewer parameters, later as many as before
        train(model, optimizer, 4, "cuda", seed=3)
        next(model.parameters()).requires_grad_(True)
        with torch.no_grad():
            for p in model.parameters():  # memory of others
                p.data = p.detach().clone()
        train(model, optimizer, 6, "cuda", seed=4)
        ends.append(torch.cat([p.detach().flatten() for p in model.parameters()]))
    moved = (ends[0] - torch.cat([p.detach().flatten() for p in network().parameters()]).cuda()).norm()
    assert (ends[0] - ends[1]).norm() < 0.02 * moved


def _same(a: object, b: object) -> None:
    if isinstance(a, dict):
        assert isinstance(b, dict) and a.keys() == b.keys()
        for key, value in a.items():
            _same(value, b[key])
    elif isinstance(a, Tensor):
        assert isinstance(b, Tensor) and torch.equal(a, b)


@pytest.mark.parametrize("rule", ["mlp", "default"])
def test_state_moves_between_devices(rule: str, tmp_path: Path) -> None:
    torch.manual_seed(1)
    one = l2o.load(rule)
    model = network().cuda()
    optimizer = l2o.LearnedOptimizer(model.parameters(), copy.deepcopy(one), total_steps=20)
    train(model, optimizer, 3, "cuda")
    torch.save({"model": model.state_dict(), "optimizer": optimizer.state_dict()}, tmp_path / "saved.pt")
    ends = []
    for device in ("cuda", "cpu"):
        saved = torch.load(tmp_path / "saved.pt", map_location="cpu", weights_only=True)
        again = network().to(device)
        again.load_state_dict(saved["model"])
        other = l2o.LearnedOptimizer(again.parameters(), copy.deepcopy(one), total_steps=20)
        other.load_state_dict(saved["optimizer"])
        ends.append(train(again, other, 3, device, seed=1))
    torch.testing.assert_close(torch.tensor(ends[0]), torch.tensor(ends[1]), rtol=5e-3, atol=5e-4)


@pytest.mark.filterwarnings("ignore:TensorFloat32")
def test_a_compiled_training_step() -> None:
    model, found = network().cuda(), []
    for compiled in (False, True):
        again = copy.deepcopy(model)
        optimizer = l2o.LearnedOptimizer(again.parameters(), "default", total_steps=20)
        forward = torch.compile(again) if compiled else again
        found.append(train(forward, optimizer, 4, "cuda"))
    torch.testing.assert_close(torch.tensor(found[0]), torch.tensor(found[1]), rtol=5e-3, atol=5e-4)


def _run(words: list[str], folder: Path) -> None:
    assert main([*words, "--run", str(folder)]) == 0


@pytest.mark.parametrize("rule", ["mlp", "lstm"])
def test_meta_training_on_the_gpu(rule: str, tmp_path: Path) -> None:
    words = ["meta-train", "--rule", rule, "--tasks", "digits-mlp", "--estimator", "pes", "--steps", "4"]
    _run([*words, "--evaluate-every", "2", "--checkpoint-every", "2", "--device", "cuda"], tmp_path / "run")
    assert all(x.isfinite().all() for x in l2o.load(tmp_path / "run").state_dict().values())


@pytest.mark.parametrize("learner", ["prototypical", "maml", "anil", "snail", "versa", "dnc"])
def test_learning_to_learn_on_the_gpu(learner: str, tmp_path: Path) -> None:
    words = [
        "learn",
        "--learner",
        learner,
        "--data",
        "digits",
        "--way",
        "2",
        "--train-way",
        "2",
        "--steps",
        "6",
        "--evaluate-every",
        "3",
    ]
    usual = ["--validation-episodes", "8", "--test-episodes", "8", "--threads", "1", "--device", "cuda"]
    _run([*words, *usual], tmp_path / "run")
    assert json.loads((tmp_path / "run" / "test.json").read_text())["steps"] == 6
