import math

import pytest
import torch
import torch.nn.functional as F
from torch import nn

from l2o import tasks
from l2o.tasks import data
from l2o.tasks.nets import init_mlp, layer_norm
from l2o.tasks.rnn import advance
from l2o.types import seeded


def train(task, steps: int, lr: float):
    params = {name: p.requires_grad_() for name, p in task.init(seeded(0)).items()}
    optimizer, generator = torch.optim.Adam(list(params.values()), lr), seeded(1)
    for _ in range(steps):
        optimizer.zero_grad()
        task.loss(params, task.sample_batch(generator)).backward()
        optimizer.step()
    return {name: p.detach() for name, p in params.items()}


def test_a_perceptron_learns_digits_it_has_not_seen():
    task = tasks.MLPFamily(hidden=(32,)).sample(seeded(0))
    params = train(task, 150, 1e-2)
    assert task.accuracy(params, task.data.validation.select(torch.arange(len(task.data.validation.y)))) > 0.9


def test_logistic_regression_learns_tumours():
    task = tasks.MLPClassification(data.breast_cancer(), batch_size=64, hidden=())
    assert list(task.init(seeded(0))) == ["0.weight", "0.bias"]
    assert task.accuracy(train(task, 60, 3e-2), task.sample_validation_batch(seeded(3))) > 0.9


def test_a_convolution_learns_digits():
    task = tasks.ConvFamily(channels=(8,)).sample(seeded(0))
    assert task.accuracy(train(task, 150, 2e-2), task.sample_validation_batch(seeded(3))) > 0.6


def test_training_batches_never_hold_validation_examples():
    task = tasks.MLPFamily(sources=(data.wine(),)).sample(seeded(0))
    seen = {tuple(row) for row in task.sample_batches(seeded(0), 20)[0].flatten(0, 1).tolist()}
    held_out = {tuple(row) for row in task.sample_validation_batch(seeded(0))[0].tolist()}
    assert not seen & held_out


def test_a_perceptron_is_the_one_of_torch():
    task = tasks.MLPClassification(data.digits(), 5, hidden=(7, 6), activation="gelu")
    params = task.init(seeded(0))
    names = ["0.weight", "0.bias", "2.weight", "2.bias", "4.weight", "4.bias"]
    net = nn.Sequential(nn.Linear(64, 7), nn.GELU(), nn.Linear(7, 6), nn.GELU(), nn.Linear(6, 10))
    net.load_state_dict(dict(zip(names, params.values(), strict=True)))
    x, y = task.sample_batch(seeded(1))
    torch.testing.assert_close(task.loss(params, (x, y)), F.cross_entropy(net(x.flatten(1)), y))


def test_relu_layers_keep_the_size_of_what_passes_through():
    x = torch.randn(500, 100, generator=seeded(1))
    params = init_mlp(seeded(0), (100,) * 6, gain=math.sqrt(2))
    for i in range(5):
        x = torch.relu(F.linear(x, params[f"{i}.weight"], params[f"{i}.bias"]))
    assert 0.5 < x.square().mean() * 2 < 2


@pytest.mark.parametrize("cell, module", [("elman", nn.RNNCell), ("gru", nn.GRUCell), ("lstm", nn.LSTMCell)])
def test_a_cell_is_the_one_of_torch(cell, module):
    theirs = module(3, 4, bias=False)
    x, h, c = (torch.randn(2, n, generator=seeded(n)) for n in (3, 4, 5))
    inputs, weight = F.linear(x, theirs.weight_ih), theirs.weight_hh
    if cell == "gru":  # torch counts the reset gate first and the update gate second
        inputs, weight = (torch.cat([t[1], t[0], t[2]], dim=d) for t, d in _thirds(inputs, weight))
    ours = advance(cell, inputs, weight, (h, c[:, :4]))
    expected = theirs(x, (h, c[:, :4])) if cell == "lstm" else theirs(x, h)
    for mine, other in zip(ours, expected if cell == "lstm" else (expected,), strict=False):
        torch.testing.assert_close(mine, other)


def _thirds(inputs, weight):
    return (inputs.chunk(3, dim=1), 1), (weight.chunk(3, dim=0), 0)


def test_layer_norm_is_the_one_of_torch():
    x, w, b = (torch.randn(*shape, generator=seeded(1)) for shape in ((2, 3, 5), (5,), (5,)))
    torch.testing.assert_close(layer_norm(x, w, b), F.layer_norm(x, (5,), w, b))


def test_attention_is_the_one_of_torch():
    task = tasks.TransformerLanguageModel(data.shakespeare(), batch_size=2, length=6, width=8, heads=2)
    params, x = task.init(seeded(0)), torch.randn(2, 6, 8, generator=seeded(1))
    q, k, v = F.linear(x, params["0.qkv.weight"]).view(2, 6, 3, 2, 4).permute(2, 0, 3, 1, 4)
    attended = F.scaled_dot_product_attention(q, k, v, is_causal=True).transpose(1, 2).reshape(2, 6, 8)
    torch.testing.assert_close(task._attend(params, "0.", x), F.linear(attended, params["0.out.weight"]))


@pytest.mark.parametrize(
    "family",
    [tasks.TransformerFamily(length=(8,)), *(tasks.RecurrentFamily(cell=(c,)) for c in ("elman", "gru", "lstm"))],
)
def test_a_language_model_does_not_see_the_future(family):
    task = family.sample(seeded(0))
    params, x = task.init(seeded(1)), task.sample_batch(seeded(2))[0]
    changed = x.clone()
    changed[:, 5:] = (changed[:, 5:] + 1) % task.data.num_classes
    before, after = task.logits(params, x), task.logits(params, changed)
    torch.testing.assert_close(before[:, :5], after[:, :5])
    assert not torch.allclose(before[:, 5:], after[:, 5:])


@pytest.mark.parametrize("family", [tasks.TransformerFamily(), tasks.RecurrentFamily(cell=("gru",))])
def test_a_language_model_learns_more_than_letter_frequencies(family):
    task = family.sample(seeded(0))
    frequencies = task.data.train.bincount() / len(task.data.train)
    entropy = -(frequencies * frequencies.clamp_min(1e-9).log()).sum()
    params = task.init(seeded(0))
    assert task.loss(params, task.sample_batch(seeded(1))) < 1.2 * math.log(task.data.num_classes)
    assert task.loss(train(task, 250, 1e-2), task.sample_validation_batch(seeded(2))) < 0.9 * entropy


def test_heads_must_divide_the_width_and_convolutions_need_images():
    with pytest.raises(ValueError, match="heads must divide the width; got 3"):
        tasks.TransformerLanguageModel(data.shakespeare(), 2, 4, width=8, heads=3)
    with pytest.raises(ValueError, match=r"convolutions need images .* iris"):
        tasks.ConvFamily(sources=(data.iris(),))
    with pytest.raises(ValueError, match=r"MLPFamily.hidden must offer at least one option"):
        tasks.MLPFamily(hidden=()).sample(seeded(0))
