import dataclasses
import math

import numpy as np
import pytest
import torch

from l2o.tasks import Curriculum, DecisionTrees, LinearFunctions, Ramp, TwoLayerFunctions
from l2o.tasks.episodes import Examples
from l2o.tasks.function_limits import lasso, least_squares, nearest, ridge
from l2o.types import seeded

FAMILIES = {
    "linear": LinearFunctions(dim=4, shot=3, query=5),
    "sparse": LinearFunctions(dim=4, shot=3, query=5, sparsity=2),
    "two-layer": TwoLayerFunctions(dim=4, shot=3, query=5, hidden=7),
    "tree": DecisionTrees(dim=4, shot=3, query=5, depth=2),
}


@pytest.mark.parametrize("name", FAMILIES)
def test_noise_is_added_to_every_value_and_scale_is_that_of_the_inputs(name: str) -> None:
    family = dataclasses.replace(FAMILIES[name], noise=0.5, scale=2.0)
    episodes, clean = family.draw(seeded(0), 4000)
    assert episodes.support.x.shape == (4000, 3, 4) and episodes.query.y.shape == clean.shape == (4000, 5, 1)
    assert float(episodes.query.x.std()) == pytest.approx(2.0, rel=0.02)
    assert float((episodes.query.y - clean).std()) == pytest.approx(0.5, rel=0.02)
    assert not torch.equal(episodes.query.y[0], episodes.query.y[1])


@pytest.mark.parametrize("name", FAMILIES)
def test_numbers_that_are_not_active_are_zero_and_nothing_depends_on_them(name: str) -> None:
    family = dataclasses.replace(FAMILIES[name], active=2, shot=0, query=50)
    x = family.sample_many(seeded(1), 30).query.x
    assert x[..., 2:].abs().max() == 0 and x[..., :2].abs().min() > 0
    moved = x.clone()
    moved[..., 2:] = 3.0
    if name != "two-layer":  # whose units read all of x, which is 0 there
        assert torch.equal(family.values(x, seeded(2)), family.values(moved, seeded(2)))


def test_functions_have_the_variance_of_the_paper() -> None:
    variances = {name: family.sample_many(seeded(3), 20000).query.y.var() for name, family in FAMILIES.items()}
    # |x|^2 is 4 on average, half of it counts where two weights are 0; relu halves, sqrt(2) brings back; leaves N(0, 1)
    expected = {"linear": 4.0, "sparse": 2.0, "two-layer": 4.0, "tree": 1.0}
    assert {name: float(v) for name, v in variances.items()} == pytest.approx(expected, rel=0.06)


def test_a_tree_is_constant_where_the_signs_are_and_has_that_many_leaves() -> None:
    values = DecisionTrees(dim=3, shot=0, query=400, depth=3).sample_many(seeded(4), 20)
    for x, y in zip(*values.query, strict=True):
        of_signs: dict[tuple[bool, ...], set[float]] = {}
        for row, value in zip(x, y, strict=True):
            of_signs.setdefault(tuple((row > 0).tolist()), set()).add(float(value))
        assert all(len(found) == 1 for found in of_signs.values())
        assert 1 < len(y.unique()) <= 8


def test_least_squares_has_the_exact_error_of_the_paper() -> None:
    for k in (0, 2, 4):
        family = LinearFunctions(dim=5, shot=k, query=1)
        support, query = family.sample_many(seeded(k), 4000)
        error = (least_squares(support, query.x) - query.y).square() / 5
        spread = 3.5 * float(error.std()) / math.sqrt(len(error))
        assert abs(float(error.mean()) - (1 - k / 5)) < spread


def test_limits_are_scikit_learns() -> None:
    linear_model = pytest.importorskip("sklearn.linear_model")
    neighbors = pytest.importorskip("sklearn.neighbors")
    support, query = LinearFunctions(dim=6, shot=9, query=7, sparsity=2, noise=0.3).sample_many(seeded(5), 3)
    for i in range(3):
        x, y, z = (a[i].double().numpy() for a in (support.x, support.y, query.x))
        expected = {
            "ridge": linear_model.Ridge(alpha=0.25, fit_intercept=False).fit(x, y[:, 0]),
            "lasso": linear_model.Lasso(alpha=0.1, fit_intercept=False, tol=1e-12, max_iter=10**5).fit(x, y[:, 0]),
            "nearest": neighbors.KNeighborsRegressor(3).fit(x, y[:, 0]),
        }
        found = {
            "ridge": ridge(support, query.x, 0.25),
            "lasso": lasso(support, query.x, 0.1),
            "nearest": nearest(support, query.x, 3),
        }
        for name, model in expected.items():
            np.testing.assert_allclose(found[name][i, :, 0].numpy(), model.predict(z), atol=1e-6, err_msg=name)


def test_limits_know_what_to_say_without_examples() -> None:
    nothing, x = Examples(torch.zeros(2, 0, 3), torch.zeros(2, 0, 1)), torch.randn(2, 4, 3)
    for said in (least_squares(nothing, x), ridge(nothing, x, 1.0), lasso(nothing, x, 0.1), nearest(nothing, x)):
        assert torch.equal(said, torch.zeros(2, 4, 1).double())


def test_lasso_finds_sparse_weights_from_fewer_examples_than_numbers() -> None:
    support, query = LinearFunctions(dim=10, shot=8, query=20, sparsity=1).sample_many(seeded(6), 200)
    sparse, dense = (
        (method - query.y).square().mean()
        for method in (lasso(support, query.x, 0.01), least_squares(support, query.x))
    )
    assert sparse < 0.3 * dense


def test_a_curriculum_grows_from_its_start_to_its_family_and_stays_there() -> None:
    family = LinearFunctions(dim=4, shot=1, query=9)
    grown = Curriculum(family, Ramp(1, 4, 1, 100), Ramp(3, 9, 2, 100))
    sizes = [(grown.at(step).num_active, grown.at(step).query) for step in (0, 99, 100, 250, 299, 300, 10**6)]
    assert sizes == [(1, 3), (1, 3), (2, 5), (3, 7), (3, 7), (4, 9), (4, 9)]
    assert grown.at(10**6) == dataclasses.replace(family, active=4)
    assert grown.sample_many(seeded(0), 2).query.x.shape == (2, 9, 4)
    assert family.at(7) is family


@pytest.mark.parametrize(
    ("make", "message"),
    [
        (lambda: LinearFunctions(query=0), "query must be at least 1"),
        (lambda: LinearFunctions(noise=-1.0), "noise must not be negative"),
        (lambda: LinearFunctions(dim=3, active=4), "active must be from 1 to the 3"),
        (lambda: LinearFunctions(sparsity=0), "sparsity must be at least 1"),
        (lambda: DecisionTrees(depth=0), "depth must be at least 1"),
        (lambda: TwoLayerFunctions(hidden=0), "hidden must be at least 1"),
        (lambda: Ramp(3, 2), "a ramp must rise"),
        (lambda: Curriculum(LinearFunctions(dim=4), Ramp(1, 3), Ramp(1, 41)), "must end at its family"),
    ],
)
def test_impossible_families_are_refused(make, message: str) -> None:
    with pytest.raises(ValueError, match=message):
        make()


def test_limits_refuse_penalties_of_nothing() -> None:
    support, query = LinearFunctions(dim=2, shot=2, query=1).sample(seeded(0))
    with pytest.raises(ValueError, match="variance must be positive"):
        ridge(support, query.x, 0.0)
    with pytest.raises(ValueError, match="alpha must be positive"):
        lasso(support, query.x, 0.0)
    with pytest.raises(ValueError, match="num must be at least 1"):
        nearest(support, query.x, 0)
