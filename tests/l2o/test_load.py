import subprocess
import sys
from pathlib import Path

import pytest
import torch
from torch import nn

import l2o
from l2o.configured import Configured
from l2o.learners import MLP
from l2o.load import card, is_untrained, load, names, save
from l2o.optim import LearnedOptimizer
from l2o.rules import Adam, LSTMRule


def test_a_run_folder_and_its_name_are_paths(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    saved = tmp_path / "run" / "rule.safetensors"
    save(LSTMRule(hidden_size=4), saved)
    assert isinstance(load(saved.parent), LSTMRule)
    assert isinstance(load(str(saved.parent)), LSTMRule)
    assert card(saved.parent).class_name == "LSTMRule"
    assert isinstance(LearnedOptimizer([nn.Parameter(torch.ones(1))], saved.parent).rule, LSTMRule)
    monkeypatch.chdir(saved.parent.parent)
    assert isinstance(load("run"), LSTMRule) and isinstance(load("./run"), LSTMRule)
    saved.parent.rename("adam")
    assert isinstance(load("adam"), Adam) and isinstance(load("./adam"), LSTMRule)


def test_names_give_fresh_rules() -> None:
    assert {"sgd", "momentum", "adam", "adamw", "muon", "lstm", "mlp", "velo", "matrix"} <= set(names())
    assert "scaled" not in names(), "it cannot be made without a rule to scale"
    assert load("adam", lr=0.5).lr == pytest.approx(0.5)
    assert is_untrained("lstm") and not is_untrained("adam") and not is_untrained("./lstm")
    with pytest.raises(ValueError, match=r"a name must be one of default, .*adam, .*got 'adan'. Did you mean 'adam'"):
        load("adan")
    with pytest.raises(ValueError, match=r"got 'nothing like it'"):
        load("nothing like it")


def test_shipped_weights_are_found_by_name(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    save(LSTMRule(hidden_size=4), tmp_path / "small.safetensors")
    monkeypatch.setattr("l2o.load._weights", lambda: tmp_path)
    assert names()[0] == "small" and not is_untrained("small")
    assert isinstance(load("small"), LSTMRule)
    with pytest.raises(ValueError, match=r"arguments are for a fresh rule only.*hidden_size"):
        load("small", hidden_size=3)


def test_paths_that_lead_nowhere(tmp_path: Path) -> None:
    with pytest.raises(FileNotFoundError, match=r"there is nothing at"):
        load(tmp_path / "none.safetensors")
    with pytest.raises(FileNotFoundError, match=r"a run folder must hold rule.safetensors"):
        load(tmp_path)


@pytest.mark.parametrize("first", ["", "import l2o.load; ", "from l2o.load import save; "])
def test_load_is_the_function_however_it_was_imported(first: str) -> None:
    code = f"{first}import l2o; assert l2o.load('adam').config; l2o.load.register; from l2o import load; load('sgd')"
    subprocess.run([sys.executable, "-c", code], check=True)


def test_importing_the_package_imports_no_torch() -> None:
    code = "import l2o, sys; dir(l2o); assert l2o.__version__; assert 'torch' not in sys.modules"
    subprocess.run([sys.executable, "-c", code], check=True)


def test_every_exported_name_exists() -> None:
    for name in l2o.__all__:
        assert getattr(l2o, name) is not None
    assert {"load", "LearnedOptimizer", "__version__"} <= set(dir(l2o))
    with pytest.raises(AttributeError, match=r"no attribute 'nonsense'"):
        _ = l2o.nonsense


class Wrapper(Configured):
    def __init__(self, width: int = 8, **options: int) -> None:
        super().__init__()
        self.inner = torch.nn.Linear(width, options.get("outputs", 1))


class Starred(Configured):
    def __init__(self, *sizes: int) -> None:
        super().__init__()


def test_arguments_by_keyword_are_kept_one_by_one() -> None:
    made = Wrapper(4, outputs=3)
    assert made.config == {"width": 4, "outputs": 3}
    assert type(made)(**made.config).inner.weight.shape == (3, 4)
    with pytest.raises(TypeError, match="Starred must have names"):
        Starred(1, 2)
    with pytest.raises(TypeError, match="MLP: got an unexpected keyword argument 'width'"):
        MLP([2, 2], width=3)  # type: ignore[call-arg]
