"""Policy gradients as a task: what a rule learns on that is to train agents (Goldie et al., 2024, section 4)."""

from __future__ import annotations

from dataclasses import dataclass

import torch
from jaxtyping import Float
from torch import Generator, Tensor

from l2o.agents.advantages import gae, normalised
from l2o.agents.environments.base import Environment, World, spread_over
from l2o.agents.episodes import Noise, Rollout, draw, first_returns, play
from l2o.agents.losses import Hyperparameters, a2c_loss
from l2o.agents.policy import ActorCritic, Policy
from l2o.tasks.base import Task, TaskFamily
from l2o.tasks.nets import Activation
from l2o.tasks.supervised import draw_structure
from l2o.types import Batch, Params


@dataclass(frozen=True)
class PolicyTask(Task):
    """Train an actor and a critic in one world; every batch is the noise of fresh episodes.

    The VALUE of the loss is the share of the return that is missed, in [0, 1], averaged over episodes from their first
    step to their end:

        (best - return) / (best - worst),

    best and worst by the environment's `return_range`. Its GRADIENT is that of `a2c_loss` on all steps made (where an
    episode ends early another one begins), with generalised advantages: an estimate, whose own differences do not tell
    it. So for meta-training by evolution strategies, or by backpropagation with `order="first"`.

    Arguments:
        environment: its structure.
        world: its physics or layout.
        policy: what is trained.
        num_episodes: played side by side.
        hyperparameters: discount, decay, and weights; rewards are scaled so that values are of order 1, times its
            `reward_scale`. Learning rate and clipping are the rule's affair.

    Raises:
        ValueError: the environment is a simulator, or nobody knows how much can be reached in it.
    """

    environment: Environment
    world: World
    policy: Policy
    num_episodes: int = 16
    hyperparameters: Hyperparameters = Hyperparameters()  # noqa: RUF009 (immutable)

    def __post_init__(self) -> None:
        low, high = self.environment.return_range
        if not self.environment.is_pure or not low < high or not high - low < float("inf"):
            raise ValueError(
                "a task needs an environment of pure tensors with a finite return_range, because its loss runs under "
                f"vmap and is a share of that range; got {self.environment!r} with {(low, high)}."
            )
        if self.num_episodes < 1:
            raise ValueError(f"num_episodes must be at least 1; got {self.num_episodes}.")

    def init(self, generator: Generator) -> Params:
        return self.policy.init(generator)

    def sample_batch(self, generator: Generator) -> Batch:
        return Noise(*(part[0] for part in self.sample_batches(generator, 1)))

    def sample_batches(self, generator: Generator, num: int) -> Batch:
        steps = self.environment.max_steps + 1  # the first one's resets begin
        return draw(self.environment, generator, num, steps, self.num_episodes)

    def loss(self, params: Params, batch: Batch) -> Float[Tensor, ""]:
        with torch.no_grad():
            steps = self.play({name: p.detach() for name, p in params.items()}, batch)
            missed = self.missed(steps)
        surrogate = self._surrogate(params, steps)
        return surrogate + (missed - surrogate).detach()

    def play(self, params: Params, noise: Noise) -> Rollout:
        """Steps of all episodes, (max_steps, num_episodes)."""
        world = spread_over(self.world, self.num_episodes)
        return play(self.environment, world, lambda seen, u: self.policy.act(params, seen, u), noise)

    def missed(self, steps: Rollout) -> Float[Tensor, ""]:
        """The share of the possible return that the first episode of each place did not reach, on average."""
        low, high = self.environment.return_range
        return (high - first_returns(steps).mean()) / (high - low)

    def _surrogate(self, params: Params, steps: Rollout) -> Float[Tensor, ""]:
        hyper = self.hyperparameters
        with torch.no_grad():
            fixed = {name: p.detach() for name, p in params.items()}
            next_value = self.policy.value(fixed, steps.next_observation)
            value = self.policy.value(fixed, steps.observation)
            found = gae(
                self._scale() * steps.reward,
                value,
                next_value,
                steps.terminated,
                steps.done,
                hyper.discount,
                hyper.decay,
            )
        distribution, value = self.policy.forward(params, steps.observation)
        log_prob, entropy = distribution.log_prob(steps.action), distribution.entropy()
        advantage = normalised(found.advantage)
        return a2c_loss(log_prob, advantage, entropy, value, found.target, hyper.entropy, hyper.value).total

    def _scale(self) -> float | Tensor:
        """Of rewards: what can be reached in a discount's reach of steps becomes 1."""
        low, high = self.environment.return_range
        steps = self.environment.max_steps
        reach = min(1.0, 1.0 / (steps * max(1e-8, 1.0 - float(self.hyperparameters.discount))))
        return self.hyperparameters.reward_scale / ((high - low) * reach)


@dataclass(frozen=True)
class PolicyFamily(TaskFamily):
    """Random worlds, and agents of several sizes. Every tuple of options is a structural choice that `fix` makes.

    Arguments:
        environments: families of worlds.
        hidden: widths; all hidden layers have the same.
        depth: numbers of hidden layers.
        activation: nonlinearities.
        num_episodes: episodes in a batch.
        shared: whether actor and critic have hidden layers in common.
        hyperparameters: see `PolicyTask`.
    """

    environments: tuple[Environment, ...]
    hidden: tuple[int, ...] = (16,)
    depth: tuple[int, ...] = (1,)
    activation: tuple[Activation, ...] = ("tanh",)
    num_episodes: tuple[int, ...] = (16,)
    shared: tuple[bool, ...] = (False,)
    hyperparameters: Hyperparameters = Hyperparameters()  # noqa: RUF009 (immutable)

    def fix(self, generator: Generator) -> PolicyFamily:
        return draw_structure(
            self, generator, "environments", "hidden", "depth", "activation", "num_episodes", "shared"
        )

    def sample(self, generator: Generator) -> PolicyTask:
        fixed = self.fix(generator)
        environment = fixed.environments[0]
        policy = ActorCritic.of(environment, fixed.hidden * fixed.depth[0], fixed.activation[0], fixed.shared[0])
        world = environment.sample(generator)
        return PolicyTask(environment, world, policy, fixed.num_episodes[0], fixed.hyperparameters)
