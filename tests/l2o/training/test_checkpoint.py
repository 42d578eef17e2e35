import math
import os

import pytest
import safetensors.torch
import torch

from l2o.inner_loop import InnerState
from l2o.rules import OptState
from l2o.tensor_file import pack
from l2o.training.checkpoint import load_tree, save_tree
from l2o.training.run import RunDirectory


def tree():
    opt = OptState(torch.tensor(3), {"w": {"m": torch.randn(2, 3), "none": torch.zeros(0)}}, {})
    return {
        "named": InnerState({"w": torch.randn(4, dtype=torch.float64)}, opt),
        "numbers": [1, 0.1, math.inf, True, None, "text", (1, 2)],
        3: torch.tensor([True, False]),
        "generator": torch.Generator().manual_seed(1).get_state(),
        "half": torch.randn(3).bfloat16(),
        "expanded": torch.zeros(1).expand(5),
    }


def leaves(value):
    if isinstance(value, dict):
        return [(key, leaf) for key, child in value.items() for leaf in leaves(child)]
    if isinstance(value, list | tuple):
        return [leaf for child in value for leaf in leaves(child)]
    return [value]


def test_a_tree_comes_back_bit_for_bit_with_its_types(tmp_path):
    saved = tree()
    save_tree(saved, tmp_path / "a.safetensors")
    back = load_tree(tmp_path / "a.safetensors")
    assert isinstance(back["named"], InnerState) and isinstance(back["named"].opt, OptState)
    assert back["numbers"] == saved["numbers"] and list(back) == list(saved)
    for (_, one), (_, two) in zip(leaves({"x": saved}), leaves({"x": back}), strict=True):
        one, two = (pair[1] if isinstance(pair, tuple) else pair for pair in (one, two))
        if isinstance(one, torch.Tensor):
            assert one.dtype == two.dtype and torch.equal(one, two)


def test_what_would_need_code_to_load_is_refused(tmp_path):
    with pytest.raises(TypeError, match="got function"):
        save_tree({"f": leaves}, tmp_path / "a.safetensors")
    assert not list(tmp_path.iterdir())


@pytest.mark.parametrize("damage", ["truncated", "flipped header", "other file"])
def test_a_damaged_file_is_told(tmp_path, damage):
    path = tmp_path / "a.safetensors"
    save_tree(tree(), path)
    data = path.read_bytes()
    damaged = {"truncated": data[:-8], "flipped header": b"\xff" + data[1:], "other file": b"not a checkpoint"}
    path.write_bytes(damaged[damage])
    with pytest.raises(ValueError, match="no checkpoint of l2o"):
        load_tree(path)


def test_a_failed_write_leaves_the_old_file_whole(tmp_path, monkeypatch):
    path = tmp_path / "a.safetensors"
    save_tree({"x": torch.ones(3)}, path)
    before = path.read_bytes()

    def full_disk(*args: object) -> None:
        raise OSError(28, "No space left on device")

    monkeypatch.setattr(os, "fsync", full_disk)
    with pytest.raises(OSError, match="No space"):
        save_tree({"x": torch.zeros(3)}, path)
    assert path.read_bytes() == before and len(list(tmp_path.iterdir())) == 1


def test_a_missing_file_is_told(tmp_path):
    with pytest.raises(FileNotFoundError, match="there is none at"):
        load_tree(tmp_path / "none.safetensors")


def test_a_flipped_byte_anywhere_is_told(tmp_path):
    path = tmp_path / "a.safetensors"
    save_tree(tree(), path)
    data = path.read_bytes()
    for at in range(0, len(data), 13):
        path.write_bytes(data[:at] + bytes([data[at] ^ 0x01]) + data[at + 1 :])
        with pytest.raises(ValueError, match="no checkpoint of l2o, or is damaged"):
            load_tree(path)


def test_a_checkpoint_of_the_first_schema_is_read(tmp_path):
    path = tmp_path / "a.safetensors"
    skeleton = '{"dict": [["w", {"tensor": "t0"}], ["best", Infinity]]}'
    path.write_bytes(safetensors.torch.save({"t0": torch.ones(2)}, {"schema": "1", "tree": skeleton}))
    back = load_tree(path)
    assert back["best"] == math.inf and torch.equal(back["w"], torch.ones(2))
    path.write_bytes(safetensors.torch.save({"t0": torch.ones(2)}, {"schema": "2", "tree": skeleton}))
    with pytest.raises(ValueError, match="must carry its checksum"):
        load_tree(path)
    path.write_bytes(pack({"t0": torch.ones(2)}, {"schema": "3", "tree": skeleton}))
    with pytest.raises(ValueError, match="the schema must be one of 1 to 2"):
        load_tree(path)


@pytest.mark.parametrize("skeleton", ["{}", "[1]", '{"dict": [[[], 1]]}', '{"named": "x"}', "[" * 5000, '{"what": []}'])
def test_a_tree_that_nothing_of_ours_writes_is_told(tmp_path, skeleton):
    (tmp_path / "a").write_bytes(pack({}, {"schema": "2", "tree": skeleton}))
    with pytest.raises(ValueError, match="no checkpoint of l2o"):
        load_tree(tmp_path / "a")


def test_a_run_goes_on_from_the_checkpoint_before_a_damaged_one_and_says_so(tmp_path):
    run = RunDirectory(tmp_path)
    for step in (1, 2):
        run.save_checkpoint({"step": step}, step)
    (tmp_path / "checkpoints" / ".step_00000003.safetensors.1.tmp").touch()  # of a process that was killed
    run.save_checkpoint({"step": 3}, 3)
    assert [path.name for path in (tmp_path / "checkpoints").iterdir() if path.name[0] == "."] == []
    run.checkpoints()[-1].write_bytes(b"damaged")
    with pytest.warns(UserWarning, match="goes on from step_00000002.* is not, or is damaged"):
        assert run.newest() == {"step": 2}
    save_tree([1], run.checkpoints()[-1])
    with pytest.warns(UserWarning, match="must hold the state of a run"):
        assert run.newest() == {"step": 2}
    run.checkpoints()[0].write_bytes(b"damaged too")
    with pytest.raises(ValueError, match=r"no checkpoint of .* can be read"):
        run.newest()
