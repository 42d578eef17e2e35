"""A rule that trains itself: islands are outer steps, and what the gate rejects is taken back."""

import pytest
import torch

from l2o.agents.gate import Verdict
from l2o.agents.proposers.recursion import RATE, WORKING, Island, Recursion, both
from l2o.agents.spec import AgentSpec, packed, unpacked
from l2o.distributed import LocalPool
from l2o.estimators import ES, MetaLoss, Problems, Truncation
from l2o.rules import Adam, MatrixRule
from l2o.tasks import Quadratics
from l2o.training.meta_trainer import MetaTrainer, theta_of
from l2o.types import seeded


def new_rule():
    with torch.random.fork_rng():
        torch.manual_seed(0)
        return MatrixRule(hidden_size=2, vectors="learned", step_scale=0.1)


def estimator(rule):
    truncation = Truncation(4, 4)
    return ES(Problems(rule, Quadratics(3), 2, truncation=truncation, meta_loss=MetaLoss(log=True)), 0.1)


def verdict(reason):
    return Verdict(reason == "better", reason, 1.0, 1.0, 0.0, 0)


def new_recursion(driver="auto", num_steps=2):
    rule = new_rule()

    def make_pool(who, theta):
        return LocalPool(Island(estimator(rule), who, 0.05, num_steps=num_steps), theta, 2, seed=3)

    return Recursion(rule, make_pool, driver=driver), AgentSpec.of(optimizer=packed(Adam(0.1)))


def test_an_island_that_adam_drives_takes_the_steps_of_a_meta_trainer():
    rule = new_rule()
    theta = {name: p.clone() for name, p in theta_of(rule).items()}
    island = Island(estimator(rule), "adam", lr=0.05, num_steps=3)
    generator = seeded(7)
    found, _ = island.estimate(both(theta, theta, 1.0), island.init(both(theta, theta, 1.0), generator), generator)

    optimizer = torch.optim.Adam(rule.parameters(), lr=0.05)
    trainer = MetaTrainer(rule, LocalPool(estimator(rule), theta, 1, seed=7), optimizer)
    for _ in range(3):
        trainer.step()
    for name, p in rule.named_parameters():
        torch.testing.assert_close(theta[name] - found.grads[WORKING + name], p.detach(), atol=1e-5, rtol=1e-4)
    assert not found.grads[RATE].any()


def test_the_accepted_version_drives_and_the_working_one_moves():
    rule = new_rule()
    theta = {name: p.clone() for name, p in theta_of(rule).items()}
    other = {name: p + 0.5 for name, p in theta.items()}
    island, moves = Island(estimator(rule), "self", num_steps=2), []
    for accepted in (theta, other, theta):
        generator = seeded(1)
        given = both(accepted, theta, 1.0)
        moves.append(island.estimate(given, island.init(given, generator), generator)[0].grads)
    name = WORKING + "net.weights.2"
    assert torch.equal(moves[0][name], moves[2][name]) and not torch.equal(moves[0][name], moves[1][name])


def test_adam_drives_first_then_the_accepted_rule_then_adam_after_a_failure():
    recursion, spec = new_recursion()
    first = recursion.propose(spec, seeded(0))
    assert "adam" in first.by
    recursion.hear(first, verdict("better"))
    spec = spec.replaced("optimizer", first.value, 1)
    second = recursion.propose(spec, seeded(0))
    assert "self" in second.by
    recursion.hear(second, verdict("worse"))
    assert "adam" in recursion.propose(spec, seeded(0)).by


def test_what_is_worse_is_taken_back_with_the_outer_optimizers_state_and_half_the_rate():
    recursion, spec = new_recursion("adam")
    first = recursion.propose(spec, seeded(0))
    recursion.hear(first, verdict("better"))
    spec = spec.replaced("optimizer", first.value, 1)
    kept = recursion.state_dict()
    rejected = recursion.propose(spec, seeded(0))
    recursion.hear(rejected, verdict("worse"))
    now = recursion.state_dict()
    for name, p in theta_of(unpacked(first.value)).items():
        assert torch.equal(now["working"][name], p)
    for before, after in zip(kept["pools"]["adam"]["workers"], now["pools"]["adam"]["workers"], strict=True):
        assert torch.equal(before["state"].outer.step, after["state"].outer.step)
        assert not torch.equal(before["generator"], after["generator"])  # problems go on: not the same round again
    assert now["rates"]["adam"] == 0.5


def test_what_is_undecided_is_gone_on_with():
    recursion, spec = new_recursion("adam")
    first = recursion.propose(spec, seeded(0))
    recursion.hear(first, verdict("undecided"))
    for name, p in theta_of(unpacked(first.value)).items():
        assert torch.equal(recursion.working[name], p)


def test_a_recursion_resumes_as_if_it_had_never_stopped():
    one, spec = new_recursion()
    first = one.propose(spec, seeded(0))
    one.hear(first, verdict("better"))
    spec = spec.replaced("optimizer", first.value, 1)
    other, _ = new_recursion()
    other.load_state_dict(one.state_dict())
    assert torch.equal(one.propose(spec, seeded(0)).value, other.propose(spec, seeded(0)).value)


def test_an_island_needs_an_update_rule():
    class Nothing(ES):
        module = None

    rule = new_rule()
    with pytest.raises(ValueError, match="update rule"):
        Island(Nothing(Problems(rule, Quadratics(3), 2), 0.1))
