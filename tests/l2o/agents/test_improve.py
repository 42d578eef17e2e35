"""An agent changes through one door, which lets nothing through that is not better."""

import time

import pytest
import torch

from l2o.agents.gate import Evidence, Gate
from l2o.agents.improve import Door, Proposer
from l2o.agents.lineage import Lineage, LineageWarning
from l2o.agents.spec import AgentSpec, Proposal, packed, unpacked
from l2o.rules import Adam
from l2o.types import seeded

GATE = Gate(batch=32, max_pairs=256)


def assess(spec, generator, num):
    """Noisy tasks; an agent's skill is a number, which is worth more or less on each."""
    difficulty = torch.rand(num, generator=generator)
    chances = 0.1 * torch.randn(num, generator=generator)
    return (0.5 * difficulty + spec["skill"]["level"] * (0.5 + difficulty) + chances).clamp(0.0, 1.0)


def new_door(folder, assess=assess, gate=GATE):
    spec = AgentSpec.of(skill={"level": torch.tensor(0.1)}, hyperparameters={"lr": 0.1})
    lineage = Lineage(folder)
    lineage.begin(spec)
    return Door(gate, lineage, assess), spec


def level(x):
    return {"level": torch.tensor(float(x))}


def test_a_better_version_is_accepted_and_a_worse_one_is_not(tmp_path):
    door, spec = new_door(tmp_path)
    after, verdict = door.consider(spec, Proposal("skill", level(0.4), "test"), seeded(0))
    assert verdict.accepted and verdict.reason == "better" and after.versions == {"skill": 1, "hyperparameters": 0}
    again, verdict = door.consider(after, Proposal("skill", level(0.2)), seeded(1))
    assert again is after and verdict.reason == "worse" and verdict.gain < 0
    assert spec["skill"]["level"] == pytest.approx(0.1)  # the old one is as it was


def of(mean):
    """Scores of tasks that are worth more or less, and of chances that are each agent's own."""

    def score(generator, num):
        tasks, chances = torch.rand(num, generator=generator), torch.randn(num, generator=generator)
        return (0.4 + 0.2 * tasks + mean * (1.0 + 2.0 * chances)).clamp(0.0, 1.0)

    return score


def test_trials_of_a_round_are_on_the_same_tasks_until_one_is_accepted(tmp_path):
    seen = []

    def watched(spec, generator, num):
        seen.append((float(spec["skill"]["level"]), float(torch.rand((), generator=generator))))
        return assess(spec, generator, num)

    door, spec = new_door(tmp_path, watched, Gate(batch=32, max_pairs=32))

    def tasks_of(level, since):
        return [task for one, task in seen[since:] if one == pytest.approx(level)]

    door.consider(spec, Proposal("skill", level(0.05)), seeded(0))
    door.consider(spec, Proposal("skill", level(0.06)), seeded(1))
    assert len(tasks_of(0.1, 0)) == 1 and tasks_of(0.05, 0) == tasks_of(0.06, 0) == tasks_of(0.1, 0)
    after, verdict = door.consider(spec, Proposal("skill", level(0.9)), seeded(2))
    assert verdict.accepted
    since = len(seen)
    door.consider(after, Proposal("skill", level(0.05)), seeded(3))
    assert tasks_of(0.9, since) and tasks_of(0.9, since) != tasks_of(0.1, 0)
    since = len(seen)
    door.next_round()
    door.consider(after, Proposal("skill", level(0.05)), seeded(4))
    assert len(tasks_of(0.9, since)) == 1


def test_later_trials_of_a_round_need_more_evidence(tmp_path):
    door, spec = new_door(tmp_path)
    needed = [door.consider(spec, Proposal("skill", level(0.0)), seeded(i))[1].needed for i in range(2)]
    door.next_round()
    needed.append(door.consider(spec, Proposal("skill", level(0.0)), seeded(2))[1].needed)
    first = [GATE.needed(trial) * 2 for trial in (1, 2, 3)]  # two parts
    assert needed == pytest.approx([first[0], 2 * first[1], first[2]])


def test_trials_go_on_only_while_they_look_good_or_bad():
    patient, hasty = (Gate(batch=32, max_pairs=1024, pace=pace) for pace in (0.0, 0.5))
    means = (0.04, 0.0, -0.04)
    for mean, reason in zip(means, ("better", "undecided", "worse"), strict=True):
        verdicts = [hasty.judge(of(0.0), of(mean), 5, seeded(seed)) for seed in range(10)]
        assert sum(one.reason == reason for one in verdicts) >= 9, (mean, verdicts)
        assert max(one.pairs for one in verdicts) < 1024
    assert all(hasty.judge(of(0.0), of(0.0), 5, seeded(seed)).pairs == 32 for seed in range(10))
    unclear = [patient.judge(of(0.0), of(0.003), 5, seeded(seed)) for seed in range(5)]
    assert all(one.pairs == 1024 or one.reason != "undecided" for one in unclear)
    for pace in (-0.1, 1.0):
        with pytest.raises(ValueError, match="pace must be"):
            Gate(pace=pace)


def test_noise_is_accepted_in_no_more_than_alpha_of_runs():
    # differences that are symmetric, or rarely good and often a little bad, or the other way round; all with mean 0
    draws = {
        "symmetric": lambda g, n: 0.2 * (2 * torch.rand(n, generator=g) - 1),
        "rarely good": lambda g, n: torch.where(torch.rand(n, generator=g) < 0.1, 0.9, -0.1),
        "rarely bad": lambda g, n: torch.where(torch.rand(n, generator=g) < 0.1, -0.9, 0.1),
    }
    for name, draw in draws.items():
        wrong = 0
        for run in range(200):
            generator = seeded(run)
            gate, accepted = Gate(alpha=0.1, batch=16, max_pairs=64), False
            for trial in range(1, 11):
                evidence = Evidence()
                peeks = [evidence.add(draw(generator, gate.batch)) for _ in range(4)]
                accepted |= max(peeks) >= gate.needed(trial)
            wrong += accepted
        assert wrong <= 0.1 * 200, name


def test_evidence_is_a_fair_bet():
    # the mean wealth after a fair difference is 1, whatever came before: exactly, over both outcomes
    for size in (0.3, 1.0):
        up, down = Evidence(), Evidence()
        up.add(torch.tensor([0.5, -0.2]))
        down.log_wealth = up.log_wealth.clone()
        before = up.value
        assert 0.5 * (up.add(torch.tensor([size])) + down.add(torch.tensor([-size]))) == pytest.approx(before)


@pytest.mark.parametrize("trial", [1, 10, 200])
def test_alpha_is_spent_once(trial):
    gate = Gate(alpha=0.05)
    assert sum(1 / gate.needed(k) for k in range(1, trial + 1)) <= 0.05


def hostile(kind):
    def assess_hostile(spec, generator, num):
        if spec["skill"]["level"] > 0.3:
            if kind == "crashes":
                raise RuntimeError("a proposal that crashes")
            if kind == "is slow":
                time.sleep(0.05)
            if kind == "is not finite":
                return torch.full((num,), float("nan"))
            if kind == "tells too much":
                return torch.ones(2 * num)
            if kind == "boasts":
                return torch.full((num,), 1e9)
        return assess(spec, generator, num)

    return assess_hostile


@pytest.mark.parametrize(
    ("kind", "reason"),
    [
        ("crashes", "crashed: RuntimeError"),
        ("is slow", "slow"),
        ("is not finite", "not finite"),
        ("tells too much", "not a score a task"),
        ("boasts", "out of range"),
    ],
)
def test_hostile_proposals_are_rejected(tmp_path, kind, reason, monkeypatch):
    clock = iter(range(10**6)) if kind == "is slow" else None
    if clock is not None:  # a clock that stands still but for the new version's two looks
        ticks = iter([0.0, 0.001, 0.001, 60.0])
        monkeypatch.setattr("l2o.agents.gate.time.perf_counter", lambda: next(ticks))
    door, spec = new_door(tmp_path, hostile(kind))
    after, verdict = door.consider(spec, Proposal("skill", level(0.9)), seeded(0))
    assert after is spec and not verdict.accepted and verdict.reason == reason


@pytest.mark.parametrize(
    ("proposal", "reason"),
    [
        (Proposal("skill", level(float("nan"))), "not finite"),
        (Proposal("wings", level(1.0)), "no such part"),
        (Proposal("skill", {"level": torch.tensor(0.9), "code": object()}), "no file can hold it"),
    ],
)
def test_what_is_no_version_is_rejected(tmp_path, proposal, reason):
    door, spec = new_door(tmp_path)
    after, verdict = door.consider(spec, proposal, seeded(0))
    assert after is spec and verdict.reason == reason


def test_a_proposer_that_crashes_loses_its_trial(tmp_path):
    class Broken(Proposer):
        part = "skill"

        def propose(self, spec, generator):
            raise KeyError("nothing")

    door, spec = new_door(tmp_path)
    after, verdict = door.ask(spec, Broken(), seeded(0))
    assert after is spec and verdict.reason.startswith("proposer crashed: KeyError")
    assert door.lineage.num_trials == 1


def accepted_twice(folder):
    door, spec = new_door(folder)
    spec, _ = door.consider(spec, Proposal("skill", level(0.3)), seeded(0))
    spec, _ = door.consider(spec, Proposal("skill", level(0.0)), seeded(1))
    spec, _ = door.consider(spec, Proposal("skill", level(0.45)), seeded(2))
    assert spec.versions["skill"] == 3
    return spec


def test_a_lineage_is_read_back(tmp_path):
    spec = accepted_twice(tmp_path)
    again = Lineage(tmp_path)
    assert again.spec().versions == spec.versions
    torch.testing.assert_close(again.spec()["skill"], spec["skill"])
    torch.testing.assert_close(again.version("skill", 1), level(0.3))
    assert [line.get("parent") for line in again.lines] == [None, None, 0, 1, 1]


def test_a_torn_line_is_told_and_dropped(tmp_path):
    accepted_twice(tmp_path)
    path = tmp_path / "ledger.jsonl"
    path.write_bytes(path.read_bytes()[:-20])
    with pytest.warns(LineageWarning, match="torn"):
        again = Lineage(tmp_path)
    assert again.num_trials == 2 and again.spec().versions["skill"] == 1


def test_a_changed_line_is_told_and_what_was_before_is_kept(tmp_path):
    accepted_twice(tmp_path)
    path = tmp_path / "ledger.jsonl"
    lines = path.read_text().splitlines(keepends=True)
    lines[3] = lines[3].replace('"accepted": false', '"accepted": true')
    path.write_text("".join(lines))
    with pytest.warns(LineageWarning, match="line 4"):
        again = Lineage(tmp_path)
    assert again.spec().versions["skill"] == 1
    assert (tmp_path / "ledger.jsonl.damaged").read_text() == "".join(lines)


def test_a_damaged_version_gives_way_to_its_parent(tmp_path):
    accepted_twice(tmp_path)
    path = tmp_path / "versions" / "skill-00003.safetensors"
    data = bytearray(path.read_bytes())
    data[-1] ^= 1
    path.write_bytes(data)
    with pytest.warns(LineageWarning, match="damaged"):
        spec = Lineage(tmp_path).spec()
    assert spec.versions["skill"] == 1
    torch.testing.assert_close(spec["skill"], level(0.3))


def test_a_rule_is_a_part_with_its_class():
    with torch.no_grad():
        rule = Adam(lr=0.3)
        value = packed(rule)
    again = unpacked(value)
    assert type(again) is Adam
    for name, p in rule.state_dict().items():
        torch.testing.assert_close(again.state_dict()[name], p)
    with pytest.raises(ValueError, match="whole"):
        unpacked(value[:-3])
