"""The inner loop of all learners: fast variables, refined on the support set by any update rule.

How the gradient of what comes after passes back through the steps, to the slow weights and the rule's theta:

    full          through everything, second derivatives included
    first         inner gradients are taken as constants (first-order MAML, Finn et al., 2017, section 5.2)
    truncated:n   the last n steps full; before them only straight through, as if they had been a constant offset
                  (Shaban et al., 2019, https://arxiv.org/abs/1810.10667)
    implicit:n    not through the steps at all, but by the implicit function theorem at their end, with n iterations of
                  conjugate gradients (Rajeswaran et al., 2019, https://arxiv.org/abs/1909.04630). Slow weights that the
                  inner loss does not depend on get zero, as does the rule: MAML all of them, so use `IMAML`
"""

from __future__ import annotations

from collections.abc import Callable, Iterator

import torch
from jaxtyping import Float
from torch import Tensor, nn
from torch.func import functional_call, grad_and_value

from l2o.inner_loop import InnerState
from l2o.learners.base import Fast, Learner
from l2o.learners.implicit import implicit
from l2o.learners.transforms import inside_transform
from l2o.recompute import recomputed
from l2o.rules.base import UpdateRule
from l2o.tasks.episodes import Examples
from l2o.types import tree_detach


def adapt(
    learner: Learner,
    rule: UpdateRule | None,
    support: Examples,
    steps: int,
    order: str = "full",
    batch_size: int | None = None,
    recompute: bool = False,
) -> Fast:
    """The fast variables after `steps` steps of `rule` on the support set; zero steps are the family's own.

    Arguments:
        rule: None will do for zero steps.
        order: full, first, truncated:n or implicit:n, see above.
        batch_size: support rows of a step, in their order, beginning anew at the end; None for all of them.
        recompute: make each step again in the backward pass in place of storing it. Not within `torch.func` transforms.

    Returns:
        the fast variables; the graph behind them leads to the learner's and the rule's parameters, unless gradients are
        off. After zero steps they may be slow weights themselves (MAML's): do not change them in place.
    """
    fast = learner.start(support)
    for fast in trajectory(learner, rule, support, steps, order, batch_size, recompute):  # noqa: B007
        pass
    return fast


def trajectory(
    learner: Learner,
    rule: UpdateRule | None,
    support: Examples,
    steps: int,
    order: str = "full",
    batch_size: int | None = None,
    recompute: bool = False,
) -> Iterator[Fast]:
    """The fast variables before the first step and after each, as `adapt` goes through them."""
    kind, number = parse_order(order)
    fast = learner.start(support)
    if steps == 0:
        yield fast
        return
    if rule is None:
        raise ValueError(f"steps on the fast variables need a rule; got rule=None with steps={steps}.")
    if kind == "implicit":
        with torch.no_grad():
            *_, last = trajectory(learner, rule, support, steps, "first", batch_size)
        yield fast
        yield implicit(learner, last, support, number)
        return
    step_of = _Step(learner, rule)
    state = InnerState(fast, rule.init(fast, steps))
    for k in range(steps):
        yield state.params
        if kind == "truncated" and k == steps - number and k > 0:
            state = _cut(fast, state)
        second = kind == "full" or (kind == "truncated" and k >= steps - number)
        rows = _rows(support, batch_size, k)
        if recompute and torch.is_grad_enabled():
            state = _recomputed(step_of, state, rows, k, second)
        else:
            state = step_of(state, rows, k, second)
    yield state.params


class _Step(nn.Module):
    """One step; learner and rule together, so that one `functional_call` reaches the parameters of both."""

    def __init__(self, learner: Learner, rule: UpdateRule) -> None:
        super().__init__()
        self.learner, self.rule = learner, rule

    def forward(self, state: InnerState, support: Examples, step: int, second: bool) -> InnerState:
        def loss_at(fast: Fast) -> Float[Tensor, ""]:
            return self.learner.inner_loss_at(fast, support, step)

        grads, loss = gradient(loss_at, state.params, second and torch.is_grad_enabled())
        updates, opt = self.rule(grads, state.opt, state.params, loss)
        return InnerState({name: value + updates[name] for name, value in state.params.items()}, opt)


def gradient(
    loss_of: Callable[[Fast], Float[Tensor, ""]], fast: Fast, differentiable: bool
) -> tuple[Fast, Float[Tensor, ""]]:
    """The gradient with respect to the fast variables, and the loss.

    Outside `torch.func` transforms by `torch.autograd`, which takes a third of their memory (Conv4, 5 steps).

    Arguments:
        differentiable: whether the gradient is to have a graph behind it.
    """
    if inside_transform():
        grads, loss = grad_and_value(loss_of)(fast)
        return (grads, loss) if differentiable else (tree_detach(grads), loss.detach())
    with torch.enable_grad():
        # views: the inner loss may use the same slow weights besides, which are not to be differentiated here
        at = {
            name: value.view_as(value) if value.requires_grad else value.detach().requires_grad_()
            for name, value in fast.items()
        }
        loss = loss_of(at)
        found = torch.autograd.grad(
            loss, list(at.values()), create_graph=differentiable, allow_unused=True, materialize_grads=True
        )
    return dict(zip(at, found, strict=True)), loss if differentiable else loss.detach()


def parse_order(order: str) -> tuple[str, int]:
    """The kind of an order and its number (0 where it has none).

    Raises:
        ValueError: there is no such order.
    """
    kind, _, number = order.partition(":")
    fits = (kind in ("full", "first") and not number) or (
        kind in ("truncated", "implicit") and number.isdecimal() and int(number) > 0
    )
    if not fits:
        raise ValueError(
            "order must be full, first, truncated:n or implicit:n with a positive n, the known ways back through the "
            f"inner steps; got {order!r}."
        )
    return kind, int(number or 0)


def _cut(start: Fast, state: InnerState) -> InnerState:
    """The same numbers, as if the steps so far had been a constant added to the start."""
    offset = {name: (value - start[name]).detach() for name, value in state.params.items()}
    return InnerState({name: start[name] + value for name, value in offset.items()}, tree_detach(state.opt))


def _rows(support: Examples, batch_size: int | None, step: int) -> Examples:
    if batch_size is None or batch_size >= len(support.x):
        return support
    first = step * batch_size % len(support.x)
    index = [(first + i) % len(support.x) for i in range(batch_size)]
    return Examples(support.x[index], support.y[index])


def _recomputed(step_of: _Step, state: InnerState, support: Examples, step: int, second: bool) -> InnerState:
    if inside_transform():
        raise ValueError(
            "recompute must be off within torch.func transforms, which have no way back through it; take the tasks one "
            "by one (batching='loop')."
        )

    def again(theta: dict[str, Tensor], state: InnerState, support: Examples) -> InnerState:
        return functional_call(step_of, theta, (state, support, step, second))

    return recomputed(again, (dict(step_of.named_parameters()), state, support))
