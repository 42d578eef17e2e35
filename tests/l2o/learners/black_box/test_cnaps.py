import pytest
import torch
import torch.nn.functional as F
from torch import nn

import l2o
from l2o.learners import MLP, Adaptation, CNAPs, Conv4, PrototypicalNetwork, adapt, meta_grad
from l2o.learners.batch_norm import calibrate
from l2o.learners.black_box.cnaps import modulated
from l2o.rules import SGD
from l2o.tasks.data import digits
from l2o.tasks.data.labelled import LabelledDataset
from l2o.tasks.episodes import Examples, FewShot
from l2o.tasks.gaussian_classes import GaussianClasses
from l2o.training.judge import judge, measure
from l2o.types import seeded
from tests.l2o.learners.black_box.training import accuracy_after

X, Y = torch.randn(6, 1, 8, 8, generator=seeded(0)), torch.tensor([0, 1, 2, 2, 1, 0])
SUPPORT, QUERY = Examples(X, Y), torch.randn(5, 1, 8, 8, generator=seeded(1))


@pytest.fixture(autouse=True)
def _seed() -> object:
    with torch.random.fork_rng():
        torch.manual_seed(0)
        yield


def backbone(norm: str = "batch") -> Conv4:
    return Conv4(width=8, size=8, depth=2, norm=norm)


def few_shot() -> FewShot:
    data = digits()
    whole = LabelledDataset("digits", data.train.x, data.train.y)
    return FewShot(whole, way=3, shot=1, query=3)


@pytest.mark.parametrize("network", [backbone(), backbone("none"), MLP([64, 9, 8])])
def test_modulation_starts_at_identity(network: nn.Module) -> None:
    x = QUERY.flatten(1) if isinstance(network, MLP) else QUERY
    learner = CNAPs(network, nn.Sequential(nn.Flatten(), nn.Linear(64, 7)), num_code=7)
    fast = learner.start(Examples(x[:3], Y[:3]))
    torch.testing.assert_close(learner.embed(fast, x), network(x))


def test_modulation_scales_and_shifts_the_layers_outputs() -> None:
    learner = CNAPs(backbone(), nn.Sequential(nn.Flatten(), nn.Linear(64, 7)), num_code=7)
    assert learner.layers == ["norms.0", "norms.1"] and learner.channels == [8, 8]
    scale, shift = torch.randn(2, 16).unbind()
    z, network = X, learner.network
    for i, (conv, norm) in enumerate(zip(network.convs, network.norms, strict=True)):
        part = slice(8 * i, 8 * i + 8)
        z = norm(conv(z)) * scale[part].view(-1, 1, 1) + shift[part].view(-1, 1, 1)
        z = torch.relu(F.max_pool2d(z, 2))
    torch.testing.assert_close(learner.embed({"scale": scale, "shift": shift}, X), z.flatten(1), rtol=1e-4, atol=1e-5)


def test_the_layers_to_modulate_can_be_named() -> None:
    assert modulated(MLP([4, 5, 6])) == ["hidden.0", "head"]
    assert CNAPs(MLP([4, 5, 6]), MLP([4, 3]), layers=["hidden.0"]).channels == [5]
    for wrong in ("hidden", "hidden.1"):
        with pytest.raises(ValueError, match="layers must be names of the backbone's layers"):
            CNAPs(MLP([4, 5, 6]), MLP([4, 3]), layers=[wrong])
    with pytest.raises(ValueError, match="the backbone must have layers with weight and bias"):
        modulated(nn.Linear(4, 5, bias=False))


def test_a_trained_backbone_is_used_as_it_is_and_never_changes(tmp_path: object) -> None:
    family, trained = few_shot(), backbone("running")
    prototypes = Adaptation(PrototypicalNetwork(trained, 3))
    optimizer = torch.optim.Adam(prototypes.parameters(), lr=3e-3)
    for i in range(30):
        found = meta_grad(prototypes, family.sample_many(seeded(i), 4))
        for name, p in prototypes.named_parameters():
            p.grad = found.grads[name]
        optimizer.step()
    measure(prototypes, family)
    trained.eval()
    expected, kept = trained(QUERY), {name: value.clone() for name, value in trained.state_dict().items()}

    made = Adaptation(CNAPs(trained, Conv4(width=4, size=8, depth=2), 3))
    assert not any(name.startswith("learner.network") for name, p in made.named_parameters() if p.requires_grad)
    made.train()
    fast = made.learner.start(family.sample(seeded(1)).support)
    torch.testing.assert_close(made.learner.embed(fast, QUERY), expected)
    before = judge(made, family, 60, seed=5).score(0)[0]
    theta = {name: p for name, p in made.named_parameters() if p.requires_grad}
    optimizer = torch.optim.Adam(theta.values(), lr=3e-3)
    for i in range(40):
        found = meta_grad(made, family.sample_many(seeded(100 + i), 4))
        for name, p in theta.items():
            p.grad = found.grads[name]
        optimizer.step()
    assert measure(made, family) == 0  # its statistics are those of its own training
    assert judge(made, family, 60, seed=5).score(0)[0] > max(before, 0.7)
    assert all(torch.equal(value, kept[name]) for name, value in made.learner.network.state_dict().items())
    l2o.save(made, f"{tmp_path}/cnaps.safetensors")
    again, episode = l2o.load(f"{tmp_path}/cnaps.safetensors"), family.sample(seeded(9))
    assert torch.equal(again(episode).loss, made(episode).loss)
    assert {n for n, p in again.named_parameters() if p.requires_grad} == set(theta)


def test_a_backbone_can_be_trained_along() -> None:
    learner = CNAPs(backbone("running"), Conv4(width=4, size=8, depth=2), 3, frozen=False)
    assert all(p.requires_grad for p in learner.parameters()) and learner.network.training
    assert calibrate(learner, lambda: learner.start(SUPPORT)) == 2


def test_any_number_of_classes_and_of_examples() -> None:
    learner = CNAPs(backbone("none"), Conv4(width=4, size=8, depth=2, norm="none"))
    two = Examples(X[:5], torch.tensor([0, 1, 1, 0, 0]))
    assert learner.predict(learner.start(two), QUERY).shape == (5, 2)
    assert learner.predict(learner.start(SUPPORT), QUERY).shape == (5, 3)
    order = torch.tensor([3, 1, 5, 0, 2, 4])
    a, b = learner.start(SUPPORT), learner.start(Examples(X[order], Y[order]))
    for name in a:
        torch.testing.assert_close(a[name], b[name], rtol=1e-4, atol=1e-5)


def test_steps_refine_classifier_and_modulation() -> None:
    learner = CNAPs(backbone("none"), Conv4(width=4, size=8, depth=2, norm="none"), 3)
    start, fast = learner.start(SUPPORT), adapt(learner, SGD(0.1), SUPPORT, 5)
    assert learner.inner_loss(fast, SUPPORT) < learner.inner_loss(start, SUPPORT)
    assert all((fast[name] - start[name]).abs().max() > 0 for name in ("scale", "shift", "weights", "bias"))


def test_learning_to_tell_three_classes_apart() -> None:
    family = GaussianClasses(dim=4, spread=0.2, way=3, shot=1, query=5)
    before, after = accuracy_after(lambda: CNAPs(MLP([4, 16]), MLP([4, 16]), 3), family, steps=60)
    assert after > max(before, 0.8)
