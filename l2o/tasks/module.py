"""Tasks whose parameters are those of a module."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from functools import lru_cache
from typing import Any, TypeVar

from torch import Generator, nn
from torch.func import functional_call

from l2o.tasks.base import Task
from l2o.types import Params, draw_seed, made, tree_leaves

M = TypeVar("M", bound=nn.Module)


@dataclass(frozen=True)
class ModuleTask(Task):
    """Train a module: parameters are its own, drawn as it draws them; the loss is a subclass's.

    Arguments:
        make: makes a fresh module; a function of the module level, or a `partial` of one, so that the task can be sent.
            Tasks that share it run side by side.
    """

    make: Callable[[], nn.Module]

    def __post_init__(self) -> None:
        template(self.make)  # now: not while a loss is being transformed, where nothing can be drawn

    def __setstate__(self, state: dict[str, Any]) -> None:
        self.__dict__.update(state)
        template(self.make)

    def init(self, generator: Generator) -> Params:
        module = made(self.make, draw_seed(generator))
        return {name: p.detach() for name, p in module.named_parameters() if p.requires_grad}

    def call(self, params: Params, *args: Any) -> Any:
        """What the module gives with these parameters."""
        return functional_call(template(self.make), self.whole(params), args)

    def whole(self, params: Params) -> Params:
        """The parameters, and on devices of theirs what is not trained as well."""
        device = tree_leaves(params)[0].device
        if device.type == "cpu":
            return params
        module = template(self.make)
        rest = dict(module.named_parameters()) | dict(module.named_buffers())
        return {name: x.detach().to(device) for name, x in rest.items()} | params


@lru_cache(maxsize=128)
def template(make: Callable[[], M]) -> M:
    """A module's structure, into which parameters are put."""
    return made(make, 0)
