import pytest
import torch
from torch import Tensor

from l2o.learners import MLP, Adaptation, RelationEncoder, RelationNetwork, meta_grad
from l2o.learners.batch_norm import calibrate
from l2o.learners.metric.relation import RelationModule, VectorRelation
from l2o.rules import SGD
from l2o.tasks.episodes import Episode, Examples
from l2o.types import seeded

Y = torch.tensor([0, 1, 2, 2, 1, 0])
IMAGES = torch.rand(6, 1, 28, 28, generator=seeded(2))
SUPPORT = Examples(IMAGES, Y)


@pytest.fixture(autouse=True)
def _seed() -> object:
    with torch.random.fork_rng():
        torch.manual_seed(0)
        yield


def make(norm: str = "none", precision: str = "float32") -> RelationNetwork:
    learner = RelationNetwork(RelationEncoder(4, norm=norm, precision=precision), 3, 4, norm=norm, precision=precision)
    torch.nn.init.normal_(learner.relation.full1.weight, std=0.3)
    torch.nn.init.normal_(learner.relation.full2.weight, std=0.3)
    return learner


def naive(module: RelationModule, maps: Tensor, queries: Tensor) -> Tensor:
    """All pairs, as the paper has it."""
    pairs = torch.cat([torch.stack([torch.cat([c, q]) for c in maps]) for q in queries])
    z = module.norm1(torch.conv2d(pairs, module.conv1.weight, module.conv1.bias, padding=1))
    z = torch.max_pool2d(torch.relu(z), 2)
    z = module.norm2(torch.conv2d(z, module.conv2.weight, module.conv2.bias, padding=1))
    z = torch.max_pool2d(torch.relu(z), 2)
    return torch.sigmoid(module.full2(torch.relu(module.full1(z.flatten(1))))).view(len(queries), len(maps))


@pytest.mark.parametrize("norm", ["none", "batch", "running"])
def test_relation_goes_over_pairs_without_making_them(norm: str) -> None:
    learner = make(norm)
    fast = learner.start(SUPPORT)
    found = learner.predict(fast, IMAGES[:4])
    expected = naive(learner.relation, fast["maps"], learner.encoder(IMAGES[:4]))
    torch.testing.assert_close(found, expected, rtol=1e-4, atol=1e-6)
    assert expected.std() > 1e-3
    weights = list(learner.relation.parameters())
    ours, theirs = (torch.autograd.grad(x.square().sum(), weights, retain_graph=True) for x in (found, expected))
    for a, b in zip(ours, theirs, strict=True):
        torch.testing.assert_close(a, b, rtol=1e-3, atol=1e-5)


def test_relations_of_vectors_are_those_of_pairs() -> None:
    learner = RelationNetwork(MLP([6, 8, 4]), 3, num_features=4)
    x = 9 * torch.randn(6, 6, generator=seeded(3))
    fast, queries = learner.start(Examples(x, Y)), learner.encoder(x[:5])
    z = learner.encoder(x)
    torch.testing.assert_close(fast["maps"], torch.stack([z[0] + z[5], z[1] + z[4], z[2] + z[3]]))
    pairs = torch.stack([torch.stack([torch.cat([c, q]) for c in fast["maps"]]) for q in queries])
    assert isinstance(learner.relation, VectorRelation)
    expected = torch.sigmoid(learner.relation.full2(torch.relu(learner.relation.full1(pairs)))).squeeze(-1)
    torch.testing.assert_close(learner.predict(fast, x[:5]), expected)
    assert expected.std() > 1e-3


def test_a_class_is_the_sum_of_its_examples_maps_in_any_order() -> None:
    learner, order = make(), torch.tensor([3, 1, 5, 0, 2, 4])
    maps, fast = learner.encoder(IMAGES), learner.start(SUPPORT)
    assert maps.shape == (6, 4, 5, 5)
    torch.testing.assert_close(fast["maps"], torch.stack([maps[0] + maps[5], maps[1] + maps[4], maps[2] + maps[3]]))
    torch.testing.assert_close(learner.start(Examples(IMAGES[order], Y[order]))["maps"], fast["maps"])


def test_the_encoder_is_the_authors() -> None:
    encoder = RelationEncoder(norm="running")
    z = IMAGES
    for i, (conv, norm) in enumerate(zip(encoder.convs, encoder.norms, strict=True)):
        z = torch.relu(norm(torch.conv2d(z, conv.weight, conv.bias, padding=0 if i < 2 else 1)))
        z = torch.max_pool2d(z, 2) if i < 2 else z
        assert z.shape[-1] == (13, 5, 5, 5)[i]
        assert conv.weight.std().item() == pytest.approx((2 / (9 * 64)) ** 0.5, rel=0.1)
    torch.testing.assert_close(encoder(IMAGES), z, rtol=1e-4, atol=1e-5)


def test_the_loss_is_the_squared_error_of_relations_between_zero_and_one() -> None:
    learner = make()
    fast = learner.start(SUPPORT)
    relations = learner.predict(fast, IMAGES)
    assert (relations > 0).all() and (relations < 1).all()
    expected = (relations - torch.eye(3)[Y]).square().mean()
    torch.testing.assert_close(learner.query_loss(fast, SUPPORT), expected)
    torch.testing.assert_close(learner.inner_loss(fast, SUPPORT), expected)


@pytest.mark.parametrize("norm", ["none", "batch"])
def test_images_in_a_loop_and_side_by_side_have_one_gradient(norm: str) -> None:
    """With second derivatives of convolutions, whose weights have channels last."""
    images = torch.rand(2, 6, 1, 22, 22, generator=seeded(3)).double()
    examples = Examples(images, Y.expand(2, 6))
    encoder = RelationEncoder(2, norm=norm)
    learner = RelationNetwork(encoder, 3, 2, 2, size=4, norm=norm)
    adaptation = Adaptation(learner, SGD(0.1), 1).double()
    for p in adaptation.parameters():
        p.data += 0.1 * torch.randn_like(p)
    loop, side = (meta_grad(adaptation, Episode(examples, examples), batching=b) for b in ("loop", "vmap"))
    for name, grad in loop.grads.items():
        torch.testing.assert_close(side.grads[name], grad, rtol=1e-9, atol=1e-11)
    assert loop.grads["learner.encoder.convs.0.weight"].abs().max() > 1e-9


def test_bfloat16_is_near_and_comes_out_as_float32() -> None:
    exact, rough = make(), make(precision="bfloat16")
    rough.load_state_dict(exact.state_dict())
    a, b = (learner.predict(learner.start(SUPPORT), IMAGES) for learner in (exact, rough))
    assert b.dtype == rough.start(SUPPORT)["maps"].dtype == torch.float32
    torch.testing.assert_close(a, b, rtol=0.05, atol=0.02)
    assert not torch.equal(a, b)


def test_with_running_statistics_each_query_is_judged_alone() -> None:
    learner = make("running")
    layers = calibrate(learner, lambda: learner.predict(learner.start(SUPPORT), IMAGES))
    assert layers == 6
    learner.eval()
    fast = learner.start(SUPPORT)
    together = learner.predict(fast, IMAGES)
    alone = torch.cat([learner.predict(fast, image.unsqueeze(0)) for image in IMAGES])
    torch.testing.assert_close(together, alone, rtol=1e-4, atol=1e-6)


def test_errors_say_what_is_wrong() -> None:
    with pytest.raises(ValueError, match="size must be at least 4"):
        RelationNetwork(RelationEncoder(4), width=4, size=3)
    with pytest.raises(ValueError, match="at least 22 pixels"):
        make().start(Examples(torch.rand(6, 1, 20, 20), Y))
