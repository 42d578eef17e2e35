import pickle
import zipfile
from collections.abc import Callable
from pathlib import Path

import numpy as np
import pytest

from l2o.arrays import read_arrays


def ext(body: bytes, code: int = 1) -> bytes:
    return bytes([0xC7, len(body), code]) + body


def array(shape: bytes = b"\x91\x02", dtype: bytes = b"\xa7float32", raw: bytes = b"\xc4\x08" + bytes(8)) -> bytes:
    return b"\x93" + shape + dtype + raw


def named(value: bytes, name: bytes = b"\xa1a") -> bytes:
    return b"\x81" + name + value


def put(folder: Path, data: bytes, name: str = "theta.state") -> Path:
    path = folder / name
    path.write_bytes(data)
    return path


def test_arrays_of_flax_are_read_by_dotted_name(tmp_path: Path) -> None:
    values = np.array([1.5, -2.0], "<f4")
    inner = named(ext(array(raw=b"\xc4\x08" + values.tobytes())), b"\xa3x/y")
    found = read_arrays(put(tmp_path, named(inner)))
    assert list(found) == ["a.x.y"]
    np.testing.assert_array_equal(found["a.x.y"], values)
    assert found["a.x.y"].flags.writeable


def test_arrays_of_numpy_are_read(tmp_path: Path) -> None:
    np.savez(tmp_path / "a.npz", **{"x.y": np.arange(3), "z": np.zeros((2, 0))})
    assert {key: x.shape for key, x in read_arrays(tmp_path / "a.npz").items()} == {"x.y": (3,), "z": (2, 0)}
    np.save(tmp_path / "a.npy", np.float32([1, 2]))
    assert read_arrays(tmp_path / "a.npy")[""].tolist() == [1.0, 2.0]


@pytest.mark.parametrize(
    ("data", "message"),
    [
        (b"", "ends after 0 bytes"),
        (named(ext(array()))[:-3], "ends after"),
        (named(ext(array())) + b"\x00", "1 bytes after its end"),
        (named(ext(array(raw=b"\xc4\x07" + bytes(7)))), "has 7 bytes"),
        (named(ext(array(shape=b"\x91\xff"))), r"shape \[-1\]"),
        (named(ext(array(dtype=b"\xa6object"))), "array of 'object'"),
        (named(ext(b"\x01")), "whole .state file"),
        (named(ext(array(), code=5)), "extension of type 5"),
        (named(b"\x07"), "'a' is a int"),
        (b"\x91" * 40, "nested more than 32 deep"),
        (b"\x82\xa1a\x01\xa1a\x01", "different strings; 'a'"),
        (b"\x81\x90\x01", "different strings"),
        (b"\xc1", "begins nothing"),
        (b"\xdf\xff\xff\xff\xff", "ends after"),
        (b"\xc6\xff\xff\xff\xff", "ends after"),
        (pickle.dumps({"a": 1}), "whole .state file"),
    ],
    ids=range(16),
)
def test_what_is_not_a_tree_of_arrays_is_refused(tmp_path: Path, data: bytes, message: str) -> None:
    with pytest.raises(ValueError, match=message):
        read_arrays(put(tmp_path, data))


def test_extensions_are_not_nested_without_end(tmp_path: Path) -> None:
    body = b"\x00"
    for _ in range(2000):
        body = bytes([0xC9]) + len(body).to_bytes(4, "big") + b"\x01" + body
    with pytest.raises(ValueError, match="nested more than 32 deep"):
        read_arrays(put(tmp_path, body))


@pytest.mark.parametrize("name", ["a.npz", "a.npy", "a.state"])
def test_damaged_files_are_told_to_be_so(tmp_path: Path, name: str) -> None:
    path, rng = tmp_path / name, np.random.default_rng(0)
    values = np.arange(60, dtype=np.float32)
    if name == "a.npz":
        np.savez_compressed(path, a=values, b=values[:3])
    elif name == "a.npy":
        np.save(path, values)
    else:
        path.write_bytes(named(ext(array())))
    whole, refused = path.read_bytes(), 0
    for _ in range(1000):
        data = bytearray(whole)
        for at in rng.integers(len(data), size=rng.integers(1, 4)):
            data[at] = rng.integers(256)
        path.write_bytes(data)
        try:
            read_arrays(path)
        except ValueError:
            refused += 1
    assert refused > 100


def test_what_unpacks_to_too_much_is_refused(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    np.savez_compressed(tmp_path / "a.npz", a=np.zeros(1000))
    monkeypatch.setattr("l2o.arrays.MAX_BYTES", 8000)
    with pytest.raises(ValueError, match="unpacks to 8,128 bytes, of at most 8,000"):
        read_arrays(tmp_path / "a.npz")


def npy(descr: str, shape: str) -> bytes:
    header = f"{{'descr': {descr}, 'fortran_order': False, 'shape': {shape}, }}\n".encode()
    return b"\x93NUMPY\x01\x00" + len(header).to_bytes(2, "little") + header


def zipped_object(path: Path) -> None:
    np.savez(path, a=np.array([{}], dtype=object))


@pytest.mark.parametrize(
    ("name", "write", "message"),
    [
        ("a.npz", zipped_object, "pickles can run"),
        ("a.npy", lambda path: np.save(path, np.array([{}], dtype=object)), "pickles can run"),
        ("a.npy", lambda path: path.write_bytes(pickle.dumps(3)), "pickles can run"),
        ("a.npz", lambda path: path.write_bytes(b"PK\x03\x04 and no more"), "whole .npz file"),
        ("a.npz", lambda path: np.savez(path, a=np.array(["text"])), "'a' of .* holds <U4"),
        ("a.npz", lambda path: zipfile.ZipFile(path, "w").writestr("readme.txt", "hello"), "no arrays"),
        ("a.npy", lambda path: path.write_bytes(npy("'<f4'", "(10**25,)")), "whole .npy file"),
        ("a.npy", lambda path: path.write_bytes(npy("'<f4'", "(10000000000000000,)")), "whole .npy file"),
        ("a.npy", lambda path: path.write_bytes(npy("'<f4,,'", "(2,)")), "whole .npy file"),
        ("a.npy", lambda path: path.write_bytes(npy("(((((", "(2,)")), "whole .npy file"),
    ],
    ids=range(10),
)
def test_files_of_numpy_that_hold_no_plain_arrays_are_refused(
    tmp_path: Path, name: str, write: Callable[[Path], object], message: str
) -> None:
    write(tmp_path / name)
    with pytest.raises(ValueError, match=message):
        read_arrays(tmp_path / name)
