import torch
from torch import nn
from torch.func import grad, vmap

from l2o.recording import VIEWS, drop_needless_views, make_fx, traced
from l2o.types import seeded


def recorded(fn, *arguments):
    """Before and after needless views are dropped."""
    before, after = make_fx(fn)(*arguments), make_fx(fn)(*arguments)
    drop_needless_views(after)
    return before, after


def num_views(graph):
    return sum(node.target in VIEWS for node in graph.graph.nodes)


def normal(*shape):
    return torch.randn(*shape, generator=seeded(0))


def test_a_gradient_of_many_networks_has_fewer_views_and_the_same_numbers():
    weights, x = {"a": normal(5, 3, 4), "b": normal(5, 4, 2)}, normal(5, 7, 3)

    def loss(w, x):
        return vmap(lambda w, x: torch.tanh(x @ w["a"]) @ w["b"])(w, x).square().mean()

    before, after = recorded(grad(loss), weights, x)
    assert num_views(after) < 0.7 * num_views(before)
    for name, found in after(weights, x).items():
        assert torch.equal(found, before(weights, x)[name])


def test_views_that_say_nothing_are_gone_and_the_others_stay():
    x = normal(3, 4)
    cases = {
        0: [lambda x: x.t().t(), lambda x: x.view(3, 4), lambda x: x.expand(3, 4), lambda x: x.mT.mT],
        1: [lambda x: x.t(), lambda x: x.view(4, 3), lambda x: x.unsqueeze(0), lambda x: x.t() + x.t()],
        2: [lambda x: x.view(2, 6).t(), lambda x: x.unsqueeze(0).unsqueeze(0), lambda x: x.t().unsqueeze(0)],
    }
    for left, functions in cases.items():
        for fn in functions:
            before, after = recorded(fn, x)
            assert num_views(after) == left
            assert torch.equal(after(x), before(x)) and torch.equal(after(x), fn(x))


def test_what_is_written_through_a_view_is_seen():
    def fn(x):
        x = x.clone()
        first = x.view(3, 4).t()
        x.add_(1.0)
        second = x.t()
        second.mul_(2.0)
        return x, first, x.t().t()

    x = normal(3, 4)
    _, after = recorded(fn, x)
    for found, wanted in zip(after(x), fn(x), strict=True):
        assert torch.equal(found, wanted)


def test_a_view_that_other_strides_change_stays():
    x = normal(4, 3).t()
    _, after = recorded(lambda x: x.contiguous().view(3, 4), x)
    assert after(x).is_contiguous() and torch.equal(after(x), x)


def test_a_traced_function_is_recorded_once_for_each_kind_of_arguments():
    calls = []

    def fn(x):
        calls.append(x.shape)
        return x.t().t() * 2.0

    played = traced(fn, nn.Identity())
    for shape in ((2, 3), (2, 3), (4, 3)):
        x = normal(*shape)
        assert torch.equal(played(x), 2.0 * x)
    assert calls == [(2, 3), (4, 3)]
