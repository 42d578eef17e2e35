"""An agent put together: who proposes changes of its parts, and what the gate judges each part by."""

from __future__ import annotations

from collections.abc import Sequence
from functools import partial
from typing import Any

from l2o.agents.config import AgentConfig
from l2o.agents.improve import Assess, Door, Proposer
from l2o.agents.kind import Kind
from l2o.agents.lifetime_es import LifetimeES
from l2o.agents.lineage import Lineage
from l2o.agents.living import NO_PLAN, Living, policy_scores
from l2o.agents.planning.model import can_plan
from l2o.agents.practice import Exercise
from l2o.agents.proposers.choice import Choice
from l2o.agents.proposers.choosing import OPTIONS, ChooserLearning, chooser_scores
from l2o.agents.proposers.exchange import Exchange
from l2o.agents.proposers.gradients import Gradients
from l2o.agents.proposers.in_turn import InTurn
from l2o.agents.proposers.recursion import Driver, Island, Recursion
from l2o.agents.proposers.trials import Trials
from l2o.agents.skills.skill_graph import SkillGraph
from l2o.agents.suites import LifeSuite
from l2o.distributed.pool import WorkerPool
from l2o.types import Theta

PLANS: list[dict[str, Any]] = [
    NO_PLAN,
    {"name": "cem", "horizon": 4, "budget": 8},
    {"name": "cem", "horizon": 8, "budget": 8},
    {"name": "gradient", "horizon": 4, "budget": 4},
]
"""Planners that are tried."""

REACHES: list[dict[str, Any]] = [{"reach": reach} for reach in (0.0, 0.3, 1.0, 3.0)]
"""How near a skill must be to begin with it, in units of `l2o.agents.memory.descriptor`."""


def proposers_of(config: AgentConfig, suite: LifeSuite, living: Living, seed: int) -> dict[str, Proposer]:
    """Who proposes changes, by part; nobody for parts that are frozen."""
    kinds = tuple(suite.train.values())
    found: dict[str, Proposer] = {}
    if config.tune:
        tuners = (Trials(living, kinds), Gradients(living, kinds), Exchange(living, kinds))
        found["hyperparameters"] = InTurn(tuners)
    if config.recurse:
        found["optimizer"] = Recursion(config.learned_rule(), partial(_islands, config, kinds))
    if config.choose:
        found["chooser"] = InTurn((ChooserLearning(graph_of(kinds), seed), Choice("chooser", OPTIONS)))
    if config.plan and any(can_plan(kind.environment) for kind in suite.validation.values()):
        found["planner"] = Choice("planner", PLANS)
    if config.recall:
        found["library"] = Choice("library", REACHES)
    return found


def door_of(
    config: AgentConfig, suite: LifeSuite, lineage: Lineage, living: Living, exercises: Sequence[Exercise]
) -> Door:
    """The gate of all parts: policies are judged in their exercise, planners where one can plan, choosers on simulated
    learners, everything else on whole lives of held-out kinds."""
    kinds = tuple(suite.validation.values())
    graph = graph_of(tuple(suite.train.values()))

    def lives(kinds: tuple[Kind, ...]) -> Assess:
        return lambda spec, generator, num: living.scores_of(spec, kinds, generator, num)

    assess: dict[str, Assess] = {one.part: partial(policy_scores, one) for one in exercises}
    assess["chooser"] = lambda spec, generator, num: chooser_scores(spec["chooser"], graph, generator, num)
    assess["planner"] = lives(tuple(kind for kind in kinds if can_plan(kind.environment)))
    return Door(config.gate(), lineage, lives(kinds), assess)


def graph_of(kinds: Sequence[Kind]) -> SkillGraph:
    """Simulated learners with as many skills as the agent."""
    size = max(2, len(kinds))
    return SkillGraph(size, budget=20.0 * size)


def _islands(config: AgentConfig, kinds: tuple[Kind, ...], driver: Driver, theta: Theta) -> WorkerPool:
    """Islands whose steps one driver takes; their estimator trains a rule of its own.

    The rule learns on lives that begin with fresh weights and without a planner, at a third to three times each kind's
    own rate: it is to train anything, and to bear a rate that is tuned.
    """
    estimator = LifetimeES(config.learned_rule(), kinds, config.num_pairs, config.num_lives, config.std, rates=3.0)
    lr = config.outer_lr if driver == "adam" else config.self_lr
    island = Island(estimator, driver, lr, spread=2.0, num_steps=config.outer_steps)
    seed = config.seed + (7919 if driver == "adam" else 104_729)
    return config.make_pool(island, theta, seed, config.threads)
