"""One training run of a learner as plain values, and what is built from them."""

from __future__ import annotations

import inspect
import warnings
from dataclasses import dataclass, field
from functools import partial
from typing import Annotated, Any, Literal

from torch import nn
from torch.optim.lr_scheduler import LambdaLR

from l2o.estimators import Episodic, GradientEstimator, MultiStepLoss, Reptile
from l2o.learners.adaptation import Adaptation
from l2o.load import is_untrained, load
from l2o.rules.base import UpdateRule
from l2o.training.config import MAPPING, filled
from l2o.training.episode_settings import OWN, SETTINGS
from l2o.training.episode_suites import EpisodeSuite, Shape, load_episodes
from l2o.training.meta_trainer import MetaTrainer, theta_of
from l2o.training.outer import outer_defaults, outer_optimizer, rate_factor
from l2o.training.pools import PoolConfig
from l2o.training.recipes import RECIPES, Given, Recipe
from l2o.training.warm_start import take_encoder, take_weights
from l2o.types import bring, made


@dataclass(frozen=True)
class LearnConfig(PoolConfig):
    """Train a learner on episodes. Settings that are None are those of the learner's paper.

    Arguments:
        learner: a name (see `l2o info`).
        data: a named source of episodes (see `l2o info`), a folder of pictures with a folder for each class, or
            `module:object`: a function of a Shape that returns an EpisodeSuite of your own.
        way: classes in an episode.
        shot: support examples of each class (1), or of regression: support points (10).
        query: query examples of each class.
        train_way: classes in a training episode, where they are others than the way.
        train_shot: support examples of each class there.
        train_query: query examples of each class there.
        start: a saved learner, or the folder of a run for its best one, whose slow weights this one starts from; None
            for fresh ones.
        encoder: a saved learner that embeds by the same network, whatever it does with embeddings, or the folder of a
            run for its best one, whose encoder's weights this one's encoder starts from; None for fresh ones.
        rule: the inner rule: a name (sgd, adam, lstm, ...) or a saved rule; None for the learner's own.
        rule_args: constructor arguments for a rule given by name, as YAML: '{lr: 0.1}'.
        learn_rule: whether the inner rule is trained along; None for what the learner does.
        inner_lr: rate of the learner's own rule.
        inner_steps: steps of the inner rule in training; 0 is the learner's feed-forward adaptation.
        test_steps: steps in evaluation.
        inner_batch: support rows of an inner step; None for all.
        order: full, first, truncated:n or implicit:n, see `l2o.learners.adapt`.
        multi_step: sum the query losses after every inner step, moving to the last one over so many outer steps;
            0 for the last one alone.
        norm: batch normalisation by the statistics of the batch at hand, always (`batch`, transductive), in evaluation
            by those of training episodes (`running`), or none.
        strided: convolutions of stride 2 in place of pooling.
        width: channels of the network's convolutions; None for its own.
        precision: float32 or bfloat16 for the network's convolutions.
        num_episodes: episodes of each worker in an outer step.
        batching: auto, loop, vmap or chunk:n, see `meta_grad`.
        optimizer: outer optimizer: a class of torch.optim, or an update rule by name ('default') or path.
        lr: outer learning rate; None for 1 with an update rule, else the learner's.
        schedule: of the outer learning rate: constant, cosine or linear, down to 0; None for constant with an update
            rule, else the learner's.
        warmup: outer steps of linear warm-up.
        max_grad_norm: limit on the norm of the meta-gradient; 0 for none; None for 0 with an update rule, else the
            learner's.
        steps: outer steps.
        seed: of everything; the same seed gives the same run.
        threads: CPU threads; 0 leaves torch's choice.
        evaluate_every: outer steps between evaluations on validation episodes.
        validation_episodes: episodes of such an evaluation.
        test_episodes: episodes of the final report.
        checkpoint_every: outer steps between checkpoints.
        compile: fuse batched meta-gradients with torch.compile.
        trace: record batched meta-gradients and play them back: faster for small networks, without a compiler.
        recompute: make inner steps again in the backward pass in place of storing them.
    """

    learner: str = "maml"
    data: str = "omniglot"
    way: int = 5
    shot: int | None = None
    query: int = 15
    train_way: int | None = None
    train_shot: int | None = None
    train_query: int | None = None
    start: str | None = None
    encoder: str | None = None
    rule: str | None = None
    rule_args: Annotated[dict[str, Any], MAPPING] = field(default_factory=dict)
    learn_rule: bool | None = None
    inner_lr: float | None = None
    inner_steps: int | None = None
    test_steps: int | None = None
    inner_batch: int | None = None
    order: str | None = None
    multi_step: int | None = None
    norm: Literal["batch", "running", "none"] | None = None
    strided: bool | None = None
    width: int | None = None
    precision: Literal["float32", "bfloat16"] = "float32"
    num_episodes: int | None = None
    batching: str = "auto"
    optimizer: str | None = None
    lr: float | None = None
    schedule: Literal["constant", "cosine", "linear"] | None = None
    warmup: int = 0
    max_grad_norm: float | None = None
    steps: int = 1000
    seed: int = 0
    threads: int = 0
    evaluate_every: int = 200
    validation_episodes: int = 200
    test_episodes: int = 1000
    checkpoint_every: int = 100
    compile: bool = False
    trace: bool = False
    recompute: bool = False

    def __post_init__(self) -> None:
        super().__post_init__()
        if self.learner not in RECIPES:
            raise ValueError(f"learner must be one of {', '.join(RECIPES)}; got {self.learner!r}.")
        for name in ("steps", "evaluate_every", "checkpoint_every", "validation_episodes", "test_episodes", "workers"):
            if getattr(self, name) < 1:
                raise ValueError(f"{name} must be at least 1; got {getattr(self, name)}.")
        for name in ("warmup", "threads"):
            if getattr(self, name) < 0:
                raise ValueError(f"{name} must not be negative; got {getattr(self, name)}.")
        for name in ("way", "shot", "query", "train_way", "train_shot", "train_query"):
            if getattr(self, name) is not None and getattr(self, name) < 1:
                raise ValueError(f"{name} must be at least 1, or an episode is empty; got {getattr(self, name)}.")
        if self.start is not None and self.encoder is not None:
            raise ValueError(
                "start has an encoder's weights too, so that there would be two of them; leave out one of --start "
                f"{self.start} --encoder {self.encoder}."
            )
        self._check_rule()

    def _check_rule(self) -> None:
        if self.rule is not None and self.inner_lr is not None:
            raise ValueError(
                "inner_lr is the rate of the learner's own rule; that of another is an argument of it, --rule-args "
                f"'{{lr: ...}}'; got --rule {self.rule} --inner-lr {self.inner_lr}."
            )
        if self.rule is None and self.rule_args:
            raise ValueError(f"rule_args need a rule that takes them (--rule); got {self.rule_args}.")
        if self.learn_rule and (self.order or "").startswith("implicit"):
            raise ValueError(
                f"a rule gets no gradient with order {self.order}, the implicit one; leave out one of both."
            )
        if self.learn_rule and self.recipe.estimator == "reptile":
            raise ValueError("a rule gets no gradient from Reptile, which moves weights only; leave out --learn-rule.")
        if (self.order or "").startswith("implicit") and self.learner in ("maml", "reptile"):
            raise ValueError(
                f"{self.learner} has no gradient with order {self.order}, because the end of a minimisation does not "
                "depend on where it begins; imaml is pulled back to where it began."
            )
        learned = self.recipe.learns_rule if self.learn_rule is None else self.learn_rule
        if self.rule is not None and not learned and is_untrained(self.rule):
            warnings.warn(
                f"the inner rule {self.rule} is a fresh one that nobody has trained, and will not be (--learn-rule "
                "True trains it along).",
                stacklevel=4,
            )

    @property
    def recipe(self) -> Recipe:
        """The learner's."""
        return RECIPES[self.learner]

    def resolved(self) -> LearnConfig:
        """The config with nothing left open: what is None follows from optimizer, data, recipe, or general defaults."""
        shot = SETTINGS.get(self.data, {}).get("shot", 1) if self.shot is None else self.shot
        defaults: dict[str, Any] = {
            "shot": shot,
            "train_way": self.way,
            "train_shot": shot,
            "train_query": self.query,
            "inner_lr": 0.01,
            "inner_steps": 0,
            "order": "full",
            "norm": "batch",
            "strided": False,
            "num_episodes": 4,
            "optimizer": "Adam",
            "lr": 1e-3,
            "schedule": "cosine",
            "max_grad_norm": 10.0,
            "multi_step": 0,
            "learn_rule": self.recipe.learns_rule,
        }
        own = OWN.get((self.data, self.learner), {})
        defaults |= {**self.recipe.settings, **SETTINGS.get(self.data, {}), **own}
        if self.rule is not None:
            del defaults["inner_lr"]
        if self.inner_steps is not None and self.test_steps is None:
            defaults["test_steps"] = self.inner_steps
        defaults.setdefault("test_steps", defaults["inner_steps"])
        return filled(self, outer_defaults(self.optimizer or defaults["optimizer"], defaults))

    def suite(self) -> EpisodeSuite:
        """The episodes to train and evaluate on."""
        c = self.resolved()
        assert c.shot is not None and c.train_way is not None
        assert c.train_shot is not None and c.train_query is not None
        shape = Shape(c.way, c.shot, c.query, c.train_way, c.train_shot, c.train_query)
        return load_episodes(c.data, shape)

    def adaptation(self, suite: EpisodeSuite) -> Adaptation:
        """The learner and its rule, fresh; initial weights are drawn from `seed`, the global generator is restored."""
        return made(lambda: self.fresh(suite), self.seed)

    def fresh(self, suite: EpisodeSuite) -> Adaptation:
        """The same with initial weights from the global generator."""
        c = self.resolved()
        assert c.inner_steps is not None and c.order is not None
        self._check_suite(suite)
        options = self._network_options(suite)
        way = c.way if c.way == c.train_way else None
        given = Given(
            partial(suite.network, **options),
            suite.outputs,
            way,
            c.inner_steps,
            options,
            inputs=suite.inputs,
            classifies=suite.classifies,
            rows=suite.rows or max(c.shot or 1, c.train_shot or 1) * (c.way if suite.classifies else 1),
        )
        learner = c.recipe.learner(given)
        if c.start is not None:
            take_weights(learner, c.start)
        if c.encoder is not None:
            take_encoder(learner, c.encoder)
        rule = self._rule(learner)
        made = Adaptation(learner, rule, c.inner_steps, c.order, c.inner_batch, c.recompute)
        if rule is not None and not c.learn_rule:
            rule.requires_grad_(False)
        return made

    def _check_suite(self, suite: EpisodeSuite) -> None:
        c = self.resolved()
        if c.recipe.classifies and not suite.classifies:
            raise ValueError(f"{c.learner} learns labels only; the answers of {c.data} are numbers.")
        if suite.classifies and not c.recipe.classifies and c.train_way != c.way:
            raise ValueError(
                f"train_way must be the way, because {c.learner} has an output for each class; got "
                f"{c.train_way} and {c.way}."
            )

    def _network_options(self, suite: EpisodeSuite) -> dict[str, Any]:
        """What is said of the network, as far as it can be said to the suite's."""
        c = self.resolved()
        options: dict[str, Any] = {"norm": c.norm, "strided": c.strided, "precision": c.precision}
        options |= {} if c.width is None else {"width": c.width}
        known = inspect.signature(suite.network).parameters
        takes_all = any(p.kind is inspect.Parameter.VAR_KEYWORD for p in known.values())
        own_width = c.learner == "relation" and suite.inputs is None
        if c.width is not None and not takes_all and "width" not in known and not own_width:
            raise ValueError(f"the network of {c.data} takes no width; got {c.width}.")
        return {name: value for name, value in options.items() if takes_all or name in known}

    def build(self, suite: EpisodeSuite, adaptation: nn.Module) -> MetaTrainer:
        """A trainer at step 0."""
        c = self.resolved()
        assert isinstance(adaptation, Adaptation) and c.optimizer is not None
        assert c.lr is not None and c.schedule is not None
        bring(adaptation, c.device)
        estimator, theta = self.make_estimator(adaptation, suite), theta_of(adaptation)
        pool = c.make_pool(estimator, theta, c.seed, c.threads)
        optimizer = outer_optimizer(adaptation, c.optimizer, c.lr, c.steps)
        schedule = LambdaLR(optimizer, rate_factor(c.schedule, c.warmup, c.steps, last=0.0))
        return MetaTrainer(adaptation, pool, optimizer, schedule, c.max_grad_norm or None)

    def make_estimator(self, adaptation: Adaptation, suite: EpisodeSuite) -> GradientEstimator:
        """The estimator of the meta-gradient."""
        c = self.resolved()
        assert c.num_episodes is not None
        if c.recipe.estimator == "reptile":
            return Reptile(adaptation, suite.train, c.num_episodes, c.batching)
        multi_step = MultiStepLoss(c.multi_step) if c.multi_step else None
        return Episodic(adaptation, suite.train, c.num_episodes, c.batching, c.compile, multi_step, c.trace)

    def _rule(self, learner: nn.Module) -> UpdateRule | None:
        c = self.resolved()
        if c.rule is not None:
            return load(c.rule, **c.rule_args)
        if c.recipe.rule is None:
            return None
        assert c.inner_lr is not None
        return c.recipe.rule(learner, c.inner_lr)  # type: ignore[arg-type]
