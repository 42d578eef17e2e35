import copy

import pytest
import torch
import torch.distributed as dist
import torch.nn.functional as F
from torch import nn

from l2o.optim import LearnedOptimizer, processes
from l2o.rules import SGD
from l2o.types import seeded


class ByLoss(SGD):
    """Steps in proportion to the loss."""

    def forward(self, grads, state, params, loss=None):
        return {name: -loss * grad for name, grad in grads.items()}, state


@pytest.fixture
def alone(tmp_path):
    """A group of one process: everything is asked of the others, who are none."""
    dist.init_process_group("gloo", init_method=f"file://{tmp_path}/meeting", rank=0, world_size=1)
    yield
    dist.destroy_process_group()


def train(model, optimizer, steps, first=0):
    for i in range(first, first + steps):
        optimizer.zero_grad()
        x = torch.randn(8, 5, generator=seeded(i))
        F.mse_loss(model(x), x[:, :2]).backward()
        optimizer.step()


def network():
    torch.manual_seed(0)
    return nn.Sequential(nn.Linear(5, 6), nn.Tanh(), nn.Linear(6, 2))


@pytest.mark.filterwarnings("ignore")
@pytest.mark.parametrize("rule", ["default", "mlp", "velo-digits", "lstm-digits", "adamw"])
def test_sharded_parameters_move_as_whole_ones_and_state_is_in_shards(alone, rule):
    from torch.distributed.device_mesh import init_device_mesh
    from torch.distributed.fsdp import fully_shard
    from torch.distributed.tensor import DTensor, Shard

    plain, sharded = network(), fully_shard(network(), mesh=init_device_mesh("cpu", (1,)))
    first = LearnedOptimizer(plain.parameters(), rule, total_steps=10)
    second = LearnedOptimizer(sharded.parameters(), rule, total_steps=10)
    train(plain, first, 3)
    train(sharded, second, 3)
    for p, q in zip(plain.parameters(), sharded.parameters(), strict=True):
        assert torch.equal(p, q.full_tensor())
        for key, x in first.state[p].items():
            y = second.state[q][key]
            assert torch.equal(x, processes.whole(y))
            per_coordinate = x.ndim and x.numel() >= p.numel() and key in first.rule.large_slots
            assert not per_coordinate or (isinstance(y, DTensor) and type(y.placements[0]) is Shard)
    state = copy.deepcopy(second.state_dict())
    again = LearnedOptimizer(sharded.parameters(), rule, total_steps=10)
    again.load_state_dict(state)
    train(plain, first, 2, first=3)
    train(sharded, again, 2, first=3)
    assert all(torch.equal(p, q.full_tensor()) for p, q in zip(plain.parameters(), sharded.parameters(), strict=True))


def test_a_step_takes_the_mean_loss_of_all_processes(monkeypatch):
    monkeypatch.setattr(dist, "is_initialized", lambda: True)
    monkeypatch.setattr(dist, "get_world_size", lambda: 2)
    monkeypatch.setattr(dist, "all_reduce", lambda x: x.add_(3.0))  # the other one's loss
    mine = torch.tensor(1.0)
    assert processes.mean_over_processes(mine) == 2.0 and mine == 1.0
    for average, seen in ((True, 2.0), (False, 1.0)):
        p = nn.Parameter(torch.zeros(2))
        p.grad = torch.ones(2)
        LearnedOptimizer([p], ByLoss(), average_loss=average).step(loss=mine)
        assert torch.equal(p, torch.full((2,), -seen))
