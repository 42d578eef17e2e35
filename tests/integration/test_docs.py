"""The pages run as they are written (lengths made shorter), say what is so, and lead somewhere."""

import contextlib
import re
import subprocess
import sys
import warnings
from html import unescape
from pathlib import Path
from urllib.parse import unquote

import pytest
import torch

import l2o
from l2o.distributed import LocalPool
from l2o.rules import LSTMRule
from l2o.tasks import Quadratics
from l2o.training.meta_trainer import MetaTrainer, theta_of
from l2o.types import seeded

ROOT = Path(__file__).parents[2]
DOCS = ROOT / "docs"
SHORTER = {"range(100)": "range(2)", "steps=200": "steps=20", "64, 20,": "2, 3,", "-1, 64)": "-1, 2)"}
PAGES = [path.relative_to(ROOT).as_posix() for path in [*DOCS.rglob("*.md"), ROOT / "CONTRIBUTING.md"]]
PAGES = sorted(page for page in PAGES if "/_" not in page)  # neither built nor copied


def snippets(page: str, language: str = "python") -> list[str]:
    return re.findall(rf"```{language}\n(.*?)```", (DOCS / page).read_text(), flags=re.DOTALL)


def run(page: str) -> dict:
    """What a page's code leaves, all of it in one program."""
    code = "".join(snippets(page))
    for long, short in SHORTER.items():
        code = code.replace(long, short)
    names: dict = {"__name__": "page"}
    with contextlib.ExitStack() as stack:
        if "class " in code:  # dataclasses look for their module
            stack.enter_context(_module("page", names))
        exec(code, names)
    return names


@contextlib.contextmanager
def _module(name, names):
    module = type(sys)(name)
    module.__dict__.update(names)
    sys.modules[name] = module
    yield
    del sys.modules[name]


@pytest.fixture(autouse=True)
def in_an_empty_folder(tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    monkeypatch.syspath_prepend(tmp_path)
    monkeypatch.setattr("l2o.saved._registered", {})


def test_the_tutorial_of_the_swap_runs():
    names = run("tutorials/swap.md")
    assert names["after"] > 0 and names["again"].state_dict()["state"]
    assert names["optimizer"].rule.__class__ is LSTMRule


def test_in_the_tutorial_of_the_swap_the_loss_ends_below_that_of_adamw(monkeypatch):
    monkeypatch.setitem(SHORTER, "steps=200", "steps=100")
    names = run("tutorials/swap.md")
    assert names["after"] < names["before"]


def test_the_tutorial_of_meta_training_runs(tmp_path):
    (tmp_path / "my_tasks.py").write_text(snippets("tutorials/meta_train.md")[0])
    names = run("tutorials/meta_train.md")
    assert len(names["losses"]) == 2 and Path("fits.safetensors").exists()
    assert l2o.load.card("fits.safetensors").metadata == {"trained_on": "lines of any slope"}
    sys.modules.pop("my_tasks")


def test_the_tutorial_of_agents_runs():
    names = run("tutorials/agents.md")
    assert names["curves"].final.shape == (2,) and names["best"] in names["rates"]


def test_a_rule_is_added():
    names = run("add/rule.md")
    assert (names["w"] < 1).all()
    l2o.save(names["LearnedMomentum"](), "mine.safetensors")
    assert type(l2o.load("mine.safetensors")) is names["LearnedMomentum"]


def test_a_task_is_added():
    names = run("add/task.md")
    losses = names["problems"].start(seeded(0))
    assert losses is not None
    task = names["Phases"]().sample(seeded(0))
    assert task.loss(task.init(seeded(1)), task.sample_batch(seeded(2))).isfinite()


def test_a_learner_is_added():
    names = run("add/learner.md")
    assert names["found"].losses.isfinite().all()
    assert any(grad.abs().sum() > 0 for grad in names["found"].grads.values())


def test_an_estimator_is_added():
    forward = run("add/estimator.md")["Forward"]
    rule = LSTMRule(hidden_size=3)
    pool = LocalPool(forward(rule, Quadratics(3), steps=3), theta_of(rule))
    trainer = MetaTrainer(rule, pool, torch.optim.Adam(rule.parameters()))
    before = {name: value.clone() for name, value in theta_of(rule).items()}
    assert trainer.step()["meta_loss"] > 0
    assert any((theta_of(rule)[name] != value).any() for name, value in before.items())


@pytest.mark.parametrize("page", [page for page in PAGES if "/add/" in page])
def test_what_tells_how_to_add_a_part_is_short(page):
    assert len((ROOT / page).read_text().splitlines()) < 60


@pytest.mark.parametrize("page", PAGES)
def test_links_lead_to_pages(page):
    text = (ROOT / page).read_text()
    targets = [target for target in re.findall(r"\]\(([^)]+)\)", text) if not target.startswith("https://")]
    targets = [target.partition("#")[0] for target in targets]
    assert [t for t in targets if t != "house.svg" and not ((ROOT / page).parent / t).exists()] == []


def test_every_page_is_in_the_table_of_contents():
    text = "".join(path.read_text() for path in (DOCS / "index.md", DOCS / "api" / "index.md"))
    pages = [Path(page).relative_to("docs").with_suffix("").as_posix() for page in PAGES if page.startswith("docs/")]
    missing = [page for page in pages if page != "index" and page not in text and page.removeprefix("api/") not in text]
    assert missing == []


def test_commands_of_the_pages_are_those_of_the_program():
    from l2o.cli import COMMANDS

    for page in PAGES:
        for command in re.findall(r"^l2o ([a-z-]+)", (ROOT / page).read_text(), flags=re.MULTILINE):
            assert command in COMMANDS


def test_the_house_is_drawn_from_the_contract(tmp_path, monkeypatch):
    monkeypatch.syspath_prepend(DOCS)
    import house

    house.draw(tmp_path / "house.svg")
    drawn = (tmp_path / "house.svg").read_text()
    assert all(f">{name}<" in drawn for row in house.layers() for name in row)
    assert drawn.index(">cli<") < drawn.index(">training<") < drawn.index(">rules<") < drawn.index(">types<")


def test_the_page_of_benchmarks_names_all_that_ask_a_question():
    text = (DOCS / "benchmarks.md").read_text()
    files = {path.stem: path.read_text() for path in (ROOT / "benchmarks").glob("*.py")}
    asking = {name for name, source in files.items() if re.match(r'"""[^\n]*\?', source)}
    named = set(re.findall(r"python -m benchmarks\.(\w+)", text)) - {"readme"}
    assert asking - named == set()
    assert {name for name in named if name not in files and not (ROOT / "benchmarks" / name).is_dir()} == set()


def test_the_site_builds_without_a_warning(tmp_path):
    pytest.importorskip("sphinx")
    pytest.importorskip("furo")
    pytest.importorskip("myst_parser")
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        command = [sys.executable, "-m", "sphinx", "-W", "--keep-going", "-q", "-b", "html", DOCS, tmp_path / "site"]
        done = subprocess.run(command, capture_output=True, text=True, cwd=ROOT)
    assert done.returncode == 0, done.stderr[-3000:]
    assert (tmp_path / "site" / "api" / "rules.html").read_text().count("LSTMRule") > 2
    assert dead_links(tmp_path / "site") == []


def dead_links(site: Path) -> list[str]:
    """Links of a built site, to its own pages and places in them, that lead nowhere."""
    pages = {page.resolve(): page.read_text() for page in site.rglob("*.html")}
    places = {page: set(re.findall(r'\bid="([^"]*)"', text)) for page, text in pages.items()}
    dead = []
    for page, text in pages.items():
        for link in map(unescape, re.findall(r'\b(?:href|src)="([^"]*)"', text)):
            target, _, place = unquote(link).partition("#")
            if re.match(r"[a-z]+:", target):
                continue
            leads = (page.parent / target.partition("?")[0]).resolve() if target else page
            if not leads.is_file() or (place and leads in places and place not in places[leads]):
                dead.append(f"{page.relative_to(site.resolve())}: {link}")
    return dead
