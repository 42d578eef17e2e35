from collections.abc import Iterator

import pytest
import torch
import torch.nn.functional as F
from torch.func import functional_call, grad, vmap

from l2o.learners import MAML, MLP, Adaptation, Conv4, PrototypicalNetwork, meta_grad
from l2o.learners.batch_norm import BatchNorm, batch_norm, calibrate
from l2o.rules import SGD
from l2o.tasks.episodes import Episode, Examples
from l2o.types import seeded, tree_map


@pytest.fixture(autouse=True)
def seed() -> Iterator[None]:
    """Networks are the same in every run, whatever runs before."""
    with torch.random.fork_rng():
        torch.manual_seed(0)
        yield


def episodes(channels: int = 1, dtype: torch.dtype = torch.float64) -> Episode:
    x = torch.rand(2, 12, channels, 8, 8, generator=seeded(0)).to(dtype)
    y = torch.arange(3).repeat(2).expand(2, -1)
    return Episode(Examples(x[:, :6], y), Examples(x[:, 6:], y))


@pytest.mark.parametrize("strided", [False, True])
@pytest.mark.parametrize("channels", [1, 2])
def test_second_order_through_convolution_and_normalisation_is_right_wherever_the_gradient_is_taken(
    strided: bool, channels: int
) -> None:
    network = Conv4(3, width=4, channels=channels, size=8, depth=2, strided=strided)
    adaptation = Adaptation(MAML(network), SGD(0.4), 2).double()
    theta = {name: p.detach() for name, p in adaptation.named_parameters()}
    loop = meta_grad(adaptation, episodes(channels), batching="loop").grads
    inside = meta_grad(adaptation, episodes(channels), batching="vmap").grads

    def mean_loss(theta: dict[str, torch.Tensor]) -> torch.Tensor:
        return vmap(lambda episode: functional_call(adaptation, theta, (episode,)).loss)(episodes(channels)).mean()

    outside = grad(mean_loss)(theta)  # where torch's own batch norm loses terms
    for name, expected in loop.items():
        torch.testing.assert_close(inside[name], expected, rtol=1e-9, atol=1e-11)
        torch.testing.assert_close(outside[name], expected, rtol=1e-9, atol=1e-11)


def test_it_is_torchs_batch_norm() -> None:
    x = torch.randn(5, 3, 4, 4, generator=seeded(0))
    layer, theirs = BatchNorm(3), torch.nn.BatchNorm2d(3, track_running_stats=False)
    torch.testing.assert_close(layer(x), theirs(x))
    torch.testing.assert_close(
        vmap(batch_norm, in_dims=(0, None, None))(x[None], layer.weight, layer.bias)[0], theirs(x)
    )


@pytest.mark.parametrize("shape", [(5, 3), (4, 3, 2), (4, 3, 2, 2)])
def test_within_transforms_all_derivatives_are_those_of_torchs_own(shape: tuple[int, ...]) -> None:
    x, weight, bias = (torch.randn(s, generator=seeded(i)).double() for i, s in enumerate((shape, (3,), (3,))))
    sides = [torch.randn(shape, generator=seeded(9 + i)).double() for i in range(2)]

    def first(x: torch.Tensor, weight: torch.Tensor, bias: torch.Tensor) -> tuple[torch.Tensor, ...]:
        return grad(lambda *a: (batch_norm(*a) * sides[0]).sum().sin(), argnums=(0, 1, 2))(x, weight, bias)

    within = grad(lambda *a: (first(*a)[0] * sides[1]).sum() + first(*a)[1].sum(), argnums=(0, 1, 2))(x, weight, bias)
    leaves = [value.clone().requires_grad_() for value in (x, weight, bias)]
    value = (F.batch_norm(leaves[0], None, None, *leaves[1:], training=True) * sides[0]).sum().sin()
    gradients = torch.autograd.grad(value, leaves, create_graph=True)
    for a, b in zip(first(x, weight, bias), gradients, strict=True):
        torch.testing.assert_close(a, b, rtol=1e-10, atol=1e-12)
    total = (gradients[0] * sides[1]).sum() + gradients[1].sum()
    for a, b in zip(within, torch.autograd.grad(total, leaves), strict=True):
        torch.testing.assert_close(a, b, rtol=1e-9, atol=1e-11)


def test_one_example_has_no_statistics_of_a_batch_under_no_transform_either() -> None:
    network = MLP([3, 4, 2], norm="batch")
    for x, run in ((torch.ones(1, 3), network), (torch.ones(2, 1, 3), vmap(network))):
        with pytest.raises(ValueError, match=r"need more than one value of each feature; got \(1, 4\)"):
            run(x)


def test_hidden_layers_of_a_perceptron_are_normalised_before_their_relu() -> None:
    network, x = MLP([3, 6, 4, 2], norm="batch"), torch.randn(7, 3, generator=seeded(2))
    z = x
    for layer in network.hidden:
        z = layer(z)
        z = torch.relu((z - z.mean(0)) / (z.var(0, correction=0) + 1e-5).sqrt())
    torch.testing.assert_close(network(x), network.head(z), rtol=1e-4, atol=1e-5)


def test_a_perceptron_without_normalisation_has_the_weights_of_its_layers_alone() -> None:
    assert set(MLP([3, 6, 2]).state_dict()) == {"hidden.0.weight", "hidden.0.bias", "head.weight", "head.bias"}


def test_running_statistics_judge_each_query_alone() -> None:
    network = Conv4(0, width=4, size=8, depth=2, norm="running")
    adaptation = Adaptation(PrototypicalNetwork(network, 3))
    given = tree_map(lambda x: x[0], episodes(dtype=torch.float32))
    assert calibrate(adaptation, lambda: adaptation(given)) == 2
    fast = adaptation.adapt(given.support)
    together = adaptation.learner.predict(fast, given.query.x)
    in_training = torch.cat([adaptation.learner.predict(fast, x[None]) for x in given.query.x])
    assert not torch.allclose(in_training, together)
    adaptation.eval()
    fast = adaptation.adapt(given.support)
    alone = torch.cat([adaptation.learner.predict(fast, x[None]) for x in given.query.x])
    torch.testing.assert_close(alone, adaptation.learner.predict(fast, given.query.x), rtol=1e-4, atol=1e-5)


def test_calibration_measures_the_mean_over_batches() -> None:
    layer = BatchNorm(2, "running")
    batches = [torch.randn(50, 2, generator=seeded(i)) * (i + 1) + i for i in range(3)]
    calibrate(layer, lambda: [layer(x) for x in batches])
    torch.testing.assert_close(layer.mean, torch.stack([x.mean(0) for x in batches]).mean(0))
    torch.testing.assert_close(layer.variance, torch.stack([x.var(0, correction=0) for x in batches]).mean(0))
    assert layer.seen is None
    assert calibrate(BatchNorm(2), lambda: None) == 0


def test_frozen_layers_are_measured_once() -> None:
    layer = BatchNorm(3, "running").requires_grad_(False)
    first, second = torch.randn(2, 5, 3, generator=seeded(0)).unbind()
    assert calibrate(layer, lambda: layer(first)) == 1
    assert calibrate(layer, lambda: layer(second)) == 0
    torch.testing.assert_close(layer.mean, first.mean(0))


def test_bfloat16_convolutions_give_float32_close_to_it() -> None:
    a = Conv4(3, width=8, size=8, depth=2)
    b = Conv4(3, width=8, size=8, depth=2, precision="bfloat16")
    b.load_state_dict(a.state_dict())
    x = torch.rand(6, 1, 8, 8, generator=seeded(0))
    assert b(x).dtype == torch.float32
    torch.testing.assert_close(b(x), a(x), rtol=0.1, atol=0.05)


def test_sources_and_precisions_are_checked() -> None:
    for wrong in (lambda: BatchNorm(2, "moving"), lambda: Conv4(norm="layer"), lambda: Conv4(precision="float16")):
        with pytest.raises((ValueError, TypeError)):
            wrong()(torch.zeros(1, 1, 28, 28))
