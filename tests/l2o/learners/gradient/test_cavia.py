import copy
from collections.abc import Iterator

import pytest
import torch
import torch.nn.functional as F

from l2o.learners import CAVIA, MLP, Adaptation, Conv4, FiLMConv4, FiLMMLP, WithContext, adapt, meta_grad
from l2o.rules import SGD
from l2o.tasks.episodes import Episode, Examples
from l2o.types import seeded, tree_map

SUPPORT = Examples(torch.randn(6, 3, generator=seeded(0)).double(), torch.randn(6, 1, generator=seeded(1)).double())
IMAGES = Examples(torch.rand(6, 1, 8, 8, generator=seeded(2)), torch.arange(3).repeat(2))
RATE, NUM = 0.5, 2


@pytest.fixture(autouse=True)
def seed() -> Iterator[None]:
    """Networks are the same in every run, whatever runs before."""
    with torch.random.fork_rng():
        torch.manual_seed(0)
        yield


@pytest.fixture
def learner() -> CAVIA:
    return CAVIA(WithContext(MLP([3 + NUM, 4, 1])), NUM).double()


def conv(**options: object) -> Conv4:
    return Conv4(3, width=4, size=8, depth=2, **options)


def test_the_context_starts_at_zero_where_the_network_is(learner: CAVIA) -> None:
    assert torch.equal(learner.start(SUPPORT)["context"], torch.zeros(NUM, dtype=torch.float64))
    other = CAVIA(WithContext(MLP([5, 1])), NUM).to("meta", torch.bfloat16)
    assert (other.start(SUPPORT)["context"].device.type, other.start(SUPPORT)["context"].dtype) == (
        "meta",
        torch.bfloat16,
    )
    with pytest.raises(ValueError, match="num_context must be positive"):
        CAVIA(MLP([3, 1]), 0)


def test_only_the_context_moves_and_the_network_is_trained(learner: CAVIA) -> None:
    fast = adapt(learner, SGD(RATE).double(), SUPPORT, 2)
    assert set(fast) == {"context"} and fast["context"].all()
    one = tree_map(lambda x: x.unsqueeze(0), Episode(SUPPORT, SUPPORT))
    grads = meta_grad(Adaptation(learner, SGD(RATE).double(), 2), one).grads
    assert all(grads[f"learner.{name}"].any() for name, _ in learner.named_parameters())


def test_a_step_of_the_context_is_one_of_the_first_biases_in_a_learned_direction(learner: CAVIA) -> None:
    """Further inputs c add U c to the first layer: a step -r U' g there is one of its biases of -r U U' g."""
    network = learner.network.network
    w, u = network.hidden[0].weight[:, :3], network.hidden[0].weight[:, 3:]
    bias = network.hidden[0].bias.detach().requires_grad_()

    def predict(bias: torch.Tensor, x: torch.Tensor) -> torch.Tensor:
        return network.head(torch.relu(F.linear(x, w, bias)))

    loss = (predict(bias, SUPPORT.x) - SUPPORT.y).square().mean()
    (grad,) = torch.autograd.grad(loss, bias)
    x = torch.randn(4, 3, dtype=torch.float64, generator=seeded(5))
    fast = adapt(learner, SGD(RATE).double(), SUPPORT, 1)
    torch.testing.assert_close(learner.predict(fast, x), predict(bias - RATE * u @ u.T @ grad, x))


def test_film_of_a_perceptron_scales_and_shifts_every_hidden_layer() -> None:
    """As other weights and biases of these layers would; without context it is the network."""
    network = MLP([3, 5, 4, 2]).double()
    film, x = FiLMMLP(network, NUM).double(), SUPPORT.x
    torch.testing.assert_close(film(x, torch.zeros(NUM).double()), network(x))
    context, expected = torch.tensor([0.7, -0.4]).double(), copy.deepcopy(network)
    with torch.no_grad():
        for layer, of in zip(expected.hidden, film.films, strict=True):
            scale, shift = of(context).chunk(2)
            layer.weight.mul_(1 + scale.unsqueeze(-1))
            layer.bias.mul_(1 + scale).add_(shift)
    torch.testing.assert_close(film(x, context), expected(x))
    assert not torch.allclose(film(x, context), network(x))
    with pytest.raises(ValueError, match="must have a hidden layer"):
        FiLMMLP(MLP([3, 2]))
    normalised = MLP([3, 5, 2], norm="batch").double()
    torch.testing.assert_close(FiLMMLP(normalised, NUM).double()(x, torch.zeros(NUM).double()), normalised(x))


@pytest.mark.parametrize("strided", [False, True])
def test_without_context_a_fresh_film_is_its_network(strided: bool) -> None:
    network = conv(strided=strided)
    film = FiLMConv4(network, num_context=NUM, block=1)
    torch.testing.assert_close(film(IMAGES.x, torch.zeros(NUM)), network(IMAGES.x))
    assert not torch.allclose(film(IMAGES.x, torch.ones(NUM)), network(IMAGES.x))


@pytest.mark.parametrize("block", [0, 1])
def test_film_scales_and_shifts_the_channels_of_one_block(block: int) -> None:
    """As the weights and biases of the normalisation before it would, which scale and shift the same numbers."""
    network = conv()
    film = FiLMConv4(network, num_context=NUM, block=block)
    context = torch.tensor([0.7, -0.4])
    scale, shift = film.film(context).detach().chunk(2)
    assert (1 + scale > 0).all()  # where scaling goes through pooling
    expected = copy.deepcopy(network)
    with torch.no_grad():
        expected.norms[block].weight.mul_(1 + scale)
        expected.norms[block].bias.mul_(1 + scale).add_(shift)
    torch.testing.assert_close(film(IMAGES.x, context), expected(IMAGES.x), rtol=1e-5, atol=1e-5)


def test_pooling_comes_before_the_scale_as_in_the_authors_code() -> None:
    """After a negative scale the largest of four would be the smallest."""
    network = Conv4(0, width=1, size=2, norm="none", depth=1)
    film = FiLMConv4(network, num_context=1, block=0)
    with torch.no_grad():
        network.convs[0].weight.copy_(F.pad(torch.ones(1, 1, 1, 1), (1, 1, 1, 1)))  # hands on what it sees
        network.convs[0].bias.zero_()
        film.film.weight.copy_(torch.tensor([[-3.0], [10.0]]))
    image = torch.tensor([[[[1.0, 2.0], [3.0, 4.0]]]])
    torch.testing.assert_close(film(image, torch.ones(1)), torch.tensor([[(1.0 - 3.0) * 4.0 + 10.0]]))


def test_the_block_must_be_one_of_the_networks() -> None:
    for block in (-1, 2):
        with pytest.raises(ValueError, match="block must be one of the network's 2"):
            FiLMConv4(conv(), NUM, block)
