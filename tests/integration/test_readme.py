"""Snippets and commands of the README and the guides run as they are written (runs made shorter)."""

import re
import shlex
import subprocess
import sys
from pathlib import Path

import pytest
import torch

import l2o
from benchmarks.readme import TABLE, TABLES, pages, rewritten
from l2o.cli import main

ROOT = Path(__file__).parents[2]
README = (ROOT / "README.md").read_text()
GUIDES = "\n".join([README, *(path.read_text() for path in sorted((ROOT / "docs" / "guide").glob("*.md")))])
PAGES = {path.relative_to(ROOT).as_posix(): path.read_text() for path in pages()}


def blocks(language, text=README):
    return re.findall(rf"```{language}\n(.*?)```", text, flags=re.DOTALL)


@pytest.fixture
def my_tasks(tmp_path, monkeypatch):
    """A folder with the README's my_tasks.py, where commands are given."""
    (source,) = [block for block in blocks("python") if "# my_tasks.py" in block]
    (tmp_path / "my_tasks.py").write_text(source)
    monkeypatch.chdir(tmp_path)
    monkeypatch.syspath_prepend(tmp_path)
    return tmp_path


def test_the_swap_runs():
    snippet, by_name = [block for block in blocks("python") if "LearnedOptimizer" in block]
    names = {"torch": torch, "model": torch.nn.Linear(3, 1)}
    assert "10_000" in snippet
    exec(by_name, names | {"l2o": l2o})
    exec(snippet.replace("10_000", "200"), names)
    x = torch.randn(16, 3)
    losses = []
    for _ in range(200):
        names["optimizer"].zero_grad()
        loss = (names["model"](x) - x.sum(dim=1, keepdim=True)).square().mean()
        loss.backward()
        names["optimizer"].step()
        losses.append(loss.item())
    assert losses[-1] < 0.2 * losses[0]


def test_agents_live_side_by_side(capsys):
    (snippet,) = [block for block in blocks("python") if "lifetime.run(" in block]
    exec(snippet.replace("256, 20", "2, 3"), {})
    assert "tensor" in capsys.readouterr().out


def test_a_task_of_ones_own_is_meta_trained_from_python(my_tasks):
    (snippet,) = [block for block in blocks("python") if "MetaTrainer(" in block]
    names: dict = {}
    exec(snippet.replace("range(100)", "range(6)"), names)
    assert names["metrics"]["meta_loss"] > 0


def test_a_task_of_ones_own_is_meta_trained_from_the_command_line(my_tasks):
    """By the installed command, which python does not let look into the present folder by itself."""
    (command,) = re.findall(r"^l2o (meta-train .*my_tasks:Fits.*)$", README, flags=re.MULTILINE)
    program = Path(sys.executable).with_name("l2o")
    subprocess.run([program, *command.replace("--steps 200", "--steps 2 --threads 1").split()], check=True)
    assert isinstance(l2o.load("runs/fits"), torch.nn.Module)


def test_all_that_the_readme_links_to_exists():
    targets = [target for target in re.findall(r"\]\(([^)]+)\)", README) if not target.startswith("https://")]
    titles = re.findall(r"^## (.*)$", README, flags=re.MULTILINE)
    anchors = {"#" + re.sub(r"[^a-z0-9-]", "", title.lower().replace(" ", "-")) for title in titles}
    assert targets
    assert [target for target in targets if target not in anchors and not (ROOT / target).exists()] == []


def test_every_option_in_the_readmes_commands_exists(capsys):
    for command in re.findall(r"^l2o (meta-train|evaluate) (.*?)(?:\s+#.*)?$", GUIDES, flags=re.MULTILINE):
        with pytest.raises(SystemExit):
            main([command[0], "--help"])
        known = capsys.readouterr().out + "--config --resume"
        assert all(option in known for option in re.findall(r"--[a-z-]+", command[1]))


@pytest.mark.parametrize("page", PAGES)
def test_the_tables_say_what_the_committed_rows_say(page):
    assert rewritten(PAGES[page]) == PAGES[page]


def test_every_table_stands_on_one_page():
    shown = [name for text in PAGES.values() for name in TABLE.findall(text)]
    assert sorted(shown) == sorted(TABLES)


def test_a_learner_is_trained_from_python():
    (snippet,) = [block for block in blocks("python", GUIDES) if "meta_grad(" in block]
    names: dict = {}
    exec(snippet.replace("range(100)", "range(3)"), names)
    assert names["fast"].keys() == dict(names["network"].named_parameters()).keys()
    assert names["found"].losses.shape == (8,)


WHOLE_LINES = dict.fromkeys(line.rstrip() for line in GUIDES.replace("\\\n", "").splitlines())


@pytest.mark.parametrize("command", [line for line in WHOLE_LINES if line.startswith("l2o learn --learner")])
def test_commands_of_learners_are_understood(command, tmp_path, capsys):
    """They reach the data, which is not here."""
    words, short = shlex.split(command, comments=True)[1:], ["--steps", "1", "--evaluate-every", "1"]
    short += ["--num-episodes", "1", "--test-episodes", "2", "--threads", "1"]
    words[words.index("--run") + 1] = str(tmp_path / "run")
    if "--start" in words:
        words[words.index("--start") + 1] = str(tmp_path / "start")
        first = ["learn", "--learner", "maml", "--data", "sinusoid", "--run", str(tmp_path / "start")]
        assert main([*first, *short]) == 0
    if "sinusoid" in words:
        assert main([*words, *short]) == 0
    else:
        words[words.index("--data") + 1] = "nowhere"
        assert main(words) == 1
        assert "data must be one of" in capsys.readouterr().err
