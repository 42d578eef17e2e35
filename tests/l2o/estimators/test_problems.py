from dataclasses import dataclass

import pytest
import torch
from torch import Generator

from l2o.estimators import MetaLoss, Problems, Truncation
from l2o.inner_loop import Lanes
from l2o.tasks.base import Always, Mixture, TaskFamily
from l2o.types import seeded, tree_leaves, tree_map
from tests.toys import BOWL, LearnedMomentum, Regressions, theta_of


def problems(**options):
    options = {"family": Regressions(), "num_tasks": 6, "truncation": Truncation(2, (2, 10), stagger=True)} | options
    return Problems(LearnedMomentum(), **options)


def windows(problems, seed=0, num=12):
    """States before and after each renewal, with the window between."""
    generator, theta = seeded(seed), theta_of(problems.rule)
    state = problems.start(generator)
    for _ in range(num):
        window, after = problems.advance(theta, state, generator)
        renewed = problems.renew(after, window.ended, generator)
        yield state, window, after, renewed
        state = renewed


def lanes_of(tree, index, copies=1, num=6):
    """Lanes of some tasks in every copy."""
    where = [copy * num + i for copy in range(copies) for i in index]
    return tree_map(lambda x: x[torch.tensor(where, dtype=torch.long)], tree)


@pytest.mark.parametrize("copies", [1, 2])
def test_tasks_are_replaced_exactly_at_their_horizon_and_no_others_are_touched(copies):
    some_ended = 0
    for before, window, after, renewed in windows(problems(copies=copies)):
        assert torch.equal(after.age, before.age + 2)
        assert torch.equal(window.ended, after.age == after.horizon)  # never beyond
        ended, going = window.ended.nonzero().flatten().tolist(), (~window.ended).nonzero().flatten().tolist()
        some_ended += 0 < len(ended) < 6
        for field in ("seeds", "age", "horizon", "initial"):
            assert torch.equal(getattr(renewed, field)[going], getattr(after, field)[going])
        for kept, old in zip(
            tree_leaves(lanes_of(renewed.inner, going, copies)),
            tree_leaves(lanes_of(after.inner, going, copies)),
            strict=True,
        ):
            assert torch.equal(kept, old)
        assert not set(renewed.seeds[ended].tolist()) & set(after.seeds.tolist())
        assert (renewed.age[ended] == 0).all()
        fresh = lanes_of(renewed.inner, ended, copies)
        assert (fresh.opt.step == 0).all()
        assert all((slot["m"] == 0).all() for slot in fresh.opt.slots.values())
    assert some_ended >= 5


def test_both_copies_of_a_fresh_task_begin_as_equals():
    state = problems(copies=2).start(seeded(0))
    for leaf in tree_leaves(state.inner):
        assert torch.equal(leaf[:6], leaf[6:])
    assert len(state.inner.params["w"][:6].unique(dim=0)) == 6


def test_both_copies_see_the_same_batches():
    for _, window, _, _ in windows(problems(copies=2)):
        assert torch.equal(window.values[0], window.values[1])  # theta is shared, so all else must be too
        assert torch.equal(window.losses[:, 0], window.losses[:, 1])


def test_a_task_made_again_from_its_seed_is_the_task_that_was_drawn():
    for *_, state in windows(one := problems()):
        again = problems()
        kept, made = one.lanes(state), again.lanes(state)
        for a, b in zip(kept.tasks, made.tasks, strict=True):
            assert torch.equal(a.truth, b.truth)
        for a, b in zip(kept._tensors.values(), made._tensors.values(), strict=True):
            assert torch.equal(a, b)


def test_tasks_that_go_on_are_neither_sampled_nor_stacked_again(monkeypatch):
    built, init = [], Lanes.__init__

    def counted(self, tasks, *rest):
        built.append(len(tasks))
        init(self, tasks, *rest)

    monkeypatch.setattr(Lanes, "__init__", counted)
    ended = [int(window.ended.sum()) for _, window, _, _ in windows(problems(copies=2))]
    assert built == [6, *(num for num in ended if num)]


def test_lanes_of_forgotten_states_are_forgotten():
    one = problems()
    assert sum(1 for _ in windows(one)) == 12
    assert len(one._lanes) == 0


def test_the_initial_loss_is_that_of_the_fresh_network():
    state = problems(family=Always(BOWL)).start(seeded(0))
    assert (state.initial == BOWL.loss({"w": BOWL.start}, None)).all()


def test_rules_are_told_the_length_of_the_problem():
    told = []

    class Told(LearnedMomentum):
        def init(self, params, total_steps=None):
            told.append(total_steps)
            opt = super().init(params)
            return opt._replace(shared={"total": total_steps, "scale": opt.shared["scale"]})

    state = Problems(Told(), Regressions(), 6, truncation=Truncation(2, (2, 10), stagger=True)).start(seeded(0))
    assert torch.equal(state.inner.opt.shared["total"], state.horizon.double())
    assert len(set(state.horizon.tolist())) > 1 and len(told) == 1


def test_structures_are_drawn_anew_with_random_horizons_too():
    problems = Problems(LearnedMomentum(), Widths(), 3, truncation=Truncation(2, (2, 8)))
    theta, generator = theta_of(problems.rule), seeded(0)
    state = problems.start(generator)
    seen = set()
    for _ in range(60):
        window, state = problems.advance(theta, state, generator)
        state = problems.renew(state, window.ended, generator)
        seen.add(int(state.structure))
    assert len(seen) > 15


@dataclass(frozen=True)
class Widths(TaskFamily):
    """Regressions of 1 to 4 dimensions, drawn in `fix`."""

    def fix(self, generator: Generator) -> TaskFamily:
        return Regressions(int(torch.randint(1, 5, (), generator=generator)))

    def sample(self, generator: Generator):
        return self.fix(generator).sample(generator)


def test_the_structure_is_drawn_anew_when_all_problems_end_together():
    one = problems(family=Widths(), truncation=Truncation(2, 4))
    widths = [state.inner.params["w"].shape[-1] for state, *_ in windows(one, num=40)]
    assert all(a == b for a, b in zip(widths[::2], widths[1::2], strict=True))  # kept within a problem
    assert set(widths) == {1, 2, 3, 4}


def test_the_structure_stays_while_any_problem_goes_on():
    one = problems(family=Mixture((Widths(), Regressions(7))))
    for seed in range(3):
        assert len({state.inner.params["w"].shape[-1] for state, *_ in windows(one, seed, num=5)}) == 1


def test_a_window_is_cut_from_what_came_before():
    one, theta = problems(), theta_of(LearnedMomentum())
    state = one.start(seeded(0))
    attached = {name: p.clone().requires_grad_() for name, p in state.inner.params.items()}
    window, after = one.advance(theta, state._replace(inner=state.inner._replace(params=attached)), seeded(1))
    window.values.sum().backward()
    assert all(p.grad is None for p in attached.values())
    assert all(value.grad is not None for value in theta.values())
    assert not any(leaf.requires_grad for leaf in tree_leaves(after))


def test_counts_that_make_no_sense_are_refused():
    with pytest.raises(ValueError, match="num_tasks must be at least 1"):
        problems(num_tasks=0)
    with pytest.raises(ValueError, match="copies must be at least 1"):
        problems(copies=0)


def test_validation_losses_come_from_validation_batches():
    one = problems(meta_loss=MetaLoss("validation"))
    for _, window, _, _ in windows(one, num=3):
        assert (window.values > 5000).all()  # their targets are 100 off
        assert (window.losses < 5000).all()
