"""What every learner promises, with every rule. A new learner joins by one line in LEARNERS."""

import copy
import pickle
import warnings
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
    meta_grad,
    shapes_of,
)
from l2o.optim import LearnedOptimizer
from l2o.rules import SGD, Adam, LSTMRule, MLPRule, Momentum, OptState, UpdateRule
from l2o.tasks.episodes import Episode, Examples
from l2o.tasks.gaussian_classes import GaussianClasses
from l2o.types import seeded, tree_map

with warnings.catch_warnings():
    warnings.simplefilter("ignore")  # its docstrings (2020) have escapes that newer Pythons warn of
    higher = pytest.importorskip("higher")
    import l2o.higher

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
    "prototypical": lambda: PrototypicalNetwork(_embedding(), WAY),
    "matching": lambda: MatchingNetwork(_embedding(), WAY),
    "matching, no context": lambda: MatchingNetwork(_embedding(), WAY, full_context=False),
    "siamese": lambda: SiameseNetwork(_embedding(), WAY),
    "relation": lambda: RelationNetwork(Maps(), WAY, width=1, size=4, norm="none"),
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
    "in-context, linear": lambda: InContextTransformer(4, WAY, 6, 2, 2, attention="linear", in_turn=False),
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
every_rule = pytest.mark.parametrize("rule", RULES)


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
@every_rule
def test_all_ways_have_one_meta_gradient(learner: str, rule: str) -> None:
    """Episodes in a loop, side by side, in chunks; `higher`, TorchOpt; finite differences."""
    adaptation, given = make(learner, rule), episodes()
    loop = assert_batching_makes_no_difference(adaptation, given)
    assert any(grad.abs().max() > 1e-6 for grad in loop.values())
    for oracle in (by_higher, by_torchopt):
        loss = torch.stack([oracle(adaptation, one(i, given)) for i in range(NUM)]).mean()
        trained = [p for p in adaptation.parameters() if p.requires_grad]
        found = torch.autograd.grad(loss, trained, allow_unused=True, materialize_grads=True)
        assert_same(dict(zip(loop, found, strict=True)), loop)
    theta = {name: p.detach() for name, p in adaptation.named_parameters() if p.requires_grad}
    direction = {name: torch.randn(p.shape, generator=seeded(i)).to(p) for i, (name, p) in enumerate(theta.items())}

    def loss_at(size: float) -> Tensor:
        moved = {name: p + size * direction[name] for name, p in theta.items()}
        return meta_grad(adaptation, given, moved).losses.mean()

    along = sum((loop[name] * direction[name]).sum() for name in theta)
    torch.testing.assert_close(along, (loss_at(1e-6) - loss_at(-1e-6)) / 2e-6, rtol=2e-5, atol=1e-7)


@every_learner
@pytest.mark.parametrize("order", ["first", "truncated:1", "implicit:3"])
def test_batching_makes_no_difference_in_other_orders(learner: str, order: str) -> None:
    adaptation, given = make(learner, "momentum", order=order), episodes()
    grads = assert_batching_makes_no_difference(adaptation, given)
    # where all weights adapt and nothing holds them back, the end of a minimisation does not depend on its beginning
    moves = order != "implicit:3" or learner not in ("maml", "hypernetwork", "cnaps")
    assert any(grad.abs().max() > 1e-6 for grad in grads.values()) == moves


@every_learner
def test_batching_makes_no_difference_without_steps(learner: str) -> None:
    adaptation, given = make(learner, steps=0), episodes()
    grads = assert_batching_makes_no_difference(adaptation, given)
    assert any(grad.abs().max() > 1e-6 for grad in grads.values())


def test_an_episode_that_is_not_finite_is_left_out_without_steps() -> None:
    adaptation, given = make("prototypical", steps=0), episodes()
    given.support.x[0] = float("nan")
    found, alone = (
        meta_grad(adaptation, given, batching="vmap"),
        meta_grad(adaptation, tree_map(lambda x: x[1:], given)),
    )
    assert found.finite.tolist() == [False, True]
    assert_same(found.grads, alone.grads)


def assert_batching_makes_no_difference(adaptation: Adaptation, given: Episode) -> dict[str, Tensor]:
    loop = meta_grad(adaptation, given, batching="loop")
    for batching in ("vmap", "chunk:1"):
        other = meta_grad(adaptation, given, batching=batching)
        assert_same(other.grads, loop.grads)
        torch.testing.assert_close(other.losses, loop.losses, rtol=1e-12, atol=1e-12)
        assert torch.equal(other.scores, loop.scores)
    return loop.grads


class Holder(nn.Module):
    """Fast variables as a module's parameters, which other libraries move."""

    def __init__(self, fast: dict[str, Tensor]) -> None:
        super().__init__()
        self.names = list(fast)
        for i, value in enumerate(fast.values()):
            self.register_parameter(f"p{i}", nn.Parameter(value.detach().clone()))

    def forward(self) -> dict[str, Tensor]:
        return {name: getattr(self, f"p{i}") for i, name in enumerate(self.names)}


class Named(UpdateRule):
    """A rule that is told the fast variables' names again, which an optimizer of torch does not keep."""

    def __init__(self, rule: UpdateRule, names: list[str]) -> None:
        super().__init__()
        self.rule, self.names = rule, names

    def init(self, params: dict[str, Tensor], total_steps: Any = None) -> OptState:
        return self._back(self.rule.init(self._named(params), total_steps), params)

    def forward(self, grads: Any, state: OptState, params: Any, loss: Any = None) -> Any:
        named = state._replace(slots=self._named(state.slots))
        updates, after = self.rule(self._named(grads), named, self._named(params), loss)
        return {key: updates[name] for key, name in zip(params, self.names, strict=True)}, self._back(after, params)

    def _named(self, tree: Any) -> Any:
        return dict(zip(self.names, tree.values(), strict=True))

    def _back(self, state: OptState, params: Any) -> OptState:
        return state._replace(slots={key: state.slots[name] for key, name in zip(params, self.names, strict=True)})


def started(adaptation: Adaptation, episode: Episode) -> dict[str, Tensor]:
    """The fast variables, differentiable even where nothing leads to them, as the other libraries want them.

    Views, because one may have been made from another, which the gradient is not to see.
    """
    fast = adaptation.learner.start(episode.support)
    return {
        name: value.view_as(value) if value.requires_grad else value.detach().requires_grad_()
        for name, value in fast.items()
    }


def by_higher(adaptation: Adaptation, episode: Episode) -> Tensor:
    fast = started(adaptation, episode)
    holder = Holder(fast)
    assert adaptation.rule is not None
    optimizer = LearnedOptimizer(holder.parameters(), Named(adaptation.rule, list(fast)), total_steps=adaptation.steps)
    with higher.innerloop_ctx(holder, optimizer, copy_initial_weights=False) as (moving, step):
        moving.update_params(list(fast.values()))
        for _ in range(adaptation.steps):
            fast = moving()
            loss = adaptation.learner.inner_loss(fast, episode.support)
            # what the loss does not depend on (MANN's usage only orders) has a gradient of zero; none would be skipped
            step.step(loss + sum(0.0 * value.sum() for value in fast.values()))
        return adaptation.learner.query_loss(moving(), episode.query)


def by_torchopt(adaptation: Adaptation, episode: Episode) -> Tensor:
    torchopt = pytest.importorskip("torchopt")
    learner, rule = adaptation.learner, adaptation.rule
    assert rule is not None
    fast = started(adaptation, episode)
    holder, names, losses = Holder(fast), list(fast), []
    for i, value in enumerate(fast.values()):
        holder._parameters[f"p{i}"] = value  # as TorchOpt itself does

    def update(grads: Any, state: Any, *, params: Any, inplace: bool) -> Any:
        grads = [torch.zeros_like(p) if g is None else g for g, p in zip(grads, params, strict=True)]
        named = (dict(zip(names, values, strict=True)) for values in (grads, params))
        steps, state = rule(next(named), state, next(named), losses[-1])
        return tuple(steps.values()), state

    rules = torchopt.base.GradientTransformation(
        lambda params: rule.init(dict(zip(names, params, strict=True)), adaptation.steps), update
    )
    optimizer = torchopt.MetaOptimizer(holder, rules)
    for _ in range(adaptation.steps):
        losses.append(learner.inner_loss(holder(), episode.support))
        optimizer.step(losses[-1])
    return learner.query_loss(holder(), episode.query)


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
