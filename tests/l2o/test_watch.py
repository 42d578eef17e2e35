import pytest
import torch
import torch.nn.functional as F
from tensorboard.backend.event_processing.event_accumulator import EventAccumulator
from torch import nn

import l2o
from l2o.types import seeded


class Written:
    """Keeps what it is given."""

    def __init__(self):
        self.points, self.flushed = {}, 0

    def add_scalar(self, tag, value, step):
        self.points[tag, step] = value

    def add_custom_scalars(self, layout):
        self.layout = layout

    def flush(self):
        self.flushed += 1


def train(net, optimizer, steps, first=0):
    """Weights before each step, after the last, and gradients."""
    seen, grads = [], []
    for i in range(first, first + steps):
        optimizer.zero_grad()
        x = torch.randn(8, 3, generator=seeded(i))
        F.mse_loss(net(x), x[:, :2]).backward()
        seen.append({name: p.detach().clone() for name, p in net.named_parameters()})
        grads.append({name: p.grad.clone() for name, p in net.named_parameters()})
        optimizer.step()
    return [*seen, {name: p.detach().clone() for name, p in net.named_parameters()}], grads


@pytest.mark.parametrize("kind", ["ours", "torch", "module"])
def test_every_so_many_steps_the_sizes_of_each_layer_are_written(kind):
    net, writer = nn.Linear(3, 2), Written()
    if kind == "ours":
        optimizer = l2o.LearnedOptimizer(net.named_parameters(), total_steps=5)
    else:
        optimizer = torch.optim.AdamW(net.parameters(), lr=0.1)
    watch = l2o.watch(net if kind == "module" else optimizer, writer, every=2)
    weights, grads = train(net, optimizer, 5)
    names = {"weight": "0", "bias": "1"} if kind == "torch" else {"weight": "weight", "bias": "bias"}
    for step in (0, 2, 4):
        for name, tag in names.items():
            update = (weights[step + 1][name] - weights[step][name]).norm().item()
            assert writer.points[f"update_norm/{tag}", step] == pytest.approx(update, rel=1e-5)
            assert writer.points[f"gradient_norm/{tag}", step] == pytest.approx(grads[step][name].norm().item())
            size = weights[step][name].norm().item()
            assert writer.points[f"update_ratio/{tag}", step] == pytest.approx(update / size, rel=1e-5)
        assert writer.points["optimizer/lr/0", step] == (1.0 if kind == "ours" else 0.1)
    assert {step for _, step in writer.points} == {0, 2, 4} and watch.step == 5
    watch.close()
    train(net, optimizer, 1, first=5)
    assert watch.step == 5 and writer.flushed == 1, "it watches no more"


def test_faults_of_ours_are_told():
    p, writer = nn.Parameter(torch.ones(2)), Written()
    optimizer = l2o.LearnedOptimizer([p], "adam")
    with l2o.watch(optimizer, writer, every=1), pytest.warns(RuntimeWarning, match="leaves out"):
        p.grad = torch.tensor([float("nan"), 1.0])
        optimizer.step()
    assert writer.points["optimizer/skipped_steps", 0] == 1 and writer.points["update_norm/0", 0] == 0.0
    assert writer.points["optimizer/fallen_back", 0] == 0.0


def test_a_module_is_watched_through_its_own_optimizers_alone():
    net, other, writer = nn.Linear(3, 2), nn.Linear(3, 2), Written()
    with l2o.watch(net, writer, every=1) as watch:
        train(other, torch.optim.SGD(other.parameters(), lr=0.1), 2)
        assert watch.step == 0 and not writer.points
        train(net, torch.optim.SGD(net.parameters(), lr=0.1), 2)
    assert watch.step == 2


def test_a_folder_is_enough(tmp_path):
    net = nn.Linear(3, 2)
    with l2o.watch(net, tmp_path, every=1) as watch:
        train(net, torch.optim.SGD(net.parameters(), lr=0.1), 3)
    events = EventAccumulator(str(tmp_path)).Reload()
    assert [x.step for x in events.Scalars("update_ratio/weight")] == [0, 1, 2]
    assert events.Scalars("update_norm/bias")[-1].value == pytest.approx(watch.newest["update_norm/bias"])
    assert "custom_scalars" in str(events.Tags()["tensors"])


def test_shapes_types_and_missing_gradients():
    p, q = nn.Parameter(torch.ones(2, dtype=torch.complex64)), nn.Parameter(torch.zeros(0))
    table, writer = nn.Embedding(4, 2, sparse=True), Written()
    optimizer = torch.optim.SGD([p, q, table.weight, nn.Parameter(torch.zeros(2))], lr=0.5)
    p.grad = torch.ones(2, dtype=torch.complex64)
    table(torch.tensor([1, 1])).sum().backward()
    with l2o.watch(optimizer, writer, every=1):
        optimizer.step()
    assert writer.points["update_norm/0", 0] == pytest.approx(2**0.5 / 2)
    assert writer.points["gradient_norm/2", 0] == pytest.approx(8**0.5)
    assert writer.points["update_ratio/3", 0] == 0.0 and ("gradient_norm/3", 0) not in writer.points


def test_it_must_look_now_and_then():
    with pytest.raises(ValueError, match="every must be at least 1"):
        l2o.watch(nn.Linear(1, 1), Written(), every=0)
