"""What every task family promises. A new family joins by one line in FAMILIES."""

import pickle

import pytest
import torch
from torch.func import grad, grad_and_value

from l2o import learners, tasks
from l2o.agents.environments import Bandit, CartPole, PointMass
from l2o.agents.policy_task import PolicyFamily
from l2o.inner_loop import InnerLoop, Lanes
from l2o.rules.base import OptState, UpdateRule, zero_step
from l2o.tasks.base import Task, structure_of, tensors_of, with_tensors
from l2o.types import seeded, tree_leaves, tree_map, tree_stack

MLP = tasks.MLPFamily(
    hidden=(4, 6), depth=(1, 2), activation=("tanh", "gelu"), batch_size=(3, 5), init_scale=(0.5, 2.0)
)

IRIS = tasks.data.from_dataset(tasks.data.iris())


def small_ntm(inputs: int, outputs: int) -> learners.NTM:
    return learners.NTM(inputs, outputs, controller=4, rows=3, width=2)


def small_mann() -> learners.OnlineLearner:
    core = learners.MANN(3 + 2, 2, controller=4, rows=3, width=2, num_reads=1)
    return learners.OnlineLearner(learners.MemoryLearner(learners.MLP([4, 3]), core, late=True))


FAMILIES = {
    "quadratic": tasks.Quadratics(dim=4),
    "functions": tasks.ClassicFunctions(dim=(2, 3), shift=1.0, rotate=True, scale=(0.1, 10.0)),
    "ackley": tasks.ClassicFunctions(functions=(tasks.Ackley,), dim=(3,)),
    "mlp": MLP,
    "relu": tasks.MLPFamily(hidden=(4,), activation=("relu",), batch_size=(4,)),
    "logistic": tasks.MLPFamily(depth=(0,), batch_size=(4,), sources=(tasks.data.iris(), tasks.data.wine())),
    "conv": tasks.ConvFamily(channels=(2, 3), activation=("sigmoid",), batch_size=(3,)),
    "elman": tasks.RecurrentFamily(cell=("elman",), hidden=(4,), embedding=(3,), length=(5,), batch_size=(2,)),
    "gru": tasks.RecurrentFamily(cell=("gru",), hidden=(4,), embedding=(3,), length=(5,), batch_size=(2,)),
    "lstm": tasks.RecurrentFamily(cell=("lstm",), hidden=(4,), embedding=(3,), length=(5,), batch_size=(2,)),
    "transformer": tasks.TransformerFamily(width=(4,), layers=(1, 2), length=(5,), batch_size=(2,)),
    "autoencoder": tasks.AutoencoderFamily(hidden=(5,), latent=(2,), activation=("tanh",), batch_size=(3,)),
    "vae": tasks.AutoencoderFamily((True,), hidden=(5,), latent=(2,), activation=("tanh",), batch_size=(3,)),
    "student": tasks.StudentFamily(hidden=(4,), depth=(0, 1), activation=("tanh",), batch_size=(4,)),
    "regression": tasks.StudentFamily((tasks.StudentRegression,), hidden=(4,), activation=("tanh",), batch_size=(4,)),
    "reparametrised": tasks.ReparametrisedFamily(MLP, (0.1, 10.0), ("none", "global", "tensor", "parameter")),
    "scaled loss": tasks.ScaledLossFamily(MLP),
    "noisy gradient": tasks.NoisyGradientFamily(MLP),
    "copy": tasks.SequenceFamily(small_ntm, (tasks.Copy(2, (1, 2)),), batch_size=(3,)),
    "repeat copy": tasks.SequenceFamily(small_ntm, (tasks.RepeatCopy(1, (1, 1), (1, 2)),), batch_size=(3,)),
    "recall": tasks.SequenceFamily(small_ntm, (tasks.AssociativeRecall(2, 1, (2, 2)),), batch_size=(3,)),
    "stream": tasks.Always(tasks.StreamTask(small_mann, tasks.LabelShiftedStream(IRIS, 2, 2), batch_size=3)),
    "policy": PolicyFamily(
        (Bandit(3, 4), CartPole(max_steps=6), PointMass(1, max_steps=5)), hidden=(4,), num_episodes=(3,)
    ),
    "always": tasks.Always(MLP.sample(seeded(0))),
    "mixture": tasks.Mixture((MLP, tasks.Quadratics(dim=3)), weights=(1.0, 2.0)),
}
NO_DIFFERENCES = ("relu", "noisy gradient", "policy")  # corners; gradients that no loss has

every_family = pytest.mark.parametrize("family", FAMILIES.values(), ids=list(FAMILIES))


class Descent(UpdateRule):
    """Gradient descent with a learned step size."""

    def __init__(self):
        super().__init__()
        self.lr = torch.nn.Parameter(torch.tensor(0.1))

    def init(self, params, total_steps=None):
        return OptState(zero_step(params), {name: {} for name in params}, {})

    def forward(self, grads, state, params, loss=None):
        return {name: -self.lr * grad for name, grad in grads.items()}, state._replace(step=state.step + 1)


def lanes_of(family, num: int = 3) -> Lanes:
    fixed = family.fix(seeded(0))
    return Lanes([fixed.sample(seeded(i)) for i in range(num)], Descent())


def equal(a, b) -> bool:
    left, right = tree_leaves(a), tree_leaves(b)
    return len(left) == len(right) and all(torch.equal(x, y) for x, y in zip(left, right, strict=True))


def double(tree):
    return tree_map(lambda x: x.double() if x.is_floating_point() else x, tree)


def in_double(task: Task) -> Task:
    return with_tensors(task, double(tensors_of(task)))


@every_family
def test_the_same_seed_gives_the_same_task_parameters_and_batches(family):
    def draw():
        generator = seeded(3)
        task = family.fix(generator).sample(generator)
        drawn = task.init(generator), task.sample_batch(generator), task.sample_batches(generator, 2)
        return structure_of(task), (tensors_of(task), drawn, task.sample_validation_batch(generator))

    (structure, first), (again, second) = draw(), draw()
    assert structure == again
    assert equal(first, second)


@every_family
def test_nothing_is_drawn_from_the_global_generator(family):
    torch.manual_seed(5)
    before = torch.get_rng_state()
    task = family.sample(seeded(1))
    params, batch = task.init(seeded(2)), task.sample_batch(seeded(3))
    task.loss(params, batch)
    task.sample_batches(seeded(4), 2)
    assert torch.equal(before, torch.get_rng_state())


@every_family
def test_loss_is_a_finite_scalar_with_finite_gradients(family):
    for seed in range(3):
        generator = seeded(seed)
        task = family.sample(generator)
        grads, loss = grad_and_value(task.loss)(task.init(generator), task.sample_batch(generator))
        assert loss.shape == () and loss.isfinite()
        assert all(g.isfinite().all() for g in grads.values())
        assert any(g.any() for g in grads.values())
        assert task.loss(task.init(generator), task.sample_validation_batch(generator)).isfinite()


@every_family
def test_tasks_of_a_fixed_family_run_in_one_batch_as_they_do_one_by_one(family):
    lanes = lanes_of(family)
    batches = lanes.sample_batches(seeded(1), 2)
    theta = dict(lanes.rule.named_parameters())
    final, losses = lanes.unroll(theta, lanes.reset([seeded(i) for i in range(3)]), batches)
    for i, task in enumerate(lanes.tasks):
        loop = InnerLoop(task, lanes.rule)
        own = [tree_map(lambda x, i=i: x[i], batch) for batch in batches]
        expected, expected_losses = loop.unroll(theta, loop.reset(seeded(i)), own)
        torch.testing.assert_close(losses[:, i], expected_losses, rtol=1e-4, atol=1e-5)
        for name, p in expected.params.items():
            torch.testing.assert_close(final.params[name][i], p, rtol=1e-3, atol=1e-5)


@every_family
def test_many_batches_drawn_at_once_look_like_single_ones_stacked(family):
    task = family.sample(seeded(0))
    many = tree_leaves(task.sample_batches(seeded(1), 3))
    stacked = tree_leaves(tree_stack([task.sample_batch(seeded(i)) for i in range(3)]))
    assert [(x.shape, x.dtype) for x in many] == [(x.shape, x.dtype) for x in stacked]
    assert all(not torch.equal(x[0], x[1]) for x in many if x.is_floating_point() and x.numel())


@every_family
def test_tasks_and_families_survive_pickling(family):
    task = family.sample(seeded(0))
    copy = pickle.loads(pickle.dumps(task))
    assert structure_of(copy) == structure_of(task)
    assert equal(tensors_of(copy), tensors_of(task))
    again = pickle.loads(pickle.dumps(family)).sample(seeded(0))
    assert equal(task.init(seeded(1)), again.init(seeded(1)))
    assert equal(task.sample_batch(seeded(2)), again.sample_batch(seeded(2)))


@pytest.mark.parametrize("name", [name for name in FAMILIES if name not in NO_DIFFERENCES])
def test_gradients_through_a_training_step_match_finite_differences(name):
    generator = seeded(7)
    task = FAMILIES[name].sample(generator)
    params, batches = double(task.init(generator)), double([task.sample_batch(generator) for _ in range(2)])
    direction = {k: torch.randn(p.shape, generator=generator).double() for k, p in params.items()}
    task = in_double(task)

    def after_a_step(shift):
        moved = {k: p + shift * direction[k] for k, p in params.items()}
        gradient = grad(task.loss)(moved, batches[0])
        return task.loss({k: p - 0.01 * gradient[k] for k, p in moved.items()}, batches[1])

    eps = torch.tensor(1e-6, dtype=torch.float64)
    numeric = (after_a_step(eps) - after_a_step(-eps)) / (2 * eps)
    torch.testing.assert_close(grad(after_a_step)(eps * 0), numeric, rtol=1e-4, atol=1e-6)


def test_tasks_of_different_structure_are_refused_in_one_batch():
    with pytest.raises(ValueError, match="must differ only in their tensor fields"):
        Lanes([MLP.fix(seeded(i)).sample(seeded(i)) for i in range(5)], Descent())
