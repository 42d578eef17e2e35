import pytest
import torch

from l2o.estimators import PES, Backprop, Grouped, Problems, Truncation
from l2o.rules import MLPRule
from l2o.tasks import MLPFamily
from l2o.training.meta_trainer import theta_of
from l2o.types import seeded, tree_leaves

FAMILY = MLPFamily(hidden=(2, 3, 4, 5), batch_size=(4,))


def make(num_groups: int, kind: type = PES) -> tuple[Grouped, dict[str, torch.Tensor]]:
    torch.manual_seed(0)
    rule = MLPRule()
    problems = Problems(rule, FAMILY, num_tasks=2, truncation=Truncation(window=2, horizon=4))
    return Grouped(kind(problems), num_groups), theta_of(rule)


@pytest.mark.parametrize("kind", [PES, Backprop])
def test_an_estimate_is_the_mean_over_groups_of_their_own_structures(kind: type) -> None:
    grouped, theta = make(6, kind)
    state = grouped.init(theta, seeded(3))
    shapes = {tuple(leaf.shape for leaf in tree_leaves(one)) for one in state}
    assert len(shapes) > 1, "all groups drew the same width"
    found, _ = grouped.estimate(theta, state, seeded(4))
    generator = seeded(4)
    alone = [grouped.estimator.estimate(theta, one, generator)[0] for one in state]
    for name, grad in found.grads.items():
        torch.testing.assert_close(grad, sum(one.grads[name] for one in alone) / 6)
    torch.testing.assert_close(found.loss, sum(one.loss for one in alone) / 6)


def test_structures_are_drawn_anew_group_by_group() -> None:
    grouped, theta = make(3)
    generator = seeded(0)
    state = grouped.init(theta, generator)
    seen = []
    for _ in range(6):
        _, state = grouped.estimate(theta, state, generator)
        seen.append([int(one.problems.structure) for one in state])
    assert len({tuple(row) for row in seen}) == 4, "horizon 4, window 2: new ones after every second estimate"
    assert all(len(set(row)) == 3 for row in seen)


def test_there_is_at_least_one_group() -> None:
    with pytest.raises(ValueError, match="num_groups must be at least 1"):
        make(0)
