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
from typing import Any

os.environ["L2O_KERNELS"] = "0"  # those for a GPU need one

import torch
from torch.utils import _pytree
from torch.utils.backend_registration import _setup_privateuseone_for_python_backend

from l2o.distributed import LocalPool
from l2o.estimators import ES, NRES, PES, Backprop, MetaLoss, Problems, Truncation
from l2o.rules import Adam, LSTMRule, MatrixRule, MLPRule, Muon, VeLO
from l2o.tasks import ConvFamily, MLPFamily, Quadratics, RecurrentFamily, TransformerFamily
from l2o.training.evaluate import Contestant, compare
from l2o.training.judge import judge
from l2o.training.learn import LearnConfig
from l2o.training.meta_trainer import MetaTrainer, theta_of

DEVICE = "second"


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
            if isinstance(x, torch.Tensor) and not isinstance(x, Second) and x.dim() > 0:  # numbers may meet any tensor
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
    config = LearnConfig(learner=learner, data=data, num_episodes=2, device=device, **shape, **steps)
    suite = config.suite()
    adaptation = config.adaptation(suite)
    trainer = config.build(suite, adaptation)
    told = [trainer.step()["meta_loss"] for _ in range(2)]
    found = judge(adaptation, suite.test, 4, calibration=suite.train)
    return told + numbers(theta_of(adaptation)) + found.losses.flatten().tolist()


def numbers(theta: dict[str, torch.Tensor]) -> list[float]:
    """All of theta."""
    return torch.cat([value.cpu().flatten() for value in theta.values()]).tolist()


def seeded(seed: int) -> torch.Generator:
    """A generator of the CPU."""
    return torch.Generator().manual_seed(seed)


if __name__ == "__main__":
    install()
    for work in json.loads(sys.argv[1]):
        # a step of Adam is as long as its rate whatever rounding made of a gradient near zero
        run, atol = {"meta_train": (meta_train, 1e-6), "learn": (learn, 5e-3)}[work.pop("run")]
        there, here = run(DEVICE, **work), run("cpu", **work)
        assert len(here) == len(there) > 10
        torch.testing.assert_close(torch.tensor(there), torch.tensor(here), rtol=1e-4, atol=atol)
        print("same", work)
