import pytest
import torch
from torch import Tensor, nn
from torch.func import functional_call

from l2o.learners import MLP, Adaptation, Conv4, Hypernetwork, adapt
from l2o.learners.black_box.weight_generator import WeightGenerator
from l2o.rules import SGD
from l2o.tasks.episodes import Examples
from l2o.tasks.gaussian_classes import GaussianClasses
from l2o.types import seeded
from tests.l2o.learners.black_box.training import accuracy_after

X, Y = torch.randn(6, 4, generator=seeded(0)), torch.tensor([0, 1, 2, 2, 1, 0])
SUPPORT, QUERY = Examples(X, Y), torch.randn(5, 4, generator=seeded(1))
CHUNKS = pytest.mark.parametrize("chunk", [None, 50])


@pytest.fixture(autouse=True)
def _seed() -> object:
    with torch.random.fork_rng():
        torch.manual_seed(0)
        yield


class Tanh(nn.Module):
    """A target with another nonlinearity than relu, and with normalisation."""

    def __init__(self) -> None:
        super().__init__()
        self.layers = nn.ModuleList([nn.Linear(16, 40), nn.Linear(40, 40), nn.Linear(40, 5)])
        self.norm = nn.LayerNorm(40)

    def forward(self, x: Tensor) -> Tensor:
        return self.layers[2](torch.tanh(self.layers[1](self.norm(torch.tanh(self.layers[0](x))))))


def he(network: nn.Module) -> nn.Module:
    for m in network.modules():
        if isinstance(m, nn.Linear):
            nn.init.kaiming_normal_(m.weight)
            nn.init.zeros_(m.bias)
    return network


TARGETS = {"torch's own": lambda: MLP([16, 40, 40, 40, 5]), "he": lambda: he(MLP([16, 40, 40, 40, 5])), "tanh": Tanh}


def activations(network: nn.Module, params: dict[str, Tensor], x: Tensor) -> Tensor:
    """The mean square of each linear layer's outputs."""
    seen: list[Tensor] = []
    hooks = [
        m.register_forward_hook(lambda _m, _x, out: seen.append(out.detach().square().mean()))
        for m in network.modules()
        if isinstance(m, nn.Linear)
    ]
    functional_call(network, params, (x,))
    for hook in hooks:
        hook.remove()
    return torch.stack(seen)


@CHUNKS
@pytest.mark.parametrize("target", TARGETS)
def test_generated_networks_have_the_activations_of_directly_initialised_ones(target: str, chunk: int | None) -> None:
    make, x = TARGETS[target], torch.randn(200, 16, generator=seeded(1))
    network, ours, direct = make(), [], []
    for _ in range(100):
        generator = WeightGenerator(network, num_code=24, hidden=(50, 50), chunk=chunk)
        ours.append(activations(network, generator(torch.randn(24)), x))
        fresh = make()
        direct.append(activations(fresh, dict(fresh.named_parameters()), x))
    got, expected = (torch.stack(of).mean(0) for of in (ours, direct))
    assert len(expected) >= 3
    torch.testing.assert_close(got, expected, rtol=0.3, atol=0.0)


@CHUNKS
def test_a_generator_is_fresh_whatever_the_size_of_the_code(chunk: int | None) -> None:
    generator = WeightGenerator(MLP([16, 40, 40, 5]), 24, (50,), chunk)
    weight = generator(torch.randn(64, 24))["hidden.1.weight"]
    large = generator(100 * torch.randn(64, 24))["hidden.1.weight"]
    expected = 1 / (3 * 40)  # the variance of torch's linear layers
    for got in (weight, large):
        assert float(got.detach().square().mean()) == pytest.approx(expected, rel=0.3)


@CHUNKS
def test_what_starts_as_a_constant_is_generated_so_and_can_be_learned(chunk: int | None) -> None:
    generator = WeightGenerator(Tanh(), 24, (20,), chunk)
    made = generator(torch.randn(3, 24))
    assert torch.equal(made["norm.weight"], torch.ones(3, 40)) and torch.equal(made["norm.bias"], torch.zeros(3, 40))
    made["norm.weight"].sum().backward()
    assert generator.scale.grad is not None and generator.scale.grad.abs().max() > 0
    with torch.no_grad():
        generator.scale -= 0.1
    assert generator(torch.randn(24))["norm.weight"].std() > 0.01


@CHUNKS
def test_codes_are_generated_from_one_by_one(chunk: int | None) -> None:
    network = Tanh()
    generator, codes = WeightGenerator(network, 24, (20,), chunk), torch.randn(2, 3, 24)
    made, again = generator(codes), generator(codes[1, 2])
    for name, p in network.named_parameters():
        assert made[name].shape == (2, 3, *p.shape)
        torch.testing.assert_close(made[name][1, 2], again[name])


def test_chunks_are_pieces_of_the_row_of_all_weights() -> None:
    network = MLP([3, 4, 2])
    generator = WeightGenerator(network, 5, (30,), chunk=7)
    assert generator.chunks is not None and generator.chunks.shape == (4, 16)  # 26 weights
    code = torch.randn(5)
    e = torch.relu(generator.first(torch.cat([code.expand(4, -1), generator.chunks], dim=1)))
    e = e / e.square().mean(1, keepdim=True).sqrt()
    row = generator.head(e).flatten()[:26] * generator.signs
    expected = torch.cat([s * p for s, p in zip(generator.scale, row.split([12, 4, 8, 2]), strict=True)])
    torch.testing.assert_close(torch.cat([p.flatten() for p in generator(code).values()]), expected)


@pytest.mark.parametrize("embedded", [False, True])
@CHUNKS
def test_the_order_of_the_support_set_is_of_no_meaning(chunk: int | None, embedded: bool) -> None:
    learner, order = (
        Hypernetwork(MLP([4, 4, 3]), MLP([4, 6, 4]), 3, embedded, chunk=chunk),
        torch.tensor([3, 1, 5, 0, 2, 4]),
    )
    a, b = learner.start(SUPPORT), learner.start(Examples(X[order], Y[order]))
    for name in a:
        torch.testing.assert_close(a[name], b[name], rtol=1e-4, atol=1e-5)
    renamed = learner.start(Examples(X, (Y + 1) % 3))
    assert (renamed["head.weight"] - a["head.weight"]).abs().max() > 1e-3


def test_only_the_generator_and_the_encoder_are_slow_weights() -> None:
    learner = Hypernetwork(MLP([4, 4, 3]), MLP([4, 6, 4]), 3)
    assert {name.split(".")[0] for name, _ in learner.named_parameters()} == {"encoder", "set_encoder", "generator"}
    fast = adapt(learner, SGD(0.1), SUPPORT, 5)
    assert learner.inner_loss(fast, SUPPORT) < learner.inner_loss(learner.start(SUPPORT), SUPPORT)


def test_images_targets_and_classes_that_are_missing() -> None:
    images = Conv4(width=4, size=8, depth=2)
    learner = Hypernetwork(MLP([16, 8, 3]), images, 3, embedded=True, size=5)
    x = torch.randn(4, 1, 8, 8)
    fast = learner.start(Examples(x, torch.tensor([0, 1, 0, 1])))
    assert all(value.isfinite().all() for value in fast.values())
    assert learner.predict(fast, x).shape == (4, 3)
    regression = Hypernetwork(MLP([4, 6, 2]), MLP([4, 5]), 2)
    fast = regression.start(Examples(X, torch.zeros(6, 2)))
    assert all(value.isfinite().all() for value in fast.values())
    assert regression.predict(fast, QUERY).shape == (5, 2)


def test_what_makes_no_sense_is_told() -> None:
    with pytest.raises(ValueError, match="must have parameters only"):
        Hypernetwork(Conv4(3, norm="running"), Conv4(), 3)
    with pytest.raises(ValueError, match="must have parameters to generate"):
        WeightGenerator(nn.Identity(), 3)
    with pytest.raises(ValueError, match="hidden must have a layer and chunk"):
        WeightGenerator(MLP([4, 3]), 3, chunk=0)


@CHUNKS
def test_learning_to_tell_three_classes_apart(chunk: int | None) -> None:
    family = GaussianClasses(dim=4, spread=0.2, way=3, shot=1, query=5)
    before, after = accuracy_after(
        lambda: Hypernetwork(MLP([4, 16, 3]), MLP([4, 16]), 3, size=16, hidden=(32,), chunk=chunk), family, steps=100
    )
    assert before < 0.5 and after > 0.75


def test_adaptations_of_it_say_what_they_take() -> None:
    assert Adaptation(Hypernetwork(MLP([4, 3]), MLP([4, 5]), 3)).learner.vmaps
