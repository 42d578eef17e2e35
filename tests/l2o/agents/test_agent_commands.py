"""`l2o agent`: improve, go on, run, report; on tiny lives."""

import pytest

from l2o.agents import suites
from l2o.agents.environments import CartPole
from l2o.agents.kind import Kind
from l2o.agents.ppo import PPO
from l2o.cli import main


@pytest.fixture
def tiny(monkeypatch):
    kind = Kind(CartPole(0.4, 10), (4,), algorithm=PPO(num_envs=2, num_steps=4, num_epochs=1), num_iterations=2)
    kinds = {"pole": kind}
    monkeypatch.setitem(suites.LIVES, "tiny", lambda: suites.LifeSuite(kinds, kinds, kinds))


FROZEN = "--recurse 0 --choose 0 --plan 0 --recall 0"
SMALL = f"--lives tiny --rounds 1 --iterations 1 {FROZEN} --batch 4 --max-pairs 4 --report-every 1 --report-lives 2"


def test_an_agent_improves_runs_and_is_reported(tiny, tmp_path, capsys):
    pytest.importorskip("matplotlib")
    folder = str(tmp_path / "agent")
    assert main(["agent", "improve", "--run", folder, *SMALL.split()]) == 0
    assert "round 1: pole" in capsys.readouterr().out
    assert main(["agent", "improve", "--run", folder, *SMALL.split()]) == 1  # it has lived: --resume is wanted
    assert "--resume" in capsys.readouterr().err
    assert main(["agent", "improve", "--resume", folder]) == 0
    assert main(["agent", "run", "--run", folder, "--episodes", "3"]) == 0
    assert "pole" in capsys.readouterr().out
    assert main(["agent", "report", "--run", folder]) == 0
    pictures = {path.name for path in (tmp_path / "agent" / "report").iterdir()}
    assert pictures == {"lives.png", "lineage.png", "skills.png"}


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        (["fly"], "the command must be one of"),
        (["report", "--run", "nowhere"], "folder of an agent"),
        (["run", "--run", "nowhere"], "existing YAML file"),
    ],
)
def test_what_cannot_be_done_is_told_in_a_line(arguments, message, capsys):
    assert main(["agent", *arguments]) == 1
    assert message in capsys.readouterr().err


def test_the_commands_are_listed(capsys):
    assert main(["agent"]) == 0
    assert "improve" in capsys.readouterr().out
