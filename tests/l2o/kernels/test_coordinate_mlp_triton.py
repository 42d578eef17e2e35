"""The Triton kernels compute what the C++ kernel and the readable form do.

Without a GPU they run in Triton's interpreter, which is chosen before Triton is imported: hence processes of their
own, in which this file is a script. It checks numbers, not what the compiler accepts, so they are compiled as well.
"""

import os
import subprocess
import sys
from collections.abc import Callable, Iterator
from importlib.util import find_spec

import pytest
import torch

from l2o import LearnedOptimizer
from l2o.kernels import coordinate_mlp as cpp
from l2o.kernels.coordinate_mlp import Averages, Network
from l2o.rules import Celo, MatrixRule, MLPRule, UpdateRule, VeLO, coordinates, fused, reference
from l2o.rules.features import init_averages
from l2o.types import seeded

if find_spec("triton") is None:
    pytest.skip("Triton is not installed (it has no wheels for this platform)", allow_module_level=True)

MLP = Network(4, 2, 2, False, False, False, 1e-5, 1e-6, 2.0, 0.3, -0.01)
MATRIX = Network(5, 1, 1, True, True, True, 1e-9, 1e-8, 2.0, 0.0, -0.01)
# less and more than a tile; multiples of four or not; every kind, both orders of the factored dimensions
SHAPES = [(), (1100,), (12, 100), (9, 3), (20, 81), (2, 16, 100), (4, 8, 3, 3), (6, 2, 7, 3)]


class Case:
    """Inputs of a call; some coordinates have never had a gradient."""

    def __init__(self, shapes: list[tuple[int, ...]], network: Network, lanes: int = 0, each: bool = False) -> None:
        self.network, self.lanes, self.generator = network, lanes, seeded(0)
        self.lead = (lanes,) if lanes else ()
        self.params = [self.draw(*shape) for shape in shapes]
        self.grads = [torch.where(x.abs() < 0.1, 0.0, x) for x in (self.draw(*shape) for shape in shapes)]
        self.slots = [self._slot(shape, g) for shape, g in zip(shapes, self.grads, strict=True)]
        self.averages = [fused.averages_of(slot) for slot in self.slots]
        self.rates = self.draw(7).sigmoid()
        num = sum(n_out * n_in + n_out for n_out, n_in in reference.layer_shapes(network))
        self.layers = 0.3 * self.draw(*[len(shapes)] * each, num)
        self.sizes = self.draw(len(shapes)) if each else None

    def draw(self, *shape: int) -> torch.Tensor:
        return torch.randn((*self.lead, *shape), generator=self.generator)

    def _slot(self, shape: tuple[int, ...], grad: torch.Tensor) -> dict[str, torch.Tensor]:
        slot = {key: self.draw(*x.shape) for key, x in init_averages(torch.zeros(shape)).items()}
        slot = {key: x if key == "momenta" else x.square() for key, x in slot.items()}
        return slot | {"momenta": slot["momenta"] * (grad != 0).unsqueeze(len(self.lead))}

    def inputs(self) -> tuple:
        return self.params, self.grads, self.averages

    def halved(self) -> list[Averages]:
        return [a._replace(momenta=a.momenta.bfloat16(), second=a.second.bfloat16()) for a in self.averages]

    def copied(self) -> list[Averages]:
        return [a._replace(momenta=a.momenta.clone(), second=a.second.clone()) for a in self.averages]


def close(found: object, expected: object) -> None:
    torch.testing.assert_close(found, expected, rtol=2e-5, atol=1e-6)


def same_as_cpp(triton, case: Case) -> None:
    """`measure` and `move`, at once and with averages left for later."""
    rest = (case.network, case.lanes)
    expected, moments = cpp.measure(*case.inputs(), case.rates, *rest)
    found, found_moments = triton.measure(*case.inputs(), case.rates, *rest)
    close([[*a] for a in found], [[*a] for a in expected])
    close(found_moments, moments)
    left, later_moments = triton.measure(*case.inputs(), case.rates, *rest, later=True)
    close(later_moments, moments)
    assert all(a.momenta is b.momenta and a.second is b.second for a, b in zip(left, case.averages, strict=True))
    before, net = (case.params, case.grads), (moments, case.layers, case.sizes, *rest)
    steps = cpp.move(*before, expected, *net)
    close(triton.move(*before, expected, *net), steps)
    close(triton.move(*before, left, *net, rates=case.rates), steps)


def same_as_reference(triton, case: Case) -> None:
    made = [reference.remember(g, s, case.rates, case.network) for g, s in zip(case.grads, case.slots, strict=True)]
    found, moments = triton.measure(*case.inputs(), case.rates, case.network)
    close([fused._slot(a) for a in found], made)
    parts = list(zip(case.params, case.grads, made, strict=True))
    close(moments, torch.stack([reference.moments(*part, case.network) for part in parts]))
    steps = triton.move(case.params, case.grads, found, moments, case.layers, None, case.network)
    close(steps, [reference.respond(*part, case.layers, None, case.network) for part in parts])


def check_two_outputs(triton) -> None:
    case = Case(SHAPES, MLP)
    same_as_cpp(triton, case)
    same_as_reference(triton, case)
    advanced, (expected, _) = case.copied(), cpp.measure(*case.inputs(), case.rates, MLP)
    triton.advance(case.grads, advanced, case.rates, MLP)
    close([[*a[:2]] for a in advanced], [[*a[:2]] for a in expected])


def check_normalised(triton) -> None:
    case = Case(SHAPES[1:5], MATRIX)
    same_as_cpp(triton, case)
    same_as_reference(triton, case)


def check_what_celo_differs_in(triton) -> None:
    # larger numbers than Celo's, so that all see them; factored averages leave them out, which are never near 1e-30
    case = Case(SHAPES[:2], MLP._replace(extended=True, masked=False, eps_diagonal=1e-3, eps_square=1e-2))
    same_as_cpp(triton, case)
    same_as_reference(triton, case)


def check_lanes_and_networks_of_their_own(triton) -> None:
    same_as_cpp(triton, Case(SHAPES[2:5], MLP._replace(hidden=2, num_layers=3, extended=True), lanes=2, each=True))


def check_bfloat16(triton) -> None:
    case = Case([(5,), (12, 100), (9, 3)], MLP)
    case.averages = case.halved()
    expected, moments = cpp.measure(*case.inputs(), case.rates, MLP, later=True)
    found, found_moments = triton.measure(*case.inputs(), case.rates, MLP, later=True)
    close(found_moments, moments)
    given = (moments, case.layers, None, MLP)
    steps = cpp.move(case.params, case.grads, expected, *given, rates=case.rates)
    close(triton.move(case.params, case.grads, found, *given, rates=case.rates), steps)
    one, other = case.copied(), case.copied()
    cpp.advance(case.grads, one, case.rates, MLP, 7)
    triton.advance(case.grads, other, case.rates, MLP, 7)
    halves = [x == y for a, b in zip(one, other, strict=True) for x, y in zip(a[:2], b[:2], strict=True)]
    equal = torch.cat([x.flatten() for x in halves])
    assert equal.float().mean() > 0.999, "the same numbers, rounded by the same bits"


def check_nan_stays_nan(triton) -> None:
    case = Case([(12, 100), (9, 3), (5,)], MLP)
    for g in case.grads:
        g.view(-1)[0] = torch.nan
    found, moments = triton.measure(*case.inputs(), case.rates, MLP)
    steps = triton.move(case.params, case.grads, found, moments, case.layers, None, MLP)
    assert moments[:, 0].isnan().all() and all(step.isnan().any() for step in steps)


def check_rules(triton) -> None:
    """Steps of the drop-in, and under vmap, with the kernels in the place of C++."""
    makers: list[Callable[[], UpdateRule]] = [
        MLPRule,
        MatrixRule,
        lambda: VeLO(lstm_hidden_size=4, num_bank=2),
        lambda: Celo(lstm_hidden_size=4),
    ]
    for make in makers:
        expected = _trained(make)
        original = fused.kernels_for
        fused.kernels_for = coordinates.kernels_for = lambda device: triton
        try:
            close(_trained(make), expected)
        finally:
            fused.kernels_for = coordinates.kernels_for = original


def _trained(make: Callable[[], UpdateRule]) -> list[torch.Tensor]:
    torch.manual_seed(0)
    rule = make()
    params = [torch.nn.Parameter(torch.randn(shape)) for shape in [(6, 5), (5,), (2, 3, 4)]]
    optimizer = LearnedOptimizer(params, rule, total_steps=3)
    for _ in range(2):
        loss = sum((p.square().sum() for p in params), torch.zeros(()))
        optimizer.zero_grad()
        loss.backward()
        optimizer.step(loss=loss.detach())

    def one(p: torch.Tensor) -> torch.Tensor:
        return rule({"p": p}, rule.init({"p": p}), {"p": p}, torch.ones(()))[0]["p"]

    return [*(p.detach() for p in params), torch.func.vmap(one)(torch.randn(2, 6, 5)).detach()]


CHECKS = {name.removeprefix("check_"): check for name, check in list(globals().items()) if name.startswith("check_")}


@pytest.mark.parametrize("name", CHECKS)
def test_in_the_interpreter(name: str) -> None:
    run(name, TRITON_INTERPRET="1")


def test_all_compile_for_a_gpu_that_is_not_here() -> None:
    run("compile")


def test_the_kernels_are_not_imported_for_the_cpu() -> None:
    run("is_not_imported")


def run(name: str, **environment: str) -> None:
    done = subprocess.run([sys.executable, __file__, name], env={**os.environ, **environment}, capture_output=True)
    assert done.returncode == 0, done.stderr.decode()[-3000:]


def programs() -> Iterator[tuple[str, dict]]:
    """Kernels and their constants, as the door launches them."""
    import triton.language as tl

    index = {"index": tl.int32}
    move = {"later": True, "hidden": 2, "num_layers": 2, "num_outputs": 2, "extended": True, "residual": True}
    for kind in range(3):
        for aligned, half in ((True, False), (False, True)):
            shared = {"kind": kind, "aligned": aligned, "half": half, **index}
            yield "measure_tiles", {**shared, "writes": not half, "rows": 8 if aligned else 2}
            yield "move_tiles", {**shared, **move, "normalize": half, "masked": aligned, "rows": 8}
    for aligned in (True, False):
        yield "sum_squares", {"kind": 1 + aligned, "aligned": aligned, "rows": 8}
        yield "scale_tiles", {"aligned": aligned, "rows": 8}
        yield "advance_tiles", {"aligned": aligned, "half": aligned, "rows": 8}
    yield "sum_squares_outer", {**index, "rows": 32, "wide": 32}
    yield "update_statistics", {"rows": 8}
    yield "mean_rows", {"column_outer": 4, "column_inner": 5, "wide": 512}
    yield "sum_parts", {"width": 35, "wide": 64, "rows": 32}
    yield "sum_parts", {"width": 1, "wide": 1, "rows": 2048}


def compile_all() -> None:
    import triton
    from triton.backends.compiler import GPUTarget
    from triton.compiler import ASTSource

    from l2o.kernels import coordinate_mlp_measure, coordinate_mlp_move

    numbers = {"max_gradient": "fp32", "eps_second": "fp32", "magnitude_scale": "fp32", "seed": "i32"}
    numbers |= dict.fromkeys(["eps_diagonal", "eps_square"], "fp32")
    numbers |= dict.fromkeys(["lane_means", "lane_parts", "lane_sums", "net_width", "num_tensors"], "i32")
    types = dict.fromkeys(["table", "shapes", "blocks"], "*i64") | numbers
    for name, constants in programs():
        kernel = getattr(coordinate_mlp_measure, name, None) or getattr(coordinate_mlp_move, name)
        signature = {x: "constexpr" if x in constants else types.get(x, "*fp32") for x in kernel.arg_names}
        triton.compile(ASTSource(kernel, signature, constants), target=GPUTarget("cuda", 90, 32))


def is_not_imported() -> None:
    rule, x = MLPRule(), {"w": torch.ones(3, 2)}
    rule(x, rule.init(x), x)
    assert "l2o.kernels.coordinate_mlp_tiles" not in sys.modules  # Triton itself is, where torch imports it


if __name__ == "__main__":
    torch.set_num_threads(1)
    if sys.argv[1] == "compile":
        compile_all()
    elif sys.argv[1] == "is_not_imported":
        is_not_imported()
    else:
        from l2o.kernels import coordinate_mlp_triton

        CHECKS[sys.argv[1]](coordinate_mlp_triton)
