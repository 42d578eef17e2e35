from collections.abc import Callable
from functools import partial

import pytest
import torch

from l2o.rules import SGD, Adam, AdamW, Momentum, Muon, UpdateRule
from l2o.types import seeded

PAIRS = [
    (SGD(lr=0.1), partial(torch.optim.SGD, lr=0.1)),
    (SGD(lr=0.1, weight_decay=0.3), partial(torch.optim.SGD, lr=0.1, weight_decay=0.3)),
    (Momentum(lr=0.1, momentum=0.8), partial(torch.optim.SGD, lr=0.1, momentum=0.8)),
    (
        Momentum(lr=0.1, momentum=0.8, nesterov=True, weight_decay=0.1),
        partial(torch.optim.SGD, lr=0.1, momentum=0.8, nesterov=True, weight_decay=0.1),
    ),
    (Adam(lr=0.1), partial(torch.optim.Adam, lr=0.1)),
    (
        Adam(lr=0.1, betas=(0.5, 0.7), eps=1e-3, weight_decay=0.2),
        partial(torch.optim.Adam, lr=0.1, betas=(0.5, 0.7), eps=1e-3, weight_decay=0.2),
    ),
    (Adam(lr=0.1, betas=(0.0, 0.9)), partial(torch.optim.Adam, lr=0.1, betas=(0.0, 0.9))),
    (AdamW(lr=0.1), partial(torch.optim.AdamW, lr=0.1)),
    (AdamW(lr=0.1, weight_decay=0.5), partial(torch.optim.AdamW, lr=0.1, weight_decay=0.5)),
]


def steps(rule: UpdateRule, start: torch.Tensor, num: int) -> torch.Tensor:
    """Descend sum(cos w) + |w|^2 by the rule."""
    params = {"w": start}
    state = rule.init(params)
    with torch.no_grad():
        for _ in range(num):
            updates, state = rule({"w": slope(params["w"])}, state, params)
            params = {"w": params["w"] + updates["w"]}
    return params["w"]


def slope(w: torch.Tensor) -> torch.Tensor:
    return 2 * w - w.sin()


def torch_steps(make: Callable, start: torch.Tensor, num: int) -> torch.Tensor:
    w = torch.nn.Parameter(start.clone())
    optimizer = make([w])
    for _ in range(num):
        w.grad = slope(w.detach())
        optimizer.step()
    return w.detach()


@pytest.mark.parametrize(("rule", "make"), PAIRS, ids=str)
def test_a_fresh_rule_takes_the_steps_of_torch(rule: UpdateRule, make: Callable) -> None:
    start = torch.randn(5, 3, generator=seeded(0), dtype=torch.float64)
    start[0, 0] = 0.0  # where the gradient is zero for ever
    for rule_dtype in (torch.float32, torch.float64):
        found = steps(rule.to(rule_dtype), start, 20)
        tolerance = 1e-12 if rule_dtype == torch.float64 else 1e-5
        torch.testing.assert_close(found, torch_steps(make, start, 20), rtol=tolerance, atol=tolerance)


def muon_steps(start: torch.Tensor, num: int, lr: float, decay: float, nesterov: bool, adjust: str) -> torch.Tensor:
    """Muon written out for one matrix with the singular value decomposition's polynomial."""
    w, buffer = start.clone(), torch.zeros_like(start)
    for _ in range(num):
        buffer = 0.95 * buffer + 0.05 * slope(w)
        u, s, v = torch.linalg.svd(0.95 * buffer + 0.05 * slope(w) if nesterov else buffer, full_matrices=False)
        s = s / s.square().sum().sqrt()
        for _ in range(5):
            s = 3.4445 * s - 4.7750 * s**3 + 2.0315 * s**5
        rows, columns = w.shape
        scale = max(1.0, rows / columns) ** 0.5 if adjust == "original" else 0.2 * max(rows, columns) ** 0.5
        w = w - lr * decay * w - lr * scale * u @ torch.diag(s) @ v
    return w


@pytest.mark.parametrize("adjust", ["original", "match_rms_adamw"])
@pytest.mark.parametrize("nesterov", [True, False])
@pytest.mark.parametrize("shape", [(6, 3), (3, 6)])
def test_muon_equals_its_formula_and_roughly_torch(shape: tuple[int, int], nesterov: bool, adjust: str) -> None:
    start = torch.randn(shape, generator=seeded(0), dtype=torch.float64)
    rule = Muon(lr=0.02, weight_decay=0.3, nesterov=nesterov, adjust_lr=adjust).double()
    found = steps(rule, start, 5)
    formula = muon_steps(start, 5, 0.02, 0.3, nesterov, adjust)
    torch.testing.assert_close(found, formula, rtol=1e-9, atol=1e-9)
    if not hasattr(torch.optim, "Muon"):
        return  # torch before 2.9 has none
    make = partial(torch.optim.Muon, lr=0.02, weight_decay=0.3, nesterov=nesterov, adjust_lr_fn=adjust)
    torch.testing.assert_close(found, torch_steps(make, start, 5), rtol=0, atol=0.02)  # torch works in bfloat16


def test_muon_moves_vectors_by_adamw() -> None:
    start = torch.randn(4, generator=seeded(0), dtype=torch.float64)
    muon, adamw = Muon(weight_decay=0.2).double(), AdamW(weight_decay=0.2).double()
    torch.testing.assert_close(steps(muon, start, 5), steps(adamw, start, 5), rtol=0, atol=0)


def test_a_parameter_that_joins_later_is_corrected_by_its_own_steps() -> None:
    rule = Adam(lr=0.1)
    late = {"w": torch.tensor([1.0, -2.0])}
    state = rule.init(late)._replace(step=torch.tensor(1000))
    updates, _ = rule({"w": torch.tensor([3.0, -1e-3])}, state, late)
    torch.testing.assert_close(updates["w"], torch.tensor([-0.1, 0.1]), rtol=1e-3, atol=0.0)


def test_hyperparameters_are_given_back_and_learned_as_factors() -> None:
    rule = AdamW(lr=0.25, betas=(0.5, 0.75), weight_decay=0.0)
    assert (rule.lr, rule.betas, rule.nominal_lr) == (0.25, (0.5, 0.75), 0.25)
    assert Momentum(momentum=0.75).momentum == 0.75
    with torch.no_grad():
        rule.log_lr.fill_(2.0)
        rule.log_rate1.fill_(10.0)
    assert rule.lr == pytest.approx(0.25 * torch.e**2)
    assert rule.betas == (0.0, 0.75)


@pytest.mark.parametrize(
    ("make", "message"),
    [
        (partial(SGD, lr=-1.0), "lr must be finite and >= 0.*got lr=-1.0"),
        (partial(Adam, lr=float("nan")), "lr must be finite"),
        (partial(Adam, betas=(0.9, 1.0)), "betas must be one or more numbers in .0, 1."),
        (partial(AdamW, betas=(0.9,)), "betas must be two numbers"),
        (partial(Momentum, momentum=1.5), "momentum must be"),
        (partial(Muon, num_steps=0), "num_steps must be >= 1"),
        (partial(Muon, weight_decay=-0.1), "weight_decay must be finite and >= 0"),
    ],
)
def test_bad_hyperparameters_are_refused(make: Callable, message: str) -> None:
    with pytest.raises(ValueError, match=message):
        make()
