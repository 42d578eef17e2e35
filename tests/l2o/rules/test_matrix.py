from collections.abc import Callable
from functools import partial

import pytest
import torch

from l2o.rules import AdamW, MatrixRule
from l2o.rules.alike import stacked
from l2o.rules.features import init_averages, split_rates, stack_features, update_averages
from l2o.rules.reference import ADAM_FEATURE
from l2o.types import Params, seeded


def first_update(rule: MatrixRule, params: Params, grads: Params) -> Params:
    with torch.no_grad():
        return rule(grads, rule.init(params), params)[0]


def draw(*shape: int, seed: int = 0) -> torch.Tensor:
    return torch.randn(shape, generator=seeded(seed))


def test_it_has_30_features_and_329_numbers_at_the_published_size() -> None:
    rule = MatrixRule(residual=False)
    assert rule.net.weights[0].shape == (8, 30)
    assert sum(p.numel() for p in rule.parameters()) == 30 * 8 + 8 + 8 * 8 + 8 + 8 + 1 == 329


@pytest.mark.parametrize("options", [{}, {"residual": False}, {"orthogonalize": True}], ids=str)
@pytest.mark.parametrize("shape", [(6, 4), (4, 3, 3, 3)])
def test_a_step_of_a_matrix_has_unit_size(options: dict, shape: tuple[int, ...]) -> None:
    update = first_update(MatrixRule(step_scale=0.5, **options), {"w": draw(*shape)}, {"w": 50 * draw(*shape, seed=1)})
    assert float(update["w"].square().mean().sqrt()) == pytest.approx(0.5, rel=1e-4)


def test_an_untrained_residual_rule_is_a_normalised_adam() -> None:
    rule = MatrixRule()
    params, grads = {"w": draw(5, 3)}, {"w": draw(5, 3, seed=1)}
    slot = update_averages(init_averages(params["w"]), grads["w"], *split_rates(rule.rates))
    adam = slot["momenta"][0] / (slot["second"][0] + 1e-8).sqrt()
    features = stack_features(params["w"], grads["w"], slot, eps=1e-8, extended=True)
    torch.testing.assert_close(features[ADAM_FEATURE], adam)
    expected = -1e-3 * adam / adam.square().mean().sqrt()
    torch.testing.assert_close(first_update(rule, params, grads)["w"], expected)


def test_the_published_form_starts_elsewhere() -> None:
    params, grads = {"w": draw(5, 3)}, {"w": draw(5, 3, seed=1)}
    update = first_update(MatrixRule(residual=False), params, grads)["w"]
    assert (update - first_update(MatrixRule(), params, grads)["w"]).abs().max() > 1e-4


def test_orthogonalised_steps_have_equal_singular_values() -> None:
    update = first_update(MatrixRule(orthogonalize=True), {"w": draw(6, 3)}, {"w": draw(6, 3, seed=1)})["w"]
    values = torch.linalg.svdvals(update)
    assert values[0] / values[-1] < 2


def test_orthogonalised_tensors_of_one_shape_move_as_each_alone(monkeypatch: pytest.MonkeyPatch) -> None:
    shapes = {"w1": (6, 4), "k1": (4, 3, 3, 3), "b": (4,), "w2": (6, 4), "k2": (4, 3, 3, 3)}
    params = {name: draw(*shape, seed=i) for i, (name, shape) in enumerate(shapes.items())}
    params["w3"] = params["w1"].double()
    grads = {name: (i + 1) * draw(*p.shape, seed=10 + i).to(p.dtype) for i, (name, p) in enumerate(params.items())}
    rule, sizes = MatrixRule(orthogonalize=True), list[int]()
    monkeypatch.setattr("l2o.rules.matrix.stacked", lambda of: sizes.append(len(of)) or stacked(of))
    together = first_update(rule, params, grads)
    assert max(sizes) == 2
    monkeypatch.setattr("l2o.rules.alike.MOST_ON_CPU", 0)
    torch.testing.assert_close(together, first_update(rule, params, grads), rtol=1e-3, atol=1e-7)


def test_vectors_are_moved_by_adam_with_their_own_rate() -> None:
    params, grads = {"b": draw(4), "s": draw()}, {"b": draw(4, seed=1), "s": draw(seed=2)}
    adamw = AdamW(lr=20e-3, betas=(0.9, 0.95), weight_decay=0.0)
    expected, _ = adamw(grads, adamw.init(params), params)
    torch.testing.assert_close(first_update(MatrixRule(vector_multiplier=20.0), params, grads), expected)
    learned = first_update(MatrixRule(vectors="learned"), params, grads)
    assert float(learned["b"].square().mean().sqrt()) == pytest.approx(1e-3, rel=1e-4)


def test_rows_without_gradient_do_not_make_the_others_larger() -> None:
    sparse = torch.zeros(100, 4)
    sparse[3] = draw(4)
    update = first_update(MatrixRule(), {"w": draw(100, 4)}, {"w": sparse})["w"]
    assert float(update[3].square().mean().sqrt()) == pytest.approx(1e-3, rel=1e-4)


@pytest.mark.parametrize(
    ("make", "message"),
    [
        (partial(MatrixRule, vector_multiplier=-1.0), "vector_multiplier must be >= 0"),
        (partial(MatrixRule, vector_betas=(0.9, 1.5)), "vector_betas must be"),
        (partial(MatrixRule, factored_decays=(0.9,)), "3 factored"),
        (partial(MatrixRule, num_layers=0), "needs a hidden unit"),
    ],
)
def test_bad_arguments_are_refused(make: Callable, message: str) -> None:
    with pytest.raises(ValueError, match=message):
        make()
