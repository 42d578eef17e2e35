import math

import pytest
import torch
from torch.distributions import MultivariateNormal

from l2o.tasks import gaussian_process_limits as limits
from l2o.tasks.episodes import Episode, Examples
from l2o.tasks.gaussian_process import FIXED_KERNEL, GaussianProcess, Hyperparameters, covariances
from l2o.types import seeded, tree_map


def test_sizes_are_those_of_the_paper_and_one_batch_has_one_shape() -> None:
    family, generator = GaussianProcess(), seeded(0)
    sizes = torch.tensor([family.sizes(generator) for _ in range(3000)])
    assert (sizes.amin(0).tolist(), int(sizes[:, 0].max()), int(sizes.sum(1).max())) == ([3, 3], 46, 49)
    counts = torch.bincount(sizes[:, 0], minlength=47)[3:].double()
    assert float(((counts - 3000 / 44) ** 2 / (3000 / 44)).sum()) < 78.7  # 43 degrees of freedom, p = .001
    episodes = family.sample_many(generator, 5)
    assert episodes.support.x.shape == (5, episodes.support.y.shape[1], 1)
    assert family.sample(generator).query.y.shape[1:] == (1,)


@pytest.mark.parametrize("kernel", ["rbf", "matern"])
def test_draws_have_the_kernels_covariance(kernel: str) -> None:
    family = GaussianProcess(kernel, (0.5, 0.5), (0.7, 0.7), 0.1, (2, 2), (1, 1))
    (support, query), _ = family.draw(seeded(1), 40000)
    x, y = (torch.cat(parts, dim=1).squeeze(-1).double() for parts in zip(support, query, strict=True))
    d = (x[:, 0] - x[:, 1]).abs() / 0.5
    r = math.sqrt(5) * d
    expected = torch.exp(-(d**2) / 2) if kernel == "rbf" else (1 + r + r**2 / 3) * torch.exp(-r)
    for low, high in ((0.0, 0.4), (0.4, 1.0), (1.0, 2.0), (3.0, 9.0)):
        near = (d >= low) & (d < high)
        excess = (y[:, 0] * y[:, 1] - 0.49 * expected)[near]
        assert abs(float(excess.mean())) < 3.5 * float(excess.std()) / len(excess) ** 0.5
    assert float(y.square().mean()) == pytest.approx(0.5, rel=0.03)  # scale^2 + noise^2


def test_the_known_kernels_predictive_is_a_ratio_of_densities() -> None:
    (support, query), of = GaussianProcess(context=(4, 4), target=(3, 3)).draw(seeded(2), 3)
    family, y = GaussianProcess(), torch.cat([support.y, query.y], dim=1).double().squeeze(-1)
    x = torch.cat([support.x, query.x], dim=1).double()
    matrix = covariances("rbf", x, x, Hyperparameters(*(v.view(-1, 1, 1) for v in of))) + 0.02**2 * torch.eye(7)
    whole = MultivariateNormal(torch.zeros(7).double(), matrix).log_prob(y)
    part = MultivariateNormal(torch.zeros(4).double(), matrix[:, :4, :4]).log_prob(y[:, :4])
    found = limits.known(family, Episode(support, query), of)
    torch.testing.assert_close(found.joint, (whole - part) / 3, atol=1e-5, rtol=1e-5)
    said = limits.posterior(family, Episode(support, query), of)
    torch.testing.assert_close(said.log_evidence, part, atol=1e-5, rtol=1e-5)
    # of one target the joint is the diagonal
    single = Episode(support, Examples(query.x[:, :1], query.y[:, :1]))
    one = limits.known(family, single, of)
    torch.testing.assert_close(one.joint, one.diagonal)


def test_of_one_kernel_the_integral_is_what_is_known() -> None:
    episodes, of = FIXED_KERNEL.draw(seeded(3), 4)
    for name in ("diagonal", "gaussian", "joint"):
        both = (limits.known(FIXED_KERNEL, episodes, of), limits.at_nodes(FIXED_KERNEL, episodes, 8))
        known, found = (getattr(x, name) for x in both)
        torch.testing.assert_close(found, known, atol=1e-6, rtol=1e-6)
    assert limits.fixed(FIXED_KERNEL).scale == 1.0
    with pytest.raises(ValueError, match="must have one kernel"):
        limits.fixed(GaussianProcess())


@pytest.mark.parametrize("kernel", ["rbf", "matern"])
def test_integrals_agree_with_plain_sums_over_many_kernels(kernel: str) -> None:
    """A midpoint sum over 3,600 kernels, each by Cholesky factors."""
    family = GaussianProcess(kernel, context=(6, 6), target=(3, 3))
    episodes = family.sample_many(seeded(4), 1)
    steps = (torch.arange(60).double() + 0.5) / 60
    of = Hyperparameters(*(v.flatten() for v in torch.meshgrid(0.1 + 0.5 * steps, 0.1 + 0.9 * steps, indexing="ij")))
    many = tree_map(lambda x: x.expand(3600, *x.shape[1:]), episodes)
    said, alone = limits.posterior(family, many, of), limits.known(family, many, of)
    share = said.log_evidence.softmax(0)
    y = episodes.query.y.double().view(-1)
    variances = said.covariance.diagonal(dim1=1, dim2=2)
    each = torch.distributions.Normal(said.mean, variances.sqrt()).log_prob(y).exp()
    mean = share @ said.mean
    deviation = (share @ (variances + said.mean.square()) - mean.square()).sqrt()
    found = limits.integrated(family, episodes, tolerance=1e-4)
    expected = (
        (share @ each).log().mean(),
        torch.distributions.Normal(mean, deviation).log_prob(y).mean(),
        (share @ (3 * alone.joint).exp()).log() / 3,
    )
    for got, wanted in zip(found[:3], expected, strict=True):
        assert float(got) == pytest.approx(float(wanted), abs=3e-3)
    assert 0 < found.error <= 1e-4


def test_an_integral_that_has_not_converged_is_told() -> None:
    with pytest.raises(ValueError, match="must have converged to 1e-12 with 4 nodes"):
        limits.integrated(GaussianProcess(), GaussianProcess().sample_many(seeded(0), 2), 1e-12, 2, 4)


def test_limits_are_those_that_were_computed_elsewhere() -> None:
    """By another program: 1.51 and 1.81 with the kernel known, -.86 without context."""
    family, generator, rows = GaussianProcess(), seeded(5), []
    for _ in range(400):
        episodes, of = family.draw(generator, 8)
        known = limits.known(family, episodes, of)
        rows.append([known.diagonal.mean(), known.joint.mean(), limits.without_context(family, episodes).mean()])
    for column, exact, error in zip(
        torch.tensor(rows).double().T, (1.51, 1.81, -0.86), (0.05, 0.03, 0.02), strict=True
    ):
        own = float(column.std()) / len(column) ** 0.5
        assert abs(float(column.mean()) - exact) < 3 * (own**2 + error**2) ** 0.5


def test_knowing_less_is_worse_and_one_gaussian_worse_than_a_mixture() -> None:
    family, generator, rows = GaussianProcess(), seeded(6), []
    for _ in range(6):
        episodes, of = family.draw(generator, 8)
        known, found = limits.known(family, episodes, of), limits.integrated(family, episodes, tolerance=1e-2)
        rows.append(torch.stack([known.joint, known.diagonal, found.diagonal, found.gaussian]))
        assert (found.diagonal >= limits.clipped(family, episodes, of, 0.3)).double().mean() > 0.5
    joint, diagonal, mixture, gaussian = torch.cat(rows, dim=1).mean(1).tolist()
    assert joint > diagonal > mixture > gaussian


def test_the_fixed_kernels_limit() -> None:
    generator, rows = seeded(7), []
    for _ in range(400):
        episodes, of = FIXED_KERNEL.draw(generator, 4)
        rows.append(float(limits.known(FIXED_KERNEL, episodes, of).diagonal.mean()))
    found = torch.tensor(rows)
    assert abs(float(found.mean()) + 0.705) < 3 * (float(found.var()) / 400 + 0.02**2) ** 0.5


@pytest.mark.parametrize(
    ("given", "told"),
    [
        ({"kernel": "linear"}, "kernel must be rbf or matern"),
        ({"noise": 0.0}, "noise must be positive"),
        ({"scale": (1.0, 0.1)}, "scale must be positive, from the lower"),
        ({"target": (0, 3)}, "context must be from 0 points"),
        ({"total": 48}, "total must leave 3 target points"),
    ],
)
def test_families_that_make_no_sense_are_refused(given: dict[str, object], told: str) -> None:
    with pytest.raises(ValueError, match=told):
        GaussianProcess(**given)  # type: ignore[arg-type]
