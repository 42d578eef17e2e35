import json
import os
import pickle
from collections.abc import Callable
from pathlib import Path

import pytest
import torch
from safetensors.torch import load as read_tensors
from safetensors.torch import save as write_tensors
from torch import nn

from l2o.configured import Configured
from l2o.learners import MAML, MLP, Adaptation
from l2o.load import card, load, register, save
from l2o.rules import SGD, Adam, LSTMRule, MLPRule, Scaled, UpdateRule
from l2o.tensor_file import pack


def header_of(path: Path) -> dict:
    data = path.read_bytes()
    return json.loads(json.loads(data[8 : 8 + int.from_bytes(data[:8], "little")])["__metadata__"]["l2o"])


def rewrite(path: Path, **changes: object) -> None:
    path.write_bytes(pack(read_tensors(path.read_bytes()), {"l2o": json.dumps(header_of(path) | changes)}))


@pytest.fixture
def saved(tmp_path: Path) -> Path:
    path = tmp_path / "run" / "rule.safetensors"
    save(LSTMRule(hidden_size=4), path, steps=3)
    return path


@pytest.mark.parametrize(
    "make",
    [
        Adam,
        lambda: LSTMRule(hidden_size=4, inputs="rnnprop"),
        lambda: MLPRule(momentum_decays=[0.8, 0.9, 0.99]),
        lambda: Scaled(Scaled(LSTMRule(hidden_size=3), lr=2.0), lr=0.5),
    ],
)
def test_what_is_saved_is_loaded(tmp_path: Path, make: Callable[[], UpdateRule]) -> None:
    rule = make()
    for p in rule.parameters():
        p.data += torch.randn_like(p)
    save(rule, tmp_path / "a.safetensors", note="fine", scores=[1.0, 2.0])
    before = torch.get_rng_state()
    other = load(tmp_path / "a.safetensors")
    assert torch.equal(before, torch.get_rng_state()), "loading draws no random numbers"
    assert type(other) is type(rule)
    assert all(torch.equal(other.state_dict()[key], x) for key, x in rule.state_dict().items())
    assert [p.requires_grad for p in other.parameters()] == [p.requires_grad for p in rule.parameters()]
    assert card(tmp_path / "a.safetensors").metadata == {"note": "fine", "scores": [1.0, 2.0]}
    save(other, tmp_path / "b.safetensors", note="fine", scores=[1.0, 2.0])
    assert (tmp_path / "a.safetensors").read_bytes() == (tmp_path / "b.safetensors").read_bytes()


def test_own_classes_are_registered(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    class Mine(LSTMRule):
        pass

    with pytest.raises(ValueError, match=r"of a class that l2o exports or that `l2o.load.register` knows"):
        save(Mine(), tmp_path / "mine.safetensors")
    monkeypatch.setattr("l2o.saved._registered", {})
    assert register(Mine) is Mine
    save(Mine(hidden_size=3), tmp_path / "mine.safetensors")
    assert type(load(tmp_path / "mine.safetensors")) is Mine
    assert type(load("mine")) is Mine
    with pytest.raises(ValueError, match=r"a class name must be unique"):
        register(type("LSTMRule", (LSTMRule,), {}))
    monkeypatch.setattr("l2o.saved._registered", {})
    with pytest.raises(ValueError, match=r"the class must be one of .*got 'Mine'"):
        load(tmp_path / "mine.safetensors")


def test_a_module_that_could_not_be_loaded_is_not_saved(tmp_path: Path) -> None:
    path = tmp_path / "a.safetensors"
    save(LSTMRule(hidden_size=4), path)
    before = path.read_bytes()
    with pytest.raises(ValueError, match=r"output is torch.float16"):
        save(LSTMRule(hidden_size=4).half(), path)
    with pytest.raises(ValueError, match=r"that JSON can hold"):
        save(LSTMRule(), path, when=object())
    with pytest.raises(ValueError, match=r"must be named"):
        save(LSTMRule(), tmp_path / "a.pt")
    rule = LSTMRule()
    object.__setattr__(rule, "config", None)
    with pytest.raises(ValueError, match=r"constructor's arguments in the dict `config`"):
        save(rule, path)
    assert path.read_bytes() == before and list(tmp_path.iterdir()) == [path]


class Trap:
    """Shows whether somebody has unpickled it."""

    sprung = False

    def __reduce__(self) -> tuple:
        return setattr, (Trap, "sprung", True)


def test_a_pickle_is_refused_unopened(tmp_path: Path) -> None:
    path = tmp_path / "evil.safetensors"
    for write in (lambda: path.write_bytes(pickle.dumps(Trap())), lambda: torch.save(Trap(), path)):
        write()
        with pytest.raises(ValueError, match=r"a pickle can run any code"):
            load(path)
    assert not Trap.sprung


def test_a_damaged_file_is_refused(saved: Path) -> None:
    data = saved.read_bytes()
    for size in (0, 4, 100, len(data) // 2, len(data) - 1):
        saved.write_bytes(data[:size])
        with pytest.raises(ValueError, match=r"must be (a )?whole"):
            load(saved)
    saved.write_bytes(b"hello, this is no file of ours" * 10)
    with pytest.raises(ValueError, match=r"whole safetensors file"):
        load(saved)
    saved.write_bytes(write_tensors({"w": torch.ones(1)}))
    with pytest.raises(ValueError, match=r"must be written by `l2o.save`"):
        load(saved)


@pytest.mark.parametrize(
    ("changes", "match"),
    [
        ({"schema": 99}, r"the schema must be one of 1 to 2.*has 99"),
        ({"class": "os.system"}, "the class must be one of .*got 'os.system'"),
        ({"class": "UpdateRule"}, "the class must be one of .*got 'UpdateRule'"),
        ({"config": {"hidden": 4}}, "LSTMRule must accept the saved arguments.*hidden"),
        ({"config": {"hidden_size": -4}}, "LSTMRule must accept the saved arguments"),
        ({"config": None}, "the header must give"),
        ({"config": {"hidden_size": 5}}, r"output is torch.float32 \(4,\), not torch.float32 \(5,\)"),
        ({"config": {"hidden_size": 4, "num_layers": 3}}, "biases.2 is missing"),
        ({"config": {"hidden_size": 4, "num_layers": 1}}, "biases.1 is unknown"),
    ],
)
def test_a_header_that_does_not_fit_is_refused(saved: Path, changes: dict, match: str) -> None:
    rewrite(saved, **changes)
    with pytest.raises(ValueError, match=match):
        load(saved)


def test_frozen_parameters_double_precision_and_changed_settings_are_kept(tmp_path: Path) -> None:
    adaptation = Adaptation(MAML(MLP([3, 4, 2])), SGD(0.1), 2).double()
    adaptation.rule.requires_grad_(False)  # type: ignore[union-attr]
    adaptation.steps = 5
    save(adaptation, tmp_path / "a.safetensors")
    again = load(tmp_path / "a.safetensors")
    assert again.steps == 5 and again.learner.network.head.weight.dtype == torch.float64
    flags = {name: p.requires_grad for name, p in again.named_parameters()}
    assert flags == {name: p.requires_grad for name, p in adaptation.named_parameters()}
    assert not flags["rule.log_lr"] and flags["learner.network.head.weight"]


def test_a_flipped_byte_anywhere_is_told(saved: Path) -> None:
    data = saved.read_bytes()
    for at in range(0, len(data), 7):
        saved.write_bytes(data[:at] + bytes([data[at] ^ 0x20]) + data[at + 1 :])
        if data[at : at + 1] != b" ":  # a space that fills up the header
            with pytest.raises(ValueError, match=r"whole|checksum|schema|l2o.save|header"):
                load(saved)


def test_files_of_the_first_schema_are_read(saved: Path) -> None:
    header = header_of(saved) | {"schema": 1}
    del header["frozen"]
    rule = load(saved)
    saved.write_bytes(write_tensors(read_tensors(saved.read_bytes()), {"l2o": json.dumps(header)}))
    assert all(torch.equal(load(saved).state_dict()[name], x) for name, x in rule.state_dict().items())
    assert card(saved).frozen == ()


def test_a_file_of_this_schema_has_its_checksum(saved: Path) -> None:
    saved.write_bytes(write_tensors(read_tensors(saved.read_bytes()), {"l2o": json.dumps(header_of(saved))}))
    with pytest.raises(ValueError, match="must carry its checksum"):
        load(saved)


@pytest.mark.parametrize(
    ("config", "match"),
    [
        ({"hidden_size": 10**6}, "ask for more than .* bytes or 1,.* tensors"),
        ({"hidden_size": 4, "num_layers": 10**5}, "ask for more than .* bytes or 1,.* tensors"),
        ({"hidden_size": 4, "num_layers": 10**9}, "at most 10,000,000 in size; got 1000000000"),
        ({"hidden_size": [[[[[[[[[[[[[[[[[[1]]]]]]]]]]]]]]]]]]}, "nested more than 16 deep"),
    ],
)
def test_sizes_are_checked_before_memory_is_taken(saved: Path, config: dict, match: str) -> None:
    rewrite(saved, config=config)
    with pytest.raises(ValueError, match=match):
        load(saved)


def test_a_header_of_terabytes_is_refused_unread(saved: Path) -> None:
    data = saved.read_bytes()
    saved.write_bytes((2**62).to_bytes(8, "little") + data[8:])
    with pytest.raises(ValueError, match="whole safetensors file"):
        load(saved)
    header = json.dumps({"w": {"dtype": "F32", "shape": [10**12], "data_offsets": [0, 4 * 10**12]}}).encode()
    saved.write_bytes(len(header).to_bytes(8, "little") + header)
    with pytest.raises(ValueError, match="must be written by"):
        load(saved)


def test_files_without_end_are_refused(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    os.mkfifo(tmp_path / "pipe.safetensors")
    with pytest.raises(ValueError, match="must be a regular file"):
        load(tmp_path / "pipe.safetensors")
    with open(tmp_path / "sparse.safetensors", "wb") as file:
        file.truncate(1 << 40)
    with pytest.raises(ValueError, match="at most 4,294,967,296 bytes"):
        load(tmp_path / "sparse.safetensors")


def test_numbers_that_are_none_are_neither_written_nor_read(saved: Path) -> None:
    with pytest.raises(ValueError, match="plain, finite values"):
        save(LSTMRule(), saved, score=float("nan"))
    text = json.dumps(header_of(saved)).replace('"steps": 3', '"steps": NaN')
    saved.write_bytes(pack(read_tensors(saved.read_bytes()), {"l2o": text}))
    with pytest.raises(ValueError, match="NaN is no number of JSON"):
        load(saved)


class Curious(Configured):
    """Looks at numbers while it is made, which cannot be done without memory."""

    def __init__(self, size: int = 3) -> None:
        super().__init__()
        self.weight = nn.Parameter(torch.full((size,), torch.ones(2).sum().item()))


def test_a_constructor_of_ones_own_may_look_at_numbers(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("l2o.saved._registered", {})
    register(Curious)
    save(Curious(), tmp_path / "a.safetensors")
    assert load(tmp_path / "a.safetensors").weight.tolist() == [2.0, 2.0, 2.0]
