"""What every learner promises. A new learner joins by one line in LEARNERS.

That its meta-gradients are right, with every rule, is in test_meta_gradients.py.
"""

import copy
import pickle
from collections.abc import Callable
from typing import Any

import pytest
import torch
from torch import Tensor, nn

import l2o
from l2o.configured import Configured
from l2o.estimators import Reptile
from l2o.learners import (
    CAVIA,
    DNC,
    IMAML,
    MAML,
    MANN,
    MLP,
    NTM,
    SNAIL,
    VERSA,
    Adaptation,
    AttentiveNeuralProcess,
    CNAPs,
    ConditionalNeuralProcess,
    EpisodicTask,
    FiLMMLP,
    Hypernetwork,
    InContextTransformer,
    LatentNeuralProcess,
    Learner,
    MatchingNetwork,
    MemoryLearner,
    MetaCurvature,
    MetaLSTMRule,
    MetaSGD,
    PriorFittedNetwork,
    PrototypicalNetwork,
    RecurrentLearner,
    RelationNetwork,
    ReptileTask,
    RidgeHead,
    SiameseNetwork,
    StepRates,
    SVMHead,
    TransformerNeuralProcess,
    WithContext,
    adapt,
    shapes_of,
)
from l2o.rules import SGD, Adam, LSTMRule, MLPRule, Momentum, UpdateRule
from l2o.tasks.episodes import Episode, Examples
from l2o.tasks.gaussian_classes import GaussianClasses
from l2o.types import seeded, tree_map

WAY, NUM = 3, 2
FAMILY = GaussianClasses(dim=4, spread=0.5, way=WAY, shot=2, query=2)
SUPPORT = FAMILY.sample(seeded(0)).support


def _embedding() -> nn.Module:
    return MLP([4, 6, 5])


@l2o.load.register
class Maps(Configured):
    """Feature maps of vectors."""

    def __init__(self) -> None:
        super().__init__()
        self.network = MLP([4, 16])

    def forward(self, x: Tensor) -> Tensor:
        return self.network(x).unflatten(1, (1, 4, 4))


LEARNERS: dict[str, Callable[[], Learner]] = {
    "maml": lambda: MAML(MLP([4, 5, WAY])),
    "anil": lambda: MAML(MLP([4, 5, WAY]), adapted=("head.",)),
    "boil": lambda: MAML(MLP([4, 5, WAY]), frozen=("head.",)),
    "imaml": lambda: IMAML(MLP([4, 5, WAY])),
    "cavia": lambda: CAVIA(WithContext(MLP([4 + 2, 5, WAY])), num_context=2),
    "cavia, scaling": lambda: CAVIA(FiLMMLP(MLP([4, 5, WAY]), num_context=2), num_context=2),
    "prototypical": lambda: PrototypicalNetwork(_embedding(), WAY),
    "matching": lambda: MatchingNetwork(_embedding(), WAY),
    "matching, no context": lambda: MatchingNetwork(_embedding(), WAY, full_context=False),
    "siamese": lambda: SiameseNetwork(_embedding(), WAY),
    "relation": lambda: RelationNetwork(Maps(), WAY, width=1, size=4, norm="none"),
    "relation, vectors": lambda: RelationNetwork(MLP([4, 4]), WAY, num_features=4),
    "ridge": lambda: RidgeHead(_embedding(), WAY),
    "svm": lambda: SVMHead(_embedding(), WAY),
    "ntm": lambda: MemoryLearner(_embedding(), NTM(5 + WAY + 1, WAY, controller=4, rows=4, width=3)),
    "dnc": lambda: MemoryLearner(_embedding(), DNC(5 + WAY + 1, WAY, 4, rows=4, width=3, stop_usage=False)),
    "mann": lambda: MemoryLearner(_embedding(), MANN(5 + WAY, WAY, 4, rows=4, width=3, num_reads=2), late=True),
    "versa": lambda: VERSA(_embedding(), WAY, hidden=4, num_samples=3),
    "cnp": lambda: ConditionalNeuralProcess(4, WAY, 5, 2, "categorical"),
    "np": lambda: LatentNeuralProcess(4, WAY, 5, 2, 3, 2, "categorical"),
    "anp": lambda: AttentiveNeuralProcess(4, WAY, 6, 2, 2, True, 3, 2, "categorical"),
    "tnp-d": lambda: TransformerNeuralProcess(4, WAY, 6, 2, 2, 6, likelihood="categorical"),
    "tnp-a": lambda: TransformerNeuralProcess(4, WAY, 6, 2, 2, 6, True, likelihood="categorical"),
    "pfn": lambda: PriorFittedNetwork(4, WAY, 6, 2, 2, 6),
    "lstm": lambda: RecurrentLearner(_embedding(), WAY, size=6),
    "gru": lambda: RecurrentLearner(_embedding(), WAY, "gru", size=4, num_layers=2, hidden=3),
    "snail": lambda: SNAIL(_embedding(), WAY, length=7, filters=3, attention=((4, 3), (4, 3))),
    "in-context": lambda: InContextTransformer(4, WAY, 6, 2, 2),
    "in-context, linear": lambda: InContextTransformer(4, WAY, 6, 2, 2, attention="linear"),
    "hypernetwork": lambda: Hypernetwork(MLP([4, 5, WAY]), _embedding(), WAY, size=3, hidden=(6,)),
    "chunked": lambda: Hypernetwork(MLP([5, 4, WAY]), _embedding(), WAY, True, size=3, hidden=(6,), chunk=7),
    "cnaps": lambda: CNAPs(_embedding(), _embedding(), WAY, hidden=4),
}
RULES: dict[str, Callable[[Learner], UpdateRule]] = {
    "sgd": lambda learner: SGD(0.1),
    "momentum": lambda learner: Momentum(0.1),
    "adam": lambda learner: Adam(0.05),
    "lstm": lambda learner: LSTMRule(hidden_size=4, output_scale=1.0),
    "mlp": lambda learner: MLPRule(step_scale=0.1),
    "meta-sgd": lambda learner: MetaSGD(shapes_of(learner, SUPPORT), lr=0.1),
    "meta-curvature": lambda learner: MetaCurvature(shapes_of(learner, SUPPORT), lr=0.1),
    "step-rates": lambda learner: StepRates(shapes_of(learner, SUPPORT), num_steps=2, lr=0.1),
    "meta-lstm": lambda learner: MetaLSTMRule(hidden_size=3),
}

every_learner = pytest.mark.parametrize("learner", LEARNERS)


def make(learner: str, rule: str = "sgd", steps: int = 2, order: str = "full") -> Adaptation:
    """An adaptation in float64 from seed 0, theta moved off its start, where parts are zero."""
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(0)
        fresh = LEARNERS[learner]()
        made = Adaptation(fresh, RULES[rule](fresh), steps, order).double()
        for p in made.parameters():
            p.data += 0.1 * torch.randn_like(p)
    return made


def episodes(num: int = NUM) -> Episode:
    drawn = FAMILY.sample_many(seeded(7), num)
    return tree_map(lambda x: x.double() if x.is_floating_point() else x, drawn)


def one(i: int, of: Episode) -> Episode:
    return tree_map(lambda x: x[i], of)


def assert_same(got: dict[str, Tensor], expected: dict[str, Tensor], tolerance: float = 1e-10) -> None:
    assert got.keys() == expected.keys()
    for name, value in expected.items():
        torch.testing.assert_close(got[name], value, rtol=tolerance, atol=tolerance, msg=name)


@every_learner
def test_zero_steps_are_the_start_and_steps_lower_the_inner_loss(learner: str) -> None:
    adaptation, given = make(learner), one(0, episodes())
    support, of = given.support, adaptation.learner
    start = of.start(support)
    assert_same(adapt(of, None, support, 0), start, 0.0)
    assert_same(adapt(of, SGD(0.1).double(), support, 0), start, 0.0)
    fast = adapt(of, SGD(0.01).double(), support, 3)
    assert fast.keys() == start.keys()
    assert of.inner_loss(fast, support) < of.inner_loss(start, support)


@every_learner
def test_nothing_is_remembered_between_episodes(learner: str) -> None:
    adaptation, given = make(learner), episodes(2)
    before = {name: value.clone() for name, value in adaptation.state_dict().items()}
    first = adaptation(one(0, given)).loss
    adaptation(one(1, given))
    assert torch.equal(adaptation(one(0, given)).loss, first)
    assert_same(dict(adaptation.state_dict()), before, 0.0)


@every_learner
def test_without_gradients_nothing_is_recorded(learner: str) -> None:
    adaptation, given = make(learner), one(0, episodes())
    with torch.no_grad():
        outcome = adaptation(given)
    assert not outcome.loss.requires_grad
    torch.testing.assert_close(outcome.loss, adaptation(given).loss.detach())


@every_learner
def test_prediction_of_an_input_does_not_depend_on_the_others(learner: str) -> None:
    adaptation, given = make(learner), one(0, episodes())
    fast = adaptation.adapt(given.support)
    together = adaptation.learner.predict(fast, given.query.x)
    alone = torch.cat([adaptation.learner.predict(fast, x.unsqueeze(0)) for x in given.query.x])
    assert together.shape == (WAY * FAMILY.query, WAY)
    torch.testing.assert_close(together, alone)


@every_learner
def test_renaming_the_classes_of_a_feed_forward_learner_renames_its_scores(learner: str) -> None:
    of, given = make(learner).learner, one(0, episodes())
    named = MAML | CAVIA | MemoryLearner | PriorFittedNetwork | VERSA | RecurrentLearner | SNAIL | Hypernetwork
    if isinstance(of, named | InContextTransformer):
        pytest.skip("its output units, or its draws, have names of their own")
    turn = torch.tensor([1, 2, 0])
    renamed = Examples(given.support.x, turn[given.support.y])
    before = of.predict(of.start(given.support), given.query.x)
    after = of.predict(of.start(renamed), given.query.x)
    torch.testing.assert_close(after[:, turn], before)


@every_learner
def test_save_load_copy_and_pickle_give_the_same(learner: str, tmp_path: Any) -> None:
    adaptation, given = make(learner).float(), FAMILY.sample(seeded(3))
    l2o.save(adaptation, tmp_path / "learner.safetensors")
    expected = adaptation(given).loss
    for again in (
        l2o.load(tmp_path / "learner.safetensors"),
        copy.deepcopy(adaptation),
        pickle.loads(pickle.dumps(adaptation)),
    ):
        assert torch.equal(again(given).loss, expected)


@every_learner
def test_a_learner_is_a_task_that_a_rule_can_train(learner: str) -> None:
    def fresh() -> Adaptation:
        return Adaptation(LEARNERS[learner](), SGD(0.1), 1)

    task = EpisodicTask(fresh, FAMILY, num_episodes=8)
    loop = l2o.InnerLoop(task, Adam(0.02))
    state = loop.reset(seeded(0))
    theta = {name: p.detach() for name, p in loop.rule.named_parameters()}
    batches = task.sample_batches(seeded(1), 40)
    _, losses = loop.unroll(theta, state, [tree_map(lambda x, i=i: x[i], batches) for i in range(40)])
    assert losses[-10:].mean() < losses[:10].mean()


def test_a_reptile_task_has_the_reptile_estimators_direction() -> None:
    adaptation = Adaptation(LEARNERS["maml"](), SGD(0.1), 3).float()
    adaptation.rule.requires_grad_(False)
    task, generator = ReptileTask(lambda: adaptation, FAMILY, num_episodes=4), seeded(0)
    theta = {name: p.detach() for name, p in adaptation.named_parameters() if p.requires_grad}
    estimator = Reptile(adaptation, FAMILY, num_episodes=4)
    found, _ = estimator.estimate(theta, estimator.init(theta, generator), seeded(1))
    grads, loss = torch.func.grad_and_value(task.loss)(theta, task.sample_batch(seeded(1)))
    assert torch.allclose(loss, found.loss.to(loss))
    for name, grad in grads.items():
        assert torch.allclose(grad, found.grads[name], atol=1e-6) and grad.abs().max() > 0
