"""Meta-train an update rule on whole lives of agents: `l2o agent train`."""

from __future__ import annotations

import contextlib
import sys
from collections.abc import Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import Annotated, Any, Literal

from torch import nn
from torch.optim.lr_scheduler import LambdaLR

from l2o.agents.kind import Kind
from l2o.agents.lifetime_es import LifetimeES
from l2o.agents.suites import lives
from l2o.load import load, save
from l2o.rules.base import UpdateRule
from l2o.training.config import MAPPING, filled, to_plain, train_only
from l2o.training.meta_trainer import MetaTrainer, theta_of
from l2o.training.outer import outer_defaults, outer_optimizer, rate_factor
from l2o.training.pools import PoolConfig
from l2o.training.run import RunDirectory, meta_train
from l2o.types import made, seeded


@dataclass(frozen=True)
class LivesConfig(PoolConfig):
    """Meta-train an update rule on whole lives of agents, by evolution strategies.

    Arguments:
        rule: what to train: a name, or a saved file to go on from.
        rule_args: constructor arguments for a rule given by name, as YAML.
        only: train parameters with such names only (a regular expression).
        lives: a named suite of kinds of lives.
        num_pairs: perturbations of an estimate.
        num_lives: lives for each theta of a pair.
        std: standard deviation of perturbations.
        optimizer: outer optimizer: a class of torch.optim, or an update rule by name ('default') or path.
        lr: outer learning rate; None for 1 with an update rule, else 0.04.
        schedule: of the outer learning rate: constant, or cosine to a tenth; None for constant with an update rule,
            else cosine.
        max_grad_norm: limit on the norm of the meta-gradient.
        steps: outer steps.
        seed: of everything.
        threads: CPU threads; 0 leaves torch's choice.
        evaluate_every: outer steps between held-out evaluations.
        checkpoint_every: outer steps between checkpoints.
        held_out: lives of each held-out kind in an evaluation.
    """

    rule: str = "learnedmuon"
    rule_args: Annotated[dict[str, Any], MAPPING] = field(default_factory=dict)
    only: str = ".*"
    lives: str = "ppo"
    num_pairs: int = 12
    num_lives: int = 4
    std: float = 0.1
    optimizer: str = "Adam"
    lr: float | None = None
    schedule: Literal["constant", "cosine"] | None = None
    max_grad_norm: float | None = None
    steps: int = 45
    seed: int = 0
    threads: int = 0
    evaluate_every: int = 15
    checkpoint_every: int = 1
    held_out: int = 64

    def __post_init__(self) -> None:
        super().__post_init__()
        for name in ("steps", "evaluate_every", "checkpoint_every", "held_out"):
            if getattr(self, name) < 1:
                raise ValueError(f"{name} must be at least 1; got {getattr(self, name)}.")

    def resolved(self) -> LivesConfig:
        """The config with nothing left open: what is None follows from the kind of the outer optimizer."""
        return filled(self, outer_defaults(self.optimizer, {"lr": 0.04, "schedule": "cosine"}))

    def fresh(self) -> UpdateRule:
        """The rule at step 0; its initial weights are drawn from `seed`."""
        rule: UpdateRule = made(lambda: load(self.rule, **self.rule_args), self.seed)
        train_only(rule, self.only)
        return rule

    def build(self) -> MetaTrainer:
        """A trainer at step 0."""
        c, rule, suite = self.resolved(), self.fresh(), lives(self.lives)
        assert c.lr is not None and c.schedule is not None
        estimator = LifetimeES(rule, tuple(suite.train.values()), self.num_pairs, self.num_lives, self.std)
        pool = self.make_pool(estimator, theta_of(rule), self.seed, self.threads)
        optimizer = outer_optimizer(rule, c.optimizer, c.lr, c.steps)
        schedule = LambdaLR(optimizer, rate_factor(c.schedule, 0, c.steps))
        return MetaTrainer(rule, pool, optimizer, schedule, self.max_grad_norm)


def train(config: LivesConfig, folder: Path) -> dict[str, float]:
    """Meta-train as configured, from the folder's newest checkpoint if it has one; returns the last scores."""
    config = config.resolved()
    directory, plain = RunDirectory(folder), to_plain(config)
    directory.write_config(plain)
    held_out = lives(config.lives).validation
    trainer = config.build()
    with contextlib.closing(trainer.pool):
        return meta_train(
            trainer,
            config.steps,
            directory,
            save=save,
            evaluator=lambda rule: (missed(rule, held_out, config.held_out), None),
            evaluate_every=config.evaluate_every,
            checkpoint_every=config.checkpoint_every,
            hyperparameters=plain,
            show_progress=sys.stdout.isatty(),
        )


def missed(rule: nn.Module, kinds: Mapping[str, Kind], num: int, seed: int = 1000) -> dict[str, float]:
    """The part of the possible return that lives with a rule miss: of each kind, and `score`, the mean over kinds."""
    assert isinstance(rule, UpdateRule)
    found = {f"missed/{name}": 1.0 - float(kind.scores(rule, seeded(seed), num).mean()) for name, kind in kinds.items()}
    return {"score": sum(found.values()) / len(found)} | found
