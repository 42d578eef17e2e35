"""Proposers of hyperparameters: by trial, by exchange, by meta-gradients; and those of a few values."""

import math
from dataclasses import replace

import pytest
import torch

from l2o.agents.environments import CartPole
from l2o.agents.factors import FACTORS, RECALLED
from l2o.agents.gate import Verdict
from l2o.agents.improve import Proposer
from l2o.agents.kind import Kind
from l2o.agents.living import NO_PLAN, Living
from l2o.agents.memory import Recalled, SkillMemory
from l2o.agents.population import Members, Population
from l2o.agents.ppo import PPO
from l2o.agents.proposers.choice import Choice
from l2o.agents.proposers.exchange import Exchange
from l2o.agents.proposers.gradients import Gradients
from l2o.agents.proposers.in_turn import InTurn
from l2o.agents.proposers.trials import Trials
from l2o.agents.spec import AgentSpec, Proposal, packed
from l2o.rules import Adam
from l2o.training.checkpoint import load_tree, save_tree
from l2o.types import seeded

KIND = Kind(CartPole(0.2, 50), (8,), algorithm=PPO(num_envs=4, num_steps=16, num_epochs=2), num_iterations=6)


class Nothing(SkillMemory):
    """No skills."""

    def __init__(self):
        pass

    def recall(self, kind, reach):
        return None


def agent(**factors):
    return AgentSpec.of(
        optimizer=packed(Adam(lr=3e-3)),
        hyperparameters=dict.fromkeys(FACTORS, 1.0) | factors,
        planner={"name": "none"},
        library={"reach": 0.0},
    )


LIVING = Living(Nothing())


TUNERS = {
    "trials": lambda: Trials(LIVING, [KIND], num_steps=2),
    "exchange": lambda: Exchange(LIVING, [KIND], num_families=1, num_members=4),
    "gradients": lambda: Gradients(LIVING, [KIND], num_lives=8),
}


def test_what_the_best_members_of_all_families_ended_with_is_proposed(monkeypatch):
    exchange, spec = Exchange(LIVING, [KIND], num_families=3, num_members=8), agent(learning_rate=0.5, clip=2.0)
    given = []

    def run(self, theta, num_families, num_iterations, values, generator):
        """Families that end as they began, where the smallest rates fare best in one, the largest in the others."""
        given.append(values)
        raw = {name: knob.raw(values[name]).repeat(num_families) for name, knob in self.knobs.items()}
        score = raw["learning_rate"].unflatten(0, (num_families, -1)) * torch.tensor([[1.0], [-1.0], [1.0]])
        return None, Members(raw, score.flatten(), torch.tensor(num_iterations))

    monkeypatch.setattr(Population, "run", run)
    value = exchange.propose(spec, seeded(0)).value
    rates = given[0]["learning_rate"]
    assert rates[0] == pytest.approx(0.5) and rates.min() < 0.5 < rates.max()  # one member begins as the agent is
    most, least = int(rates.argmax()), int(rates.argmin())
    for name, base in (("learning_rate", 1.0), ("clip", 0.2), ("value", 0.5)):
        x = given[0][name]
        assert value[name] == pytest.approx(float(x[most] ** 2 * x[least]) ** (1 / 3) / base, rel=1e-3), name
    assert value["entropy"] == 1.0  # that of the kind is 0


@pytest.mark.parametrize("name", TUNERS)
def test_tuners_learn_from_nothing_and_trials_from_skills_too(name, monkeypatch):
    seen, tuner = [], TUNERS[name]()
    for method in (Living.lifetimes, Living.scores):

        def watched(self, spec, *args, method=method):
            seen.append((spec["planner"], spec["library"], spec["optimizer"]))
            return method(self, spec, *args)

        monkeypatch.setattr(Living, method.__name__, watched)
    spec = agent().replaced("planner", {"name": "cem", "horizon": 2, "budget": 2}, 1)
    spec = spec.replaced("library", {"reach": 1.0}, 2)
    tuner.propose(spec, seeded(0))
    assert seen and all(planner == NO_PLAN and optimizer is spec["optimizer"] for planner, _, optimizer in seen)
    reaches = {library["reach"] for _, library, _ in seen}
    assert reaches == ({0.0, 1.0} if name == "trials" else {0.0})


class Known(Living):
    """Lives whose worth is known: the nearer the learning rate is to 8 times the kind's, the better."""

    def scores(self, spec, kind, generator, num, copies=1, factors=None):
        away = torch.log(factors["learning_rate"] / 8.0).abs()
        return 1.0 / (1.0 + away + 0.02 * torch.rand(num, generator=generator))


def told(trials, proposal, reason):
    trials.hear(proposal, Verdict(reason == "better", reason, 1.0, 20.0, 0.1, 64))


def test_trials_go_where_lives_are_better_and_go_on_from_what_is_undecided():
    trials, spec = Trials(Known(Nothing()), [KIND, replace(KIND, hidden=(12,))]), agent()
    rates = []
    for i in range(5):
        proposal = trials.propose(spec, seeded(i))
        rates.append(proposal.value["learning_rate"])
        told(trials, proposal, "undecided")
    assert rates[0] > 1.5 and rates[-1] == pytest.approx(8.0, rel=0.3)
    told(trials, proposal, "worse")
    assert trials.propose(spec, seeded(0)).value["learning_rate"] == pytest.approx(rates[0])


def test_trials_begin_from_what_others_changed_and_are_resumed(tmp_path):
    trials, spec = Trials(Known(Nothing()), [KIND]), agent()
    told(trials, trials.propose(spec, seeded(0)), "undecided")
    again = Trials(Known(Nothing()), [KIND])
    save_tree(trials.state_dict(), tmp_path / "state")
    again.load_state_dict(load_tree(tmp_path / "state"))
    proposal = trials.propose(spec, seeded(1))
    assert again.propose(spec, seeded(1)).value == proposal.value
    optimized = spec.replaced("optimizer", packed(Adam(lr=1e-2)), 1)
    told(trials, proposal, "undecided")
    fresh = Trials(Known(Nothing()), [KIND]).propose(optimized, seeded(2)).value
    assert trials.propose(optimized, seeded(2)).value == fresh
    for reason, changed in (("undecided", agent(entropy=2.0)), ("better", agent(**proposal.value))):
        told(again, again.propose(spec, seeded(1)), reason)
        fresh = Trials(Known(Nothing()), [KIND]).propose(changed, seeded(2)).value
        assert again.propose(changed, seeded(2)).value == fresh


def test_each_change_of_trials_lives_its_own_lives():
    noise = torch.randn(3, len(FACTORS), generator=seeded(0))
    value = dict.fromkeys(FACTORS, 1.0)
    trials = Trials(LIVING, [KIND], num_lives=5, spread=0.8)
    together = trials._scores(agent(), value, noise, seeded(1))
    alone = [trials._scores(agent(), value, change[None], seeded(1)) for change in noise]
    assert len(set(together.tolist())) == 3
    torch.testing.assert_close(together, torch.cat(alone))


def test_lives_with_a_recalled_skill_have_a_learning_rate_of_their_own():
    class Remembers(Nothing):
        def recall(self, kind, reach):
            return Recalled(1, kind.policy.init(seeded(0))) if reach > 0 else None

    living = Living(Remembers())

    def scores(reach, **factors):
        spec = agent(**factors).replaced("library", {"reach": reach}, 1)
        return living.scores(spec, KIND, seeded(0), 4).tolist()

    assert Trials(living, [KIND]).propose(agent(), seeded(0)).value[RECALLED] == 1.0
    spec = agent().replaced("library", {"reach": 1.0}, 1)
    assert Trials(living, [KIND]).propose(spec, seeded(0)).value[RECALLED] != 1.0
    assert scores(0.0, recalled=5.0) == scores(0.0)
    assert scores(1.0, recalled=5.0) == scores(1.0, learning_rate=5.0) != scores(1.0)


def test_lives_that_are_not_finite_are_the_worst():
    class Broken(Known):
        def scores(self, spec, kind, generator, num, copies=1, factors=None):
            scores = super().scores(spec, kind, generator, num, copies, factors)
            return torch.where(factors["learning_rate"] > 1.2, math.nan, scores)

    value = Trials(Broken(Nothing()), [KIND]).propose(agent(), seeded(0)).value
    assert 0.5 < value["learning_rate"] < 1.2


def test_an_exchange_lives_and_proposes_factors_for_everything():
    value = Exchange(LIVING, [KIND], num_families=1, num_members=4).propose(agent(), seeded(0)).value
    assert set(value) == set(FACTORS) and all(math.isfinite(x) and x > 0 for x in value.values())


def test_a_rate_that_is_far_too_small_is_raised_by_meta_gradients():
    spec, tuner = agent(learning_rate=0.1), Gradients(LIVING, [KIND], num_lives=8)
    for i in range(2):  # as if the gate took them
        proposal = tuner.propose(spec, seeded(i))
        assert set(proposal.value) == set(FACTORS) and proposal.part == "hyperparameters"
        assert all(math.isfinite(x) and x > 0 for x in proposal.value.values())
        spec = spec.replaced("hyperparameters", proposal.value, i + 1)
    assert spec["hyperparameters"]["learning_rate"] > 0.12


def judged(gain, accepted=False):
    return Verdict(accepted, "better" if accepted else "undecided", 1.0, 1.0, gain, 64)


def test_a_choice_finds_the_best_of_its_options_and_never_proposes_the_present():
    worth = {"a": 0.0, "b": 0.3, "c": 0.1, "d": -0.2}
    chosen = []
    choice = Choice("letter", [{"name": name} for name in worth])
    spec, generator = AgentSpec.of(letter={"name": "a"}), seeded(0)
    for i in range(30):
        proposal = choice.propose(spec, generator)
        present, new = spec["letter"]["name"], proposal.value["name"]
        assert new != present
        chosen.append(new)
        gain = worth[new] - worth[present] + 0.05 * float(torch.randn((), generator=generator))
        accepted = worth[new] > worth[present]
        choice.hear(proposal, judged(gain, accepted))
        spec = spec.replaced("letter", proposal.value, i + 1) if accepted else spec
    assert spec["letter"]["name"] == "b"
    assert set(chosen[:4]) >= {"b", "c", "d"}  # all are tried first
    assert chosen[8:].count("c") > chosen[8:].count("d")  # then the best of those that are left


def test_a_choice_goes_on_where_it_was():
    choice, spec = Choice("x", [{"a": 0}, {"a": 1}, {"a": 2}, {"a": 3}]), AgentSpec.of(x={"a": 1})
    for i in range(4):
        choice.hear(choice.propose(spec, seeded(i)), judged(0.1 * i))
    again = Choice("x", choice.options)
    again.load_state_dict(choice.state_dict())
    for i in range(8):
        assert again.propose(spec, seeded(i)) == choice.propose(spec, seeded(i))


def test_a_choice_forgets_its_gains_when_another_changed_the_part():
    choice, spec = Choice("x", [{"a": 0}, {"a": 1}, {"a": 2}]), AgentSpec.of(x={"a": 0})
    proposal = choice.propose(spec, seeded(0))
    choice.hear(proposal, judged(0.5, accepted=True))
    spec = spec.replaced("x", proposal.value, 1)
    choice.hear(choice.propose(spec, seeded(1)), judged(0.1))
    assert choice.level == 0.5  # its own
    for version in (2, 3):  # one learned value, then another
        choice.level = 0.5
        choice.propose(spec.replaced("x", {"a": f"learned {version}"}, version), seeded(2))
        assert choice.level == 0.0 and torch.equal(choice.pulls[0], choice.bandit.init(1)[0])


class Named(Proposer):
    part = "x"

    def __init__(self, name):
        self.name, self.heard = name, []

    def propose(self, spec, generator):
        return Proposal("x", self.name)

    def hear(self, proposal, verdict):
        self.heard.append(proposal.value)

    def state_dict(self):
        return {"heard": self.heard}

    def load_state_dict(self, state):
        self.heard = state["heard"]


def test_proposers_take_turns_and_hear_of_their_own(tmp_path):
    both = InTurn([Named("a"), Named("b")])
    for _ in range(3):
        proposal = both.propose(AgentSpec(), seeded(0))
        both.hear(proposal, judged(0.0))
    assert [one.heard for one in both.proposers] == [["a", "a"], ["b"]]
    again = InTurn([Named("a"), Named("b")])
    again.load_state_dict(both.state_dict())
    assert again.propose(AgentSpec(), seeded(0)).value == "b" and again.proposers[0].heard == ["a", "a"]
    other = Named("c")
    other.part = "y"
    with pytest.raises(ValueError, match="one part"):
        InTurn([Named("a"), other])
