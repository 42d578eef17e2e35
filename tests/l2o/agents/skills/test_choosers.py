import pytest
import torch

from l2o.agents.skills.chooser_training import ChooserTraining, _rewards
from l2o.agents.skills.choosers import BareProgress, LearningProgress, Uniform, _positive_part
from l2o.agents.skills.curriculum import lifetimes
from l2o.agents.skills.learned_chooser import LearnedChooser, features
from l2o.agents.skills.record import FAST, SLOW, Practice, Record
from l2o.agents.skills.skill_graph import SkillGraph
from l2o.load import load, save
from l2o.types import seeded

SMALL = SkillGraph(size=4, budget=30.0)
CHOOSERS = {
    "uniform": Uniform(),
    "progress": LearningProgress(),
    "absolute": LearningProgress(absolute=True),
    "bare": BareProgress(),
    "learned": LearnedChooser(hidden_size=4),
}


def practised(outcomes, num_skills=2) -> Record:
    """One lane after practices (skill, trials, successes)."""
    record = Record.empty(1, num_skills)
    for i, (skill, trials, successes) in enumerate(outcomes):
        practice = Practice(*(torch.tensor([float(x)]) for x in (trials, successes, 1)))
        record = record.updated(torch.tensor([skill]), practice, torch.tensor([i / 100]))
    return record


def test_a_record_is_the_posterior_of_what_was_seen():
    record = practised([(0, 1, 1), (0, 1, 0), (1, 4, 3)])
    assert record.trials[0, 0, FAST] == pytest.approx(1.7) and record.successes[0, 0, FAST] == pytest.approx(0.7)
    assert record.rate()[0, 1].tolist() == pytest.approx([3.5 / 5.0] * 3)
    beta = torch.distributions.Beta(torch.tensor(3.5), torch.tensor(1.5))
    assert record.variance()[0, 1, SLOW] == pytest.approx(float(beta.variance))
    assert record.practices.tolist() == [[2.0, 1.0]] and record.since.tolist() == [[1.0, 0.0]]
    assert record.known[0, 0] == pytest.approx(1.2 / 2.7) and record.spent.tolist() == [pytest.approx(0.02)]


def test_chance_does_not_look_like_progress_but_rising_success_does():
    outcomes = torch.rand(60, generator=seeded(0)) < 0.5
    chance = [(0, 1, int(x)) for x in outcomes]
    rising = [(1, 1, int(i >= 20)) for i in range(26)]
    progress = LearningProgress().progress(practised(chance + rising))[0]
    assert progress[1] > 2.0 * progress[0]
    untried = LearningProgress().progress(practised(chance))[0]
    assert untried[1] > untried[0]
    d, s = 0.3, 0.2
    numbers = d + s * torch.randn(100_000, generator=seeded(0))
    rate = torch.tensor([0.2, 0.5, 0.5])
    record = practised([])
    known = record._replace(trials=torch.full((1, 2, 3), 1e9), successes=1e9 * rate[[1, 0, 0]].expand(1, 2, 3))
    assert LearningProgress().progress(known)[0, 0] == pytest.approx(0.3, abs=1e-3)
    assert float(_positive_part(torch.tensor(d), torch.tensor(s))) == pytest.approx(
        float(numbers.clamp(min=0).mean()), abs=3e-3
    )


@pytest.mark.parametrize("chooser", CHOOSERS.values(), ids=list(CHOOSERS))
def test_a_chooser_draws_from_its_distribution_and_knows_no_order_of_skills(chooser):
    record = practised([(0, 1, 0), (1, 1, 1), (2, 1, 0), (0, 1, 1), (1, 1, 1)], num_skills=3)
    logits = chooser.logits(record)
    order = torch.tensor([2, 0, 1])
    turned = record._replace(
        **{n: getattr(record, n)[:, order] for n in ("trials", "successes", "practices", "since", "known")}
    )
    torch.testing.assert_close(chooser.logits(turned), logits[:, order])
    many = Record(*(x.expand(20_000, *x.shape[1:]) for x in record))
    chosen = chooser.choose(many, torch.rand(20_000, 3, generator=seeded(0)))
    shares = torch.bincount(chosen, minlength=3) / 20_000
    torch.testing.assert_close(shares, logits[0].softmax(-1).detach(), atol=0.015, rtol=0.0)


def test_skills_are_learned_when_their_prerequisites_are():
    graph = SkillGraph(size=3, budget=10.0, chained=1.0, num_edges=0.0, unlearnable=0.0)
    learners = graph.start(1, seeded(0))
    assert learners["needs"][0].tolist() == [[False] * 3, [True, False, False], [False, True, False]]
    first = float(learners["rate"][0, 0])
    gain = graph.gain(learners)[0]
    assert gain[0] == pytest.approx(first * 0.98) and gain[1] < 0.03 * gain[0]
    after, practice = graph.practise(learners, torch.tensor([0]), seeded(1))
    assert after["competence"][0].tolist() == pytest.approx([0.02 + first * 0.98, 0.02, 0.02])
    assert practice.trials == 1 and practice.cost == 1


def test_area_and_mastery_are_those_of_the_curve_of_competence():
    graph = SkillGraph(size=2, budget=200.0, chained=1.0, unlearnable=0.0)
    history = lifetimes(graph, Uniform(), 6, seeded(0))
    mean = history.competence.mean(-1)
    torch.testing.assert_close(history.area, mean.mean(0))
    done = (history.competence >= 0.9).all(-1)
    assert done[-1].all()
    torch.testing.assert_close(history.mastered(), (done.float().argmax(0) + 1) / 200)
    again = lifetimes(graph, Uniform(), 6, seeded(0))
    assert torch.equal(history.skill, again.skill)
    twins = lifetimes(graph, Uniform(), 6, seeded(0), copies=2)
    assert torch.equal(twins.learnable[:3], twins.learnable[3:]) and not torch.equal(
        twins.skill[:, :3], twins.skill[:, 3:]
    )


def better(chooser, other) -> float:
    """By how many standard errors one's area is above the other's, on the same learners."""
    gain = lifetimes(SMALL, chooser, 400, seeded(1)).area - lifetimes(SMALL, other, 400, seeded(1)).area
    return float(gain.mean() / gain.std() * 20.0)


@pytest.mark.parametrize(("taught", "rewarded"), [(25, 0), (0, 40)], ids=["taught", "rewarded"])
def test_a_chooser_learns_to_beat_choosing_blindly(taught, rewarded):
    chooser = LearnedChooser(hidden_size=16)
    training = ChooserTraining(SMALL, taught, rewarded, num_lanes=128, learning_rate=(0.01, 0.01), num_samples=15)
    areas = training.run(chooser, seeded(0))
    assert len(areas) == taught + rewarded and better(chooser, Uniform()) > 4.0


def test_what_a_practice_adds_to_the_area_adds_up_to_it():
    history = lifetimes(SMALL, Uniform(), 6, seeded(0))
    first = history.mean[0]
    torch.testing.assert_close(_rewards(history).sum(0) + first, history.area)


def test_a_chooser_is_saved_and_loaded(tmp_path):
    chooser = LearnedChooser(hidden_size=4)
    torch.nn.init.normal_(chooser.out.weight)
    save(chooser, tmp_path / "chooser.safetensors")
    again = load(tmp_path / "chooser.safetensors")
    record = practised([(0, 1, 0), (1, 1, 1)])
    assert isinstance(again, LearnedChooser) and torch.equal(again.logits(record), chooser.logits(record))
    assert features(record).abs().max() < 10.0


@pytest.mark.parametrize(
    ("wrong", "message"),
    [
        (lambda: LearningProgress(floor=0.0), "floor > 0"),
        (lambda: BareProgress(explore=0.0), "explore"),
        (lambda: LearnedChooser(0), "hidden_size"),
        (lambda: SkillGraph(size=1), "2 skills"),
        (lambda: lifetimes(SMALL, Uniform(), 3, seeded(0), copies=2), "multiple of copies"),
        (lambda: ChooserTraining(SMALL, num_lanes=10, copies=4), "multiple of copies"),
    ],
)
def test_what_does_not_fit_is_told(wrong, message):
    with pytest.raises(ValueError, match=message):
        wrong()
