import pytest
import torch
from torch import nn
from torch.func import vmap

import l2o
from l2o.learners import DNC, MANN, NTM
from l2o.learners.memory.core import MemoryCore
from l2o.types import seeded

CORES = {
    "ntm": lambda: NTM(3, 2, controller=6, rows=7, width=4),
    "ntm, many heads": lambda: NTM(3, 2, controller=6, rows=7, width=4, num_reads=2, num_writes=2, reach=2),
    "dnc": lambda: DNC(3, 2, controller=6, rows=7, width=4),
    "dnc, two heads": lambda: DNC(3, 2, controller=6, rows=7, width=4, num_reads=2),
    "mann": lambda: MANN(3, 2, controller=6, rows=7, width=4, num_reads=2),
    "mann, as the paper": lambda: MANN(3, 2, controller=6, rows=7, width=4, num_reads=2, strength=None),
}
WIDE = {
    "ntm": lambda controller, rows, width: NTM(3, 2, controller, rows, width),
    "dnc": lambda controller, rows, width: DNC(3, 2, controller, rows, width),
    "mann": lambda controller, rows, width: MANN(3, 2, controller, rows, width, num_reads=1),
}
every_core = pytest.mark.parametrize("core", CORES)


def make(core: str) -> MemoryCore:
    torch.manual_seed(0)
    return CORES[core]()


@every_core
def test_a_sequence_in_two_parts_is_the_sequence(core: str) -> None:
    of, x = make(core), torch.randn(5, 9, 3, generator=seeded(0))
    whole, end = of.unroll(x)
    first, state = of.unroll(x[:, :4])
    second, again = of.unroll(x[:, 4:], state)
    torch.testing.assert_close(torch.cat([first, second], dim=1), whole)
    for a, b in zip(again, end, strict=True):
        torch.testing.assert_close(a, b)
    assert torch.equal(of(x), whole)


@every_core
def test_sequences_of_a_batch_do_not_know_each_other(core: str) -> None:
    of, x = make(core).double(), torch.randn(2, 3, 5, 3, generator=seeded(0)).double()
    together = of(x)
    torch.testing.assert_close(torch.stack([of(part) for part in x]), together)
    torch.testing.assert_close(torch.stack([torch.stack([of(each) for each in part]) for part in x]), together)
    torch.testing.assert_close(vmap(of)(x), together)


@every_core
def test_later_inputs_do_not_change_earlier_outputs_and_all_earlier_ones_do(core: str) -> None:
    of, x = make(core).double(), torch.randn(1, 6, 3, generator=seeded(0)).double().requires_grad_()
    (grad,) = torch.autograd.grad(of(x)[0, 3].sum(), x)
    assert not grad[0, 4:].any() and (grad[0, :4].abs().amax(-1) > 0).all()


@every_core
def test_gradients_are_those_of_finite_differences(core: str) -> None:
    of, x = make(core).double(), torch.randn(2, 4, 3, generator=seeded(0)).double()
    if isinstance(of, DNC):
        of.stop_usage = False
    params = {name: p.detach().requires_grad_() for name, p in of.named_parameters()}

    def outputs(*values: torch.Tensor) -> torch.Tensor:
        return torch.func.functional_call(of, dict(zip(params, values, strict=True)), (x,))

    assert torch.autograd.gradcheck(outputs, tuple(params.values()), fast_mode=True, atol=1e-6)


def test_stopped_usage_changes_the_gradient_and_not_the_output() -> None:
    stopped, x = make("dnc").double(), torch.randn(2, 6, 3, generator=seeded(0)).double()
    outputs, grads = [], []
    for stop in (True, False):
        stopped.stop_usage = stop
        stopped.zero_grad()
        y = stopped(x)
        y.square().sum().backward()
        outputs.append(y.detach())
        grads.append(stopped.write_head.weight.grad.clone())
    assert torch.equal(*outputs)
    assert not torch.allclose(*grads)


@every_core
def test_weights_of_the_heads_are_shares(core: str) -> None:
    of, x = make(core), 3 * torch.randn(4, 12, 3, generator=seeded(0))
    _, state = of.unroll(x)
    shares = [state.written, *state.read.unbind(1)] if isinstance(of, DNC) else state.weights.unbind(1)
    for weights in shares:
        assert (weights >= 0).all() and (weights.sum(-1) <= 1 + 1e-5).all()
    if isinstance(of, DNC):
        assert state.usage.min() >= 0 and state.usage.max() <= 1
    else:
        torch.testing.assert_close(state.weights.sum(-1), torch.ones(state.weights.shape[:2]))


@pytest.mark.parametrize("core", WIDE)
@pytest.mark.parametrize("size", [(1, 2, 1), (8, 128, 2), (64, 16, 64), (200, 64, 20)])
@pytest.mark.parametrize("scale", [0.0, 1.0, 1e6])
def test_nothing_is_ever_nan(core: str, size: tuple[int, int, int], scale: float) -> None:
    """At tiny and wide sizes, for silent and for huge inputs, with weights that an optimizer has thrown far off."""
    for seed, spread in ((0, 1.0), (1, 30.0), (2, 1000.0)):
        torch.manual_seed(seed)
        of = WIDE[core](*size)
        for p in of.parameters():
            p.data.mul_(spread)
        y, state = of.unroll(scale * torch.randn(2, 20, 3))
        assert y.isfinite().all() and all(part.isfinite().all() for part in state)
        y.tanh().sum().backward()
        assert all(p.grad is None or p.grad.isfinite().all() for p in of.parameters())


@every_core
def test_training_at_a_rate_that_is_too_high_gives_no_nan(core: str) -> None:
    of, generator = make(core), seeded(0)
    optimizer = torch.optim.Adam(of.parameters(), lr=0.3)
    for _ in range(25):
        x = torch.randn(4, 10, 3, generator=generator)
        loss = nn.functional.binary_cross_entropy_with_logits(of(x), (x[..., :2] > 0).float())
        optimizer.zero_grad()
        loss.backward()
        optimizer.step()
        assert loss.isfinite()
    assert all(p.isfinite().all() for p in of.parameters())


@every_core
def test_saved_and_loaded_it_is_the_same(core: str, tmp_path: object) -> None:
    of, x = make(core), torch.randn(2, 4, 3, generator=seeded(0))
    l2o.save(of, f"{tmp_path}/core.safetensors")
    assert torch.equal(l2o.load(f"{tmp_path}/core.safetensors")(x), of(x))


def test_a_machine_set_by_hand_copies_what_it_was_shown() -> None:
    """Its heads step forward a row at a time: what is written at step t is read in step t + rows, once round."""
    of = NTM(2, 2, controller=2, rows=3, width=2).double()
    with torch.no_grad():
        for p in of.parameters():
            p.zero_()
        # the controller's cell: input gate open, forget gate shut, g = the input, output gate open
        of.cell.inputs.bias.copy_(torch.tensor([50.0, 50, -51, -51, 0, 0, 50, 50]))
        of.cell.inputs.weight[4:6] = 50 * torch.eye(2)
        turn = torch.tensor([0.0, 0, 0, -50, -50, -50, 50, 0])  # key 2, strength, gate shut, shift by +1, power
        of.address.bias.copy_(turn.repeat(2))
        of.change.bias[:2] = 50.0  # erase
        of.change.weight[2:] = 50 * torch.eye(2)
        of.output.weight[:, 2:] = torch.eye(2)
    x = torch.tensor([[1.0, -1], [-1, -1], [1, 1], [-1, 1], [1, -1], [1, 1]]).double()
    y = of(x)
    torch.testing.assert_close(y[3:], x[:3], atol=1e-4, rtol=0)


def test_a_fresh_mann_reads_what_is_like_its_key_and_writes_its_key() -> None:
    of, read = make("mann"), torch.randn(24, generator=seeded(1))
    state = of.initial()
    keys, gates, _ = of.heads(of.control(read, state)[0]).unflatten(-1, (2, -1)).split(of.sizes, dim=-1)
    memory = torch.randn(7, 4, generator=seeded(2))
    memory[3], memory[5] = 2 * keys[0], 3 * keys[1]
    _, after = of.step(read, state._replace(memory=memory, usage=torch.arange(7.0)))
    assert after.weights[0].argmax() == 3 and after.weights[1].argmax() == 5 and (after.weights.amax(-1) > 0.6).all()
    torch.testing.assert_close(after.reads, after.weights @ memory)  # of the memory before its writing
    shares = torch.sigmoid(gates)  # both heads look at row 0 first, which is least used
    torch.testing.assert_close(after.memory[0], (shares * keys).sum(0) + (1 - shares[0]) * keys[0])
    torch.testing.assert_close(after.memory[1], (1 - shares[1]) * keys[1])


@every_core
def test_each_of_many_queries_is_answered_as_if_it_came_next_and_nothing_were_written(core: str) -> None:
    of, x = make(core).double(), torch.randn(2, 5, 3, generator=seeded(0)).double()
    queries = torch.randn(2, 4, 3, generator=seeded(1)).double()
    _, state = of.unroll(x)
    answers = vmap(of.answer)(queries, state)
    if isinstance(of, DNC):  # which writes before it reads; the others read first
        of.write_head.bias.data[-1] = -1e4
    for i in range(4):
        torch.testing.assert_close(of.unroll(queries[:, i : i + 1], state)[0][:, 0], answers[:, i])
    with pytest.raises(ValueError, match="must be of 3 numbers"):
        of.answer(torch.zeros(4, 2).double(), type(state)(*(value[0] for value in state)))


@pytest.mark.parametrize("heads", [1, 2])
@pytest.mark.parametrize("core", [NTM, DNC])
def test_an_associative_memory_finds_at_once_what_it_wrote_for_the_same_input(
    core: type[MemoryCore], heads: int
) -> None:
    """Of eight inputs, each seen by a controller that has forgotten the others, one is seen again and not written."""
    xs = 3 * torch.randn(8, 6, generator=seeded(1)).double()

    def found(**chosen: bool) -> int:
        torch.manual_seed(0)
        of = core(6, 2, controller=40, rows=12, width=10, num_reads=heads, **chosen).double()
        state, written = of.initial(), []
        for x in xs:
            fresh = of.initial()
            state = state._replace(h=fresh.h, c=fresh.c, reads=fresh.reads)
            h, _ = of.control(of.cell.read(x), state)
            written.append(torch.tanh(of.change(h)[10:]) if core is NTM else of.write_head(h)[21:31])
            _, state = of.step(of.cell.read(x), state)
        if core is DNC:
            of.write_head.bias.data[-1] = -50.0  # the write gate
        right = 0
        for k, x in enumerate(xs):
            fresh = of.initial()
            _, after = of.step(of.cell.read(x), state._replace(h=fresh.h, c=fresh.c, reads=fresh.reads))
            right += int(torch.cosine_similarity(torch.stack(written), after.reads[0], dim=-1).argmax()) == k
        return right

    assert found(associative=True) >= 7 and found() <= 4


def test_bad_arguments_and_inputs_are_told() -> None:
    with pytest.raises(ValueError, match="rows must be at least 1"):
        NTM(3, 2, rows=0)
    with pytest.raises(ValueError, match="reach from 0 to half the rows"):
        NTM(3, 2, rows=4, reach=3)
    with pytest.raises(ValueError, match="a row for each head"):
        MANN(3, 2, rows=2, num_reads=3)
    with pytest.raises(ValueError, match="inputs must be of 3 numbers"):
        make("ntm")(torch.zeros(2, 5, 4))
