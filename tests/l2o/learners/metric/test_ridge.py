import pytest
import torch
from torch import Tensor, nn

from l2o.learners import MLP, RidgeHead, SVMHead
from l2o.learners.metric.ridge import _onto_simplex, crammer_singer, ridge
from l2o.tasks.episodes import Examples
from l2o.types import seeded

Y = torch.tensor([0, 1, 2, 2, 1, 0])


@pytest.mark.parametrize("dim", [3, 20])
@pytest.mark.parametrize("bias", [False, True])
def test_ridge_is_scikit_learn_s(dim: int, bias: bool) -> None:
    """Fewer numbers than examples, and more; the bias is the weight of a column of ones."""
    linear = pytest.importorskip("sklearn.linear_model")
    x, query = (torch.randn(n, dim, generator=seeded(n)).double() for n in (6, 4))
    learner = RidgeHead(nn.Identity(), regularisation=0.3, scale=2.0, bias=bias).double()
    learner.beta.data.fill_(0.5)

    def rows(z: Tensor) -> Tensor:
        return torch.cat([z, torch.ones(len(z), 1)], dim=1) if bias else z

    oracle = linear.Ridge(alpha=6 * 0.3, fit_intercept=False).fit(rows(x).numpy(), torch.eye(3)[Y].numpy())
    fast = learner.start(Examples(x, Y))
    assert fast["weights"].shape == (dim, 3)
    expected = 2.0 * torch.from_numpy(oracle.predict(rows(query).numpy())) + 0.5
    # log lambda is kept as float32
    torch.testing.assert_close(learner.predict(fast, query), expected, rtol=1e-5, atol=1e-6)


def test_both_systems_of_ridge_regression_have_one_solution_and_one_gradient() -> None:
    x = torch.randn(6, 6, generator=seeded(3)).double().requires_grad_()
    y, penalty = torch.eye(3)[Y].double(), torch.tensor(0.3).double()
    wide = torch.cat([x, torch.zeros(6, 1)], dim=1)  # a column more: the other system
    found = [ridge(x, y, penalty), ridge(wide, y, penalty)[:-1]]
    torch.testing.assert_close(*found)
    torch.testing.assert_close(*(torch.autograd.grad(w.pow(3).sum(), x)[0] for w in found))


def test_strong_regularisation_makes_scores_equal_and_weak_fits() -> None:
    x = torch.randn(6, 20, generator=seeded(4))
    for regularisation, expected in ((1e6, torch.zeros(6, 3)), (1e-6, torch.eye(3)[Y])):
        learner = RidgeHead(nn.Identity(), regularisation=regularisation, scale=1.0)
        torch.testing.assert_close(learner.predict(learner.start(Examples(x, Y)), x), expected, rtol=0, atol=1e-3)


def problem(way: int, shot: int, dim: int) -> tuple[Tensor, Tensor]:
    """Embeddings as a relu leaves them: with much in common."""
    generator = seeded(5)
    x = torch.randn(way, 1, dim, generator=generator) + torch.randn(way, shot, dim, generator=generator)
    return torch.relu(x).flatten(0, 1).double(), torch.arange(way).repeat_interleave(shot)


@pytest.mark.parametrize(("way", "shot", "dim"), [(5, 1, 64), (5, 5, 64), (5, 5, 8), (20, 2, 64)])
@pytest.mark.parametrize("cost", [0.1, 1.0])
def test_support_vector_machines_are_those_of_scikit_learn(way: int, shot: int, dim: int, cost: float) -> None:
    svm = pytest.importorskip("sklearn.svm")
    x, y = problem(way, shot, dim)
    oracle = svm.LinearSVC(C=cost, multi_class="crammer_singer", fit_intercept=False, max_iter=10**6, tol=1e-9)
    expected = torch.from_numpy(oracle.fit(x.numpy(), y.numpy()).coef_).T
    found = crammer_singer(x, torch.eye(way)[y].double(), cost, 50)
    assert (found - expected).norm() / expected.norm() < 0.01
    many = crammer_singer(x, torch.eye(way)[y].double(), cost, 1000)
    torch.testing.assert_close(many, expected, rtol=1e-4, atol=1e-5)


def test_no_step_from_the_support_vector_machine_lowers_its_objective() -> None:
    x, y = problem(5, 5, 64)

    def objective(w: Tensor) -> Tensor:
        scores = x @ w
        margins = scores + 1.0 - torch.eye(5)[y] - scores[torch.arange(25), y].unsqueeze(1)
        return 0.5 * w.square().sum() + 0.1 * margins.amax(1).sum()

    w = crammer_singer(x, torch.eye(5)[y].double(), 0.1, 1000)
    for i in range(20):
        step = torch.randn(w.shape, generator=seeded(i)).double()
        assert objective(w + 1e-3 * step) > objective(w)


def test_rows_on_a_simplex_are_the_nearest() -> None:
    v = 2 * torch.randn(50, 4, generator=seeded(6))
    nearest = _onto_simplex(v, 0.5)
    assert (nearest >= 0).all()
    torch.testing.assert_close(nearest.sum(1), torch.full((50,), 0.5))
    others = 0.5 * torch.distributions.Dirichlet(torch.ones(4)).sample((50, 200))
    assert ((others - v[:, None]).norm(dim=-1) >= (nearest - v).norm(dim=-1, keepdim=True)).all()
    torch.testing.assert_close(_onto_simplex(nearest, 0.5), nearest)


@pytest.mark.parametrize("cls", [RidgeHead, SVMHead])
def test_equal_and_empty_embeddings_have_finite_gradients(cls: type) -> None:
    learner = cls(nn.Identity())
    for x in (torch.zeros(6, 4), torch.ones(6, 4)):
        x.requires_grad_()
        fast = learner.start(Examples(x, Y))
        (grad,) = torch.autograd.grad(learner.predict(fast, x).square().sum(), x)
        assert grad.isfinite().all() and fast["weights"].isfinite().all()


@pytest.mark.parametrize("cls", [RidgeHead, SVMHead])
def test_embeddings_of_half_precision_keep_it(cls: type) -> None:
    learner = cls(MLP([4, 8]).bfloat16())
    fast = learner.start(Examples(torch.randn(6, 4, generator=seeded(7)).bfloat16(), Y))
    scores = learner.predict(fast, torch.randn(2, 4, generator=seeded(8)).bfloat16())
    assert {value.dtype for value in fast.values()} == {scores.dtype} == {torch.bfloat16}


def test_errors_say_what_is_wrong() -> None:
    with pytest.raises(ValueError, match="regularisation must be positive"):
        RidgeHead(nn.Identity(), regularisation=0.0)
    with pytest.raises(ValueError, match="cost and iterations must be positive"):
        SVMHead(nn.Identity(), cost=0.0)
