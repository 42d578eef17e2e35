"""One meta-training run as plain values: from flags or YAML to objects, and back into the run's config.yaml."""

from __future__ import annotations

import dataclasses
import json
import re
import warnings
from collections.abc import Callable, Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import Annotated, Any, Literal, TypeVar, get_args, get_origin, get_type_hints

import tyro
import yaml
from torch import nn
from torch.optim.lr_scheduler import LambdaLR

from l2o.estimators import ES, NRES, PES, Backprop, GradientEstimator, Grouped, MetaLoss, Problems, Truncation
from l2o.estimators.meta_loss import Reduction
from l2o.files import read_file
from l2o.load import load
from l2o.rules.base import UpdateRule
from l2o.training.meta_trainer import MetaTrainer, theta_of
from l2o.training.outer import outer_defaults, outer_optimizer, rate_factor
from l2o.training.pools import PoolConfig
from l2o.training.suites import Suite, load_suite
from l2o.types import bring, made, seeded

C = TypeVar("C")
P = TypeVar("P", bound=PoolConfig)
M = TypeVar("M", bound="MetaTrainConfig")

NUMBER = re.compile(r"[-+]?(\d+\.?\d*|\.\d+)[eE][-+]?\d+$")


class _Loader(yaml.SafeLoader):
    """YAML in which 3e-3 is a number, as in every programming language (YAML 1.1 wants 3.0e-3), and without aliases."""

    def compose_node(self, parent: yaml.Node | None, index: Any) -> yaml.Node | None:
        """Refuse aliases: a few lines of them stand for gigabytes."""
        if self.check_event(yaml.AliasEvent):
            raise yaml.YAMLError("it must not have aliases (*name), which can stand for any amount of memory.")
        return super().compose_node(parent, index)


YAML_DAMAGES = (yaml.YAMLError, ValueError, KeyError, IndexError, AttributeError, TypeError, RecursionError)
"""What PyYAML raises at texts that are none: its readers of dates and numbers, and nesting without end, included."""

MAX_CONFIG = 1 << 20
"""Bytes."""

_Loader.add_implicit_resolver("tag:yaml.org,2002:float", NUMBER, list("-+.0123456789"))


def read_yaml(text: str, origin: str) -> dict[str, Any]:
    """A mapping from YAML.

    Arguments:
        origin: what the text is called in errors.

    Raises:
        ValueError: not YAML, or no mapping.
    """
    try:
        values = yaml.load(text, _Loader)
    except YAML_DAMAGES as error:
        raise ValueError(f"{origin} must be YAML: {error}") from error
    if not isinstance(values, Mapping):
        raise ValueError(f"{origin} must be a mapping, `name: value`; got {type(values).__name__}.")
    return dict(values)


MAPPING = tyro.constructors.PrimitiveConstructorSpec(
    nargs=1,
    metavar="YAML",
    instance_from_str=lambda texts: read_yaml(texts[0], "rule_args"),
    is_instance=lambda value: isinstance(value, dict),
    str_from_instance=lambda value: [json.dumps(value)],
)


@dataclass(frozen=True)
class MetaTrainConfig(PoolConfig):
    """Meta-train an update rule on a distribution of tasks.

    Arguments:
        rule: what to train: a name (lstm, mlp, velo, matrix, sgd, momentum, adam, adamw, muon), or a saved file to
            go on from.
        rule_args: constructor arguments for a rule given by name, as YAML: '{hidden_size: 8}'.
        only: train parameters with such names only (a regular expression), leave the others as they are.
        tasks: a named suite of tasks (see `l2o info`), or `module:object` for a TaskFamily of your own.
        estimator: backprop (through the unroll), es, pes or nres.
        num_tasks: tasks trained side by side by each worker, all of one structure (width, data set, ...).
        num_groups: groups of so many tasks, each group with a structure of its own.
        window: inner steps of one estimate.
        horizon: inner steps of a problem: one number, or two to draw it log-uniformly between them.
        stagger: start each task at a random point of a horizon of its own. Tasks of one worker then keep the one
            structure (width, data set, ...) that was drawn first: use several groups or workers for variety.
        reduction: meta-loss: mean over the unroll, tail (the last fifth of what ends a problem), final, or validation.
        relative: divide losses by the loss each problem began with.
        bound: cap on a loss, so that exploding problems do not drown the others.
        floor: least that a loss counts as, so that nothing is made for less of what is learned already.
        log: take the logarithm of losses: halving a loss is worth the same early and late.
        order: full meta-gradients, or first: inner gradients taken as constants (backprop only).
        std: standard deviation of perturbations (es, pes, nres).
        sign_delta: use only which of a pair's losses is lower (es, pes, nres).
        optimizer: outer optimizer: a class of torch.optim, or an update rule by name ('default') or path.
        lr: outer learning rate; None for 1 with an update rule, else 0.01.
        schedule: of the outer learning rate: constant, or cosine to a tenth; None for constant with an update rule,
            else cosine.
        warmup: outer steps of linear warm-up.
        max_grad_norm: limit on the norm of the meta-gradient, with any optimizer; None for no limit.
        steps: outer steps.
        seed: of everything; the same seed gives the same run.
        threads: CPU threads; 0 leaves torch's choice. Sums depend on it in their last digits.
        evaluate_every: outer steps between held-out evaluations.
        checkpoint_every: outer steps between checkpoints.
        compile: fuse the inner step with torch.compile (the first step then takes up to a minute).
        recompute: keep only states for the backward pass, not steps: less memory, a third more time (backprop only).
    """

    rule: str = "lstm"
    rule_args: Annotated[dict[str, Any], MAPPING] = field(default_factory=dict)
    only: str = ".*"
    tasks: str = "digits-mlp"
    estimator: Literal["backprop", "es", "pes", "nres"] = "backprop"
    num_tasks: int = 4
    num_groups: int = 1
    window: int = 20
    horizon: tuple[int, ...] = (100,)
    stagger: bool = False
    reduction: Reduction = "mean"
    relative: bool = False
    bound: float | None = None
    floor: float | None = None
    log: bool = False
    order: Literal["full", "first"] = "first"
    std: float = 0.01
    sign_delta: bool = False
    optimizer: str = "Adam"
    lr: float | None = None
    schedule: Literal["constant", "cosine"] | None = None
    warmup: int = 0
    max_grad_norm: float | None = 1.0
    steps: int = 1000
    seed: int = 0
    threads: int = 0
    evaluate_every: int = 200
    checkpoint_every: int = 100
    compile: bool = False
    recompute: bool = False

    def __post_init__(self) -> None:
        super().__post_init__()
        if len(self.horizon) not in (1, 2):
            raise ValueError(f"horizon must be one number or two (low high); got {self.horizon}.")
        for name in ("steps", "evaluate_every", "checkpoint_every"):
            if getattr(self, name) < 1:
                raise ValueError(f"{name} must be at least 1 outer step; got {getattr(self, name)}.")
        if self.num_groups < 1:
            raise ValueError(f"num_groups must be at least 1, because a gradient needs a task; got {self.num_groups}.")
        for name in ("warmup", "threads"):
            if getattr(self, name) < 0:
                raise ValueError(f"{name} must not be negative; got {getattr(self, name)}.")

    def resolved(self: M) -> M:
        """The config with nothing left open: what is None follows from the kind of the outer optimizer."""
        return filled(self, outer_defaults(self.optimizer, {"lr": 1e-2, "schedule": "cosine"}))

    def suite(self) -> Suite:
        """The tasks to train and evaluate on."""
        return load_suite(self.tasks)

    def build(self, suite: Suite) -> MetaTrainer:
        """A trainer at step 0. The rule's initial weights are drawn from `seed`; the global generator is restored."""
        c = self.resolved()
        assert c.lr is not None and c.schedule is not None
        rule = bring(made(lambda: load(self.rule, **self.rule_args), self.seed), self.device)
        train_only(rule, self.only)
        estimator = self.make_estimator(rule, suite)
        pool = self.make_pool(estimator, theta_of(rule), self.seed, self.threads)
        optimizer = outer_optimizer(rule, c.optimizer, c.lr, c.steps)
        schedule = LambdaLR(optimizer, rate_factor(c.schedule, c.warmup, c.steps))
        return MetaTrainer(rule, pool, optimizer, schedule, self.max_grad_norm)

    def make_estimator(self, rule: UpdateRule, suite: Suite) -> GradientEstimator:
        """The estimator of the meta-gradient."""
        if self.stagger:
            self._warn_of_few_structures(suite)
        horizon = self.horizon[0] if len(self.horizon) == 1 else (self.horizon[0], self.horizon[1])
        problems = Problems(
            rule,
            suite.family,
            num_tasks=self.num_tasks,
            truncation=Truncation(self.window, horizon, self.stagger),
            meta_loss=MetaLoss(self.reduction, self.relative, self.bound, self.log, self.floor),
            order=self.order,
            compile=self.compile,
            recompute=self.recompute,
        )
        kinds: dict[str, Callable[..., GradientEstimator]] = {"es": ES, "pes": PES, "nres": NRES}
        if self.estimator == "backprop":
            estimator: GradientEstimator = Backprop(problems)
        else:
            estimator = kinds[self.estimator](problems, self.std, self.sign_delta)
        return estimator if self.num_groups == 1 else Grouped(estimator, self.num_groups)

    def _warn_of_few_structures(self, suite: Suite) -> None:
        if len({repr(suite.family.fix(seeded(i))) for i in range(8)}) > self.workers * self.num_groups:
            warnings.warn(
                "staggered tasks never end together, so each group of each worker keeps the structure (width, data "
                f"set, ...) that it drew first: {self.tasks} has several, and no more than "
                f"{self.workers * self.num_groups} will be seen.",
                stacklevel=4,
            )


def train_only(module: nn.Module, pattern: str) -> None:
    """Freeze parameters whose name does not match a regular expression from its start to its end.

    Those that were frozen before stay so.

    Raises:
        ValueError: none matches, or it is no regular expression.
    """
    names = [name for name, _ in module.named_parameters()]
    try:
        trained = {name for name in names if re.fullmatch(pattern, name)}
    except re.error as error:
        raise ValueError(f"only must be a regular expression, for names match it; got {pattern!r}: {error}.") from error
    if not trained:
        raise ValueError(
            f"only must match a parameter, so that something is trained: {', '.join(names)}; got {pattern!r}."
        )
    for name, parameter in module.named_parameters():
        if name not in trained:
            parameter.requires_grad_(False)


def filled(config: P, defaults: Mapping[str, Any]) -> P:
    """A config with defaults for what it leaves open, which is None."""
    missing = {name: value for name, value in defaults.items() if getattr(config, name) is None}
    return dataclasses.replace(config, **missing)


def to_plain(config: Any) -> dict[str, Any]:
    """A config as YAML can hold it."""
    plain = dataclasses.asdict(config)
    return {key: list(value) if isinstance(value, tuple) else value for key, value in plain.items()}


def read_config(path: str | Path, kind: type[C] = MetaTrainConfig) -> C:  # type: ignore[assignment]
    """A config from YAML; keys are the fields of its class.

    Arguments:
        kind: the class.

    Raises:
        FileNotFoundError: there is no such file.
        ValueError: not YAML, unknown keys, or values of the wrong kind.
    """
    path = Path(path)
    if not path.is_file():
        raise FileNotFoundError(f"a config must be an existing YAML file; there is none at {path}.")
    settings = read_yaml(read_file(path, MAX_CONFIG).decode(errors="replace"), str(path))
    kinds = get_type_hints(kind)
    unknown = sorted(set(map(str, settings)) - kinds.keys())
    if unknown:
        raise ValueError(f"unknown settings in {path}: {', '.join(unknown)}; known are {', '.join(sorted(kinds))}.")
    return kind(**{name: _checked(value, kinds[name], f"{name} in {path}") for name, value in settings.items()})


def _checked(value: Any, kind: Any, name: str) -> Any:
    """A value from YAML as the field of type `kind` holds it: whole numbers count as floats, lists as tuples."""
    options = get_args(kind)
    if type(None) in options and value is None:
        return None
    if type(None) in options and len(options) == 2:
        return _checked(value, next(option for option in options if option is not type(None)), name)
    if get_origin(kind) is Literal:
        fits = value in options
    elif get_origin(kind) is tuple:
        value = tuple(value) if isinstance(value, list | tuple) else (value,)
        fits = all(type(item) is options[0] for item in value)
    elif float in (kind, *options):
        value = float(value) if type(value) is int else value
        fits = isinstance(value, float)
    else:
        fits = type(value) is (get_origin(kind) or kind)
    if not fits:
        wanted = (
            f"one of {', '.join(options)}" if get_origin(kind) is Literal else str(kind) if options else kind.__name__
        )
        raise ValueError(f"{name} must be {wanted}; got {value!r}.")
    return value
