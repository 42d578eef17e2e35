"""A device beside the CPU, made in Python: its tensors hold CPU tensors and refuse to meet any in an operation.

What stands on a wrong device shows here as it would on a GPU, on a machine without one. `python -m
tests.integration.second_device` compares training there with training on the CPU; it needs a process of its own,
because torch knows one device of this kind, for good.
"""

from __future__ import annotations

import json
import os
import sys
from collections.abc import Callable
from functools import partial
from typing import Any

os.environ["L2O_KERNELS"] = "0"  # those for a GPU need one

import torch
from torch.utils import _pytree
from torch.utils.backend_registration import _setup_privateuseone_for_python_backend

from l2o.distributed import LocalPool
from l2o.distributed.ray_pool import portable
from l2o.estimators import ES, NRES, PES, Backprop, MetaLoss, Problems, Truncation
from l2o.learners import MAML, MLP, Adaptation, EpisodicTask
from l2o.rules import Adam, LearnedMuon, LSTMRule, MatrixRule, MLPRule, Muon, VeLO
from l2o.tasks import (
    Always,
    AutoencoderFamily,
    ConvFamily,
    MLPFamily,
    Quadratics,
    RecurrentFamily,
    StudentFamily,
    TransformerFamily,
)
from l2o.tasks.gaussian_classes import GaussianClasses
from l2o.training.evaluate import Contestant, compare
from l2o.training.judge import judge
from l2o.training.learn import LearnConfig
from l2o.training.meta_trainer import MetaTrainer, theta_of
from l2o.types import seeded

DEVICE = "second"
TOGETHER = ("aten::stack", "aten::cat", "aten::index_copy", "aten::index_select")


class Second(torch.Tensor):
    """A tensor of the device, around one of the CPU."""

    raw: torch.Tensor

    @staticmethod
    def __new__(cls, raw: torch.Tensor) -> Second:
        like = {"strides": raw.stride(), "storage_offset": raw.storage_offset(), "dtype": raw.dtype}
        made = torch.Tensor._make_wrapper_subclass(
            cls, raw.size(), device=DEVICE + ":0", dispatch_sizes_strides_policy="sizes", **like
        )
        made.raw = raw
        return made

    @classmethod
    def __torch_dispatch__(cls, func: Any, types: Any, args: Any = (), kwargs: Any = None) -> Any:
        return execute(func, args, kwargs or {})


def execute(op: Any, args: tuple[Any, ...], kwargs: dict[str, Any]) -> Any:
    """An operation, on what its tensors hold."""
    name = op._schema.name
    if name not in ("aten::copy_", "aten::_to_copy"):
        for x in _pytree.tree_leaves((args, kwargs)):
            # numbers may meet any tensor, but not be put together with them
            if isinstance(x, torch.Tensor) and not isinstance(x, Second) and (x.dim() > 0 or name in TOGETHER):
                raise RuntimeError(f"tensors of two devices in {name}")
    here, how = _pytree.tree_map(lambda x: x.raw if isinstance(x, Second) else x, (args, kwargs))
    leaves = how.get("device") is not None and torch.device(how["device"]).type == "cpu"
    if how.get("device") is not None:
        how["device"] = torch.device("cpu")
    result = op(*here, **how)
    if leaves or name == "aten::_local_scalar_dense":
        return result
    for i, argument in enumerate(op._schema.arguments):
        if argument.alias_info is not None and argument.alias_info.is_write and isinstance(result, torch.Tensor):
            written = kwargs[argument.name] if argument.name in kwargs else args[i]
            written.raw = result
            return written
    return _pytree.tree_map(lambda x: Second(x) if isinstance(x, torch.Tensor) else x, result)


def install() -> None:
    """Make the device known to torch."""
    _setup_privateuseone_for_python_backend(DEVICE)
    every, aten = torch.library.Library("_", "IMPL"), torch.library.Library("aten", "IMPL")
    every.fallback(lambda op, *args, **kwargs: execute(op, args, kwargs), "PrivateUse1")

    def maker(make: Callable[..., torch.Tensor]) -> Callable[..., Second]:  # their usual forms resize in place
        def made(*sizes: Any, dtype: Any = None, layout: Any = None, device: Any = None, pin_memory: Any = None) -> Any:
            return Second(make(*[x.raw if isinstance(x, Second) else x for x in sizes], dtype=dtype))

        return made

    for name in ("arange", "arange.start", "arange.start_step"):
        aten.impl(name, maker(torch.arange), "PrivateUse1")
    for name in ("eye", "eye.m"):
        aten.impl(name, maker(torch.eye), "PrivateUse1")
    install.kept = every, aten  # type: ignore[attr-defined]


RULES: dict[str, Callable[[], Any]] = {
    "mlp": MLPRule,
    "lstm": lambda: LSTMRule(4, 1),
    "rnnprop": lambda: LSTMRule(4, 1, inputs="rnnprop"),
    "rates": lambda: LSTMRule(4, 1, base_lr=0.1),
    "matrix": MatrixRule,
    "learned_muon": LearnedMuon,
    "velo": lambda: VeLO(lstm_hidden_size=5, num_bank=3),
    "adam": Adam,
    "muon": Muon,
}
ESTIMATORS: dict[str, Any] = {"pes": PES, "es": ES, "nres": NRES, "backprop": Backprop}
FAMILIES: dict[str, Callable[[], Any]] = {
    "mlp": lambda: MLPFamily(hidden=(8, 8)),
    "conv": ConvFamily,
    "recurrent": RecurrentFamily,
    "transformer": TransformerFamily,
    "autoencoder": AutoencoderFamily,
    "student": StudentFamily,
}


def meta_train(device: str, rule: str, estimator: str = "pes", family: str = "mlp", **loss: Any) -> list[float]:
    """Meta-losses and theta of a few outer steps, resumed on the way, and a comparison of the rule."""
    torch.manual_seed(0)
    module = RULES[rule]().to(device)
    problems = Problems(
        module, FAMILIES[family](), 3, truncation=Truncation(4, 8, stagger=True), meta_loss=MetaLoss(**loss)
    )
    trainer = MetaTrainer(
        module,
        LocalPool(ESTIMATORS[estimator](problems), theta_of(module)),
        torch.optim.Adam(module.parameters(), 1e-3),
    )
    told = [trainer.step()["meta_loss"]]
    state = _pytree.tree_map_only(torch.Tensor, lambda x: x.cpu().clone(), trainer.state_dict())
    trainer.load_state_dict(state)
    told += [trainer.step()["meta_loss"] for _ in range(2)]
    result = compare({rule: Contestant(module, (0.1, 1.0))}, {"quadratic": Quadratics(3).sample(seeded(0))}, 4, 2)[0]
    return told + numbers(theta_of(module)) + result.losses.flatten().tolist()


def learn(device: str, learner: str, data: str = "gaussian-classes") -> list[float]:
    """Meta-losses, theta and losses of test episodes of a learner after two outer steps."""
    way = 2 if data == "digits" else 5
    steps = {"inner_steps": 2} if learner in ("maml", "reptile", "cavia", "imaml", "meta-sgd") else {}
    shape = {"way": way, "train_way": way, "query": 2, "train_query": 2, "train_shot": 1}
    outer = {} if learner == "reptile" else {"optimizer": "SGD", "lr": 0.1}
    config = LearnConfig(learner=learner, data=data, num_episodes=2, device=device, **shape, **steps, **outer)
    suite = config.suite()
    adaptation = config.adaptation(suite)
    trainer = config.build(suite, adaptation)
    told = [trainer.step()["meta_loss"] for _ in range(2)]
    found = judge(adaptation, suite.test, 4, calibration=suite.train)
    return told + numbers(theta_of(adaptation)) + found.losses.flatten().tolist()


def outer(device: str, rule: str) -> list[float]:
    """Losses of a learner, with an inner rule that has parameters and buffers, as a task of another rule."""
    torch.manual_seed(0)
    module = MLPRule().to(device)
    task = EpisodicTask(partial(inner, rule), GaussianClasses(dim=8, query=2), 2)
    problems = Problems(module, Always(task), 2, truncation=Truncation(2, 4))
    trainer = MetaTrainer(module, LocalPool(PES(problems), theta_of(module)), torch.optim.SGD(module.parameters(), 0.1))
    return [trainer.step()["meta_loss"] for _ in range(2)] + numbers(theta_of(module))


def inner(rule: str) -> Adaptation:
    """MAML with a rule that is not trained."""
    made = Adaptation(MAML(MLP([8, 6, 5])), RULES[rule](), 2)
    assert made.rule is not None
    made.rule.requires_grad_(False)
    return made


def sent(device: str) -> list[float]:
    """What is sent to Ray's processes can be received by one without the device, and the trainer's own stays."""
    module = MLPRule().to(device)
    estimator, theta = portable(PES(Problems(module, Quadratics(3))), theta_of(module))
    assert estimator.module is not None and {p.device.type for p in estimator.module.parameters()} == {"cpu"}
    assert {x.device.type for x in theta.values()} == {"cpu"}
    assert {p.device.type for p in module.parameters()} == {device}
    return [0.0] * 11


def numbers(theta: dict[str, torch.Tensor]) -> list[float]:
    """All of theta."""
    return torch.cat([value.cpu().flatten() for value in theta.values()]).tolist()


if __name__ == "__main__":
    install()
    for work in json.loads(sys.argv[1]):
        run = {"meta_train": meta_train, "learn": learn, "outer": outer, "sent": sent}[work.pop("run")]
        there, here = run(DEVICE, **work), run("cpu", **work)
        assert len(here) == len(there) > 10
        found, expected = torch.tensor(there), torch.tensor(here)
        if "data" in work:  # relu and pooling make much of rounding where images have equal pixels
            assert (found - expected).norm() < 3e-4 * expected.norm()
        else:
            torch.testing.assert_close(found, expected, rtol=1e-3, atol=1e-5)
        print("same", work)
