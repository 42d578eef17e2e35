import warnings
from collections.abc import Iterator

import pytest
import torch
from torch import Tensor, nn
from torch.func import functional_call

from l2o.learners import MAML, MLP, Adaptation, adapt, meta_grad
from l2o.rules import SGD
from l2o.tasks.episodes import Episode, Examples
from l2o.types import seeded, tree_map

with warnings.catch_warnings():
    warnings.simplefilter("ignore")  # its docstrings (2020) have escapes that newer Pythons warn of
    higher = pytest.importorskip("higher")

RATE, STEPS = 0.1, 3


@pytest.fixture(autouse=True)
def seed() -> Iterator[None]:
    """Networks are the same in every run, whatever runs before."""
    with torch.random.fork_rng():
        torch.manual_seed(0)
        yield


def drawn(num: int, seed: int) -> Examples:
    x = torch.randn(num, 3, dtype=torch.float64, generator=seeded(seed))
    return Examples(x, x[:, :1] * x[:, 1:2] + 1.0)


EPISODE = Episode(drawn(5, 0), drawn(4, 1))
ONE = tree_map(lambda x: x.unsqueeze(0), EPISODE)


@pytest.fixture
def network() -> MLP:
    return MLP([3, 4, 1]).double()


def squared_error(network: nn.Module, weights: dict[str, Tensor], examples: Examples) -> Tensor:
    return (functional_call(network, weights, (examples.x,)) - examples.y).square().mean()


def by_hand(network: nn.Module, steps: int, second: bool) -> tuple[Tensor, dict[str, Tensor]]:
    """Query loss and meta-gradient of MAML, without any part of the library."""
    slow = {name: p.detach().clone().requires_grad_() for name, p in network.named_parameters()}
    fast = slow
    for _ in range(steps):
        loss = squared_error(network, fast, EPISODE.support)
        grads = torch.autograd.grad(loss, list(fast.values()), create_graph=second)
        fast = {name: p - RATE * g for (name, p), g in zip(fast.items(), grads, strict=True)}
    loss = squared_error(network, fast, EPISODE.query)
    grads = torch.autograd.grad(loss, list(slow.values()))
    return loss.detach(), dict(zip(slow, grads, strict=True))


def assert_same(got: dict[str, Tensor], expected: dict[str, Tensor]) -> None:
    assert got.keys() == expected.keys()
    for name, value in expected.items():
        torch.testing.assert_close(got[name], value, rtol=1e-10, atol=1e-10, msg=name)


@pytest.mark.parametrize("batching", ["loop", "vmap"])
@pytest.mark.parametrize("order", ["full", "first"])
def test_it_is_maml_by_hand(network: MLP, order: str, batching: str) -> None:
    loss, expected = by_hand(network, STEPS, order == "full")
    adaptation = Adaptation(MAML(network), SGD(RATE).double(), STEPS, order)
    found = meta_grad(adaptation, ONE, batching=batching)
    torch.testing.assert_close(found.losses[0], loss)
    found.grads.pop("rule.log_lr"), found.grads.pop("rule.log_weight_decay")
    assert_same({name.removeprefix("learner.network."): grad for name, grad in found.grads.items()}, expected)


def test_first_order_is_the_query_gradient_at_the_adapted_weights(network: MLP) -> None:
    adaptation = Adaptation(MAML(network), SGD(RATE).double(), STEPS, "first")
    found = meta_grad(adaptation, ONE).grads
    fast = {name: p.detach().requires_grad_() for name, p in adaptation.adapt(EPISODE.support).items()}
    grads = torch.autograd.grad(squared_error(network, fast, EPISODE.query), list(fast.values()))
    for name, grad in zip(fast, grads, strict=True):
        torch.testing.assert_close(found[f"learner.network.{name}"], grad, rtol=1e-10, atol=1e-10)


def test_higher_with_torchs_own_sgd_has_the_same_meta_gradients(network: MLP) -> None:
    rule = SGD(RATE).double()
    found = meta_grad(Adaptation(MAML(network), rule, STEPS), ONE).grads
    rate = torch.tensor(RATE, dtype=torch.float64, requires_grad=True)
    optimizer = torch.optim.SGD(network.parameters(), lr=RATE)
    context = higher.innerloop_ctx(network, optimizer, copy_initial_weights=False, override={"lr": [rate]})
    with context as (moving, step):
        for _ in range(STEPS):
            step.step((moving(EPISODE.support.x) - EPISODE.support.y).square().mean())
        loss = (moving(EPISODE.query.x) - EPISODE.query.y).square().mean()
        *slow, of_rate = torch.autograd.grad(loss, [*network.parameters(), rate])
    for (name, _), grad in zip(network.named_parameters(), slow, strict=True):
        torch.testing.assert_close(found[f"learner.network.{name}"], grad, rtol=1e-10, atol=1e-10)
    torch.testing.assert_close(found["rule.log_lr"], RATE * of_rate, rtol=1e-10, atol=1e-10)


def test_zero_steps_are_the_network(network: MLP) -> None:
    adaptation = Adaptation(MAML(network))
    fast = adaptation.adapt(EPISODE.support)
    assert torch.equal(adaptation.learner.predict(fast, EPISODE.query.x), network(EPISODE.query.x))
    _, expected = by_hand(network, 0, True)
    found = meta_grad(adaptation, ONE).grads
    assert_same({name.removeprefix("learner.network."): grad for name, grad in found.items()}, expected)


@pytest.mark.parametrize("part", [{"adapted": ("head.",)}, {"frozen": ("head.",)}], ids=["anil", "boil"])
def test_only_the_adapted_part_moves(network: MLP, part: dict[str, tuple[str]]) -> None:
    """ANIL moves the head and nothing else, BOIL all but the head; one step of both together is one of MAML."""
    learner = MAML(network, **part)
    expected = {name for name, _ in network.named_parameters() if name.startswith("head.") == ("adapted" in part)}
    fast = adapt(learner, SGD(RATE).double(), EPISODE.support, 1)
    assert fast.keys() == expected
    every = adapt(MAML(network), SGD(RATE).double(), EPISODE.support, 1)
    for name, value in fast.items():
        torch.testing.assert_close(value, every[name])
        assert (value != network.get_parameter(name)).any()
    whole = {**dict(network.named_parameters()), **fast}
    predicted = functional_call(network, whole, (EPISODE.query.x,))
    torch.testing.assert_close(learner.predict(fast, EPISODE.query.x), predicted)


def test_what_does_not_adapt_is_trained_all_the_same(network: MLP) -> None:
    grads = meta_grad(Adaptation(MAML(network, adapted=("head.",)), SGD(RATE).double(), 2), ONE).grads
    assert all(grads[f"learner.network.{name}"].any() for name, _ in network.named_parameters())


def test_parts_that_are_none_are_refused(network: MLP) -> None:
    with pytest.raises(ValueError, match="must fit a parameter"):
        MAML(network, adapted=("tail",))
    with pytest.raises(ValueError, match="something must adapt"):
        MAML(network, adapted=("head.",), frozen=("head.",))


def test_shared_weights_adapt_together() -> None:
    network = nn.Sequential(nn.Linear(3, 3), nn.Linear(3, 3))
    network[1].weight = network[0].weight
    learner, x = MAML(network), torch.randn(4, 3, generator=seeded(0))
    fast = {name: 2 * value for name, value in learner.start(Examples(x, x)).items()}
    expected = functional_call(network, {**fast, "1.weight": fast["0.weight"]}, (x,), tie_weights=False)
    torch.testing.assert_close(learner.predict(fast, x), expected)
    assert not torch.allclose(expected, functional_call(network, fast, (x,), tie_weights=False))
