"""Monte Carlo tree search over discrete actions, a tree for every lane, all grown at once."""

from __future__ import annotations

from dataclasses import dataclass
from typing import NamedTuple

import torch
from jaxtyping import Float, Int
from torch import Generator, Tensor

from l2o.agents.environments.base import Discrete, Environment, State, World


class Search(NamedTuple):
    """What a search found: visits and mean returns of the root's actions."""

    visits: Float[Tensor, "lanes actions"]
    value: Float[Tensor, "lanes actions"]

    @property
    def action(self) -> Int[Tensor, " lanes"]:
        """The most visited one; of equals that with the larger mean return."""
        value = self.value.nan_to_num(0.0)
        low, high = value.amin(dim=-1, keepdim=True), value.amax(dim=-1, keepdim=True)
        return (self.visits + 0.5 * (value - low) / (high - low).clamp(min=1e-8)).argmax(dim=-1)


class _Tree(NamedTuple):
    """Nodes of every lane; node 0 is the root. `state` has axes (lanes, nodes, ...)."""

    state: State
    child: Int[Tensor, "lanes nodes actions"]
    reward: Float[Tensor, "lanes nodes actions"]
    visits: Float[Tensor, "lanes nodes actions"]
    total: Float[Tensor, "lanes nodes actions"]
    ended: Float[Tensor, "lanes nodes"]


@dataclass(frozen=True)
class MCTS:
    """UCT (Kocsis and Szepesvari, 2006): go down by upper confidence bounds, add a node, play at random from there.

    Chances of the environment are at their middle, as in a model that knows only what is usual; returns of a lane are
    brought to [0, 1] by the least and the largest that it met.

    Arguments:
        exploration: factor on the bounds.
        depth: of the tree.
        rollout: random steps beyond a new node.
        discount: of rewards to come, a step.
    """

    exploration: float = 1.0
    depth: int = 12
    rollout: int = 8
    discount: float = 0.97

    def __post_init__(self) -> None:
        if self.depth < 1 or self.rollout < 0 or not (self.exploration > 0 and 0 < self.discount <= 1):
            raise ValueError(
                "a search needs depth, exploration > 0 and discount in (0, 1]; got "
                f"depth={self.depth}, rollout={self.rollout}, {self.exploration}, {self.discount}."
            )

    @torch.no_grad()
    def plan(self, model: Environment, world: World, state: State, budget: int, generator: Generator) -> Search:
        """Grow a tree in every lane.

        Arguments:
            model: pure, with discrete actions.
            world, state: of each lane.
            budget: nodes to add.
        """
        space = model.action_space
        if not isinstance(space, Discrete) or not model.is_pure or budget < 1:
            raise ValueError(
                "a search needs a pure environment with discrete actions, because it goes back to states, and a node; "
                f"got {model!r}, budget={budget}."
            )
        lanes = len(next(iter(state.values())))
        tree = _planted(state, lanes, budget + 1, space.num)
        low, high = torch.full((lanes,), torch.inf), torch.full((lanes,), -torch.inf)
        for i in range(1, budget + 1):
            path, value = self._grow(model, world, tree, i, low, high, generator)
            low, high = self._credit(tree, path, value, low, high)
        value = tree.total[:, 0] / tree.visits[:, 0]
        return Search(tree.visits[:, 0], value)

    def _grow(
        self,
        model: Environment,
        world: World,
        tree: _Tree,
        new: int,
        low: Tensor,
        high: Tensor,
        generator: Generator,
    ) -> tuple[list[tuple[Tensor, Tensor, Tensor]], Tensor]:
        """Down to a leaf, which becomes node `new`; (node, action, whether it counts) of each step, and the value."""
        lanes = len(low)
        lane, node = torch.arange(lanes), torch.zeros(lanes, dtype=torch.int64)
        going, path, value = torch.ones(lanes, dtype=torch.bool), [], torch.zeros(lanes)
        for _ in range(self.depth):
            going = going & ~tree.ended[lane, node].bool()
            if not going.any():
                break
            action = self._upper(tree, lane, node, low, high, generator)
            path.append((node, action, going))
            child = tree.child[lane, node, action]
            fresh = going & (child < 0)
            if fresh.any():
                value = torch.where(fresh, self._expand(model, world, tree, new, node, action, fresh, generator), value)
            going = going & (child >= 0)
            node = torch.where(going, child, node)
        return path, value

    def _upper(
        self, tree: _Tree, lane: Tensor, node: Tensor, low: Tensor, high: Tensor, generator: Generator
    ) -> Int[Tensor, " lanes"]:
        """The action with the largest upper confidence bound, untried ones first, in random order."""
        visits, total = tree.visits[lane, node], tree.total[lane, node]
        span = (high - low).clamp(min=1e-8).unsqueeze(-1)
        mean = ((total / visits.clamp(min=1.0)) - low.unsqueeze(-1)) / span
        bound = mean + self.exploration * (visits.sum(-1, keepdim=True).clamp(min=1.0).log() / visits).sqrt()
        chance = torch.rand(visits.shape, generator=generator)
        return torch.where(visits == 0, 1e9 * (1.0 + chance), bound + 1e-6 * chance).argmax(dim=-1)

    def _expand(
        self,
        model: Environment,
        world: World,
        tree: _Tree,
        new: int,
        node: Tensor,
        action: Tensor,
        fresh: Tensor,
        generator: Generator,
    ) -> Float[Tensor, " lanes"]:
        """Add a node where `fresh`; the discounted return of random play from it."""
        lanes = len(node)
        lane, chance = torch.arange(lanes), torch.full((lanes, model.step_noise), 0.5)
        before = {name: x[lane, node] for name, x in tree.state.items()}
        state, reward, ended = model.step(world, before, action, chance)
        for name, x in tree.state.items():
            x[fresh, new] = state[name][fresh]
        tree.child[lane[fresh], node[fresh], action[fresh]] = new
        tree.reward[lane[fresh], node[fresh], action[fresh]] = reward[fresh]
        tree.ended[fresh, new] = ended[fresh].to(tree.ended)
        total, factor, over = torch.zeros(lanes), 1.0, ended
        num = tree.visits.shape[-1]
        for _ in range(self.rollout):
            guess = torch.randint(num, (lanes,), generator=generator)
            state, reward, ended = model.step(world, state, guess, chance)
            total = total + torch.where(over, 0.0, factor * reward)
            over, factor = over | ended, factor * self.discount
        return total

    def _credit(
        self, tree: _Tree, path: list[tuple[Tensor, Tensor, Tensor]], value: Tensor, low: Tensor, high: Tensor
    ) -> tuple[Tensor, Tensor]:
        """Returns, from the leaf up to the root."""
        lane = torch.arange(len(value))
        for node, action, counts in reversed(path):
            value = torch.where(counts, tree.reward[lane, node, action] + self.discount * value, value)
            tree.visits[lane[counts], node[counts], action[counts]] += 1.0
            tree.total[lane[counts], node[counts], action[counts]] += value[counts]
            low = torch.where(counts, torch.minimum(low, value), low)
            high = torch.where(counts, torch.maximum(high, value), high)
        return low, high


def _planted(state: State, lanes: int, nodes: int, actions: int) -> _Tree:
    """A root alone."""
    states = {}
    for name, x in state.items():
        states[name] = x.unsqueeze(1).repeat(1, nodes, *[1] * (x.ndim - 1))
    zeros = torch.zeros(lanes, nodes, actions)
    return _Tree(
        states,
        torch.full((lanes, nodes, actions), -1, dtype=torch.int64),
        zeros,
        zeros.clone(),
        zeros.clone(),
        torch.zeros(lanes, nodes),
    )
