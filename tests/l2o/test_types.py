import torch
from torch import nn

from l2o.types import made


def test_a_module_is_made_of_its_seed_and_the_global_generator_is_left_alone() -> None:
    before = torch.random.get_rng_state()
    first, same, other = (made(lambda: nn.Linear(2, 3), seed) for seed in (1, 1, 2))
    assert torch.equal(first.weight, same.weight) and not torch.equal(first.weight, other.weight)
    assert torch.equal(torch.random.get_rng_state(), before)
