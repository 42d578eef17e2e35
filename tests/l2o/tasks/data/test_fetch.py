import hashlib
import io
import urllib.error
import urllib.request

import pytest

from l2o.tasks.data.fetch import Remote, check, download, find, locate

CONTENT = b"some data"
REMOTE = Remote("set/file.bin", "https://example.org/file.bin", f"sha256:{hashlib.sha256(CONTENT).hexdigest()}")


@pytest.fixture(autouse=True)
def folders(monkeypatch, tmp_path):
    monkeypatch.setenv("L2O_CACHE", str(tmp_path / "cache"))
    monkeypatch.delenv("L2O_DATA", raising=False)
    return tmp_path


def serve(monkeypatch, content: bytes) -> list[str]:
    asked = []

    def urlopen(request, timeout):
        asked.append(request.full_url)
        return io.BytesIO(content)

    monkeypatch.setattr(urllib.request, "urlopen", urlopen)
    return asked


def files_below(folder) -> list[str]:
    return sorted(path.name for path in folder.rglob("*") if path.is_file())


def test_a_file_is_downloaded_once(monkeypatch, folders):
    asked = serve(monkeypatch, CONTENT)
    assert download(REMOTE).read_bytes() == CONTENT
    assert download(REMOTE).read_bytes() == CONTENT
    assert asked == [REMOTE.url]
    assert files_below(folders) == ["file.bin"]


def test_a_wrong_checksum_is_an_error_that_leaves_nothing(monkeypatch, folders):
    serve(monkeypatch, b"other data")
    with pytest.raises(ValueError, match=r"the sha256 of https://example.org/file.bin must be"):
        download(REMOTE)
    assert files_below(folders) == []


def test_a_broken_connection_leaves_nothing(monkeypatch, folders):
    class Broken(io.BytesIO):
        def read(self, size=-1):
            if self.tell():
                raise ConnectionResetError("reset by peer")
            return super().read(4)

    monkeypatch.setattr(urllib.request, "urlopen", lambda request, timeout: Broken(CONTENT))
    with pytest.raises(FileNotFoundError, match="reset by peer"):
        download(REMOTE)
    assert files_below(folders) == []


def test_without_a_network_the_error_says_what_to_do(monkeypatch):
    def urlopen(request, timeout):
        raise urllib.error.URLError("no route to host")

    monkeypatch.setattr(urllib.request, "urlopen", urlopen)
    told = r"example.org/file.bin .*no route to host.*mine or .*file.bin or set/file.bin.*L2O_DATA"
    with pytest.raises(FileNotFoundError, match=told):
        locate(REMOTE, ("file.bin", "set/file.bin"), root="mine")


def test_a_folder_of_the_users_is_searched_first(monkeypatch, folders):
    asked = serve(monkeypatch, CONTENT)
    for name in ("root", "environment"):
        (folders / name).mkdir()
        (folders / name / "file.bin").write_text(name)
    monkeypatch.setenv("L2O_DATA", str(folders / "environment"))
    assert locate(REMOTE, ("file.bin",), root=str(folders / "root")).read_text() == "root"
    assert locate(REMOTE, ("file.bin",)).read_text() == "environment"
    assert find(("absent", "file.bin")) == folders / "environment" / "file.bin"
    assert asked == []


def test_published_md5_sums_are_checked_too(tmp_path):
    path = tmp_path / "file"
    path.write_bytes(CONTENT)
    check(path, Remote("file", "url", f"md5:{hashlib.md5(CONTENT).hexdigest()}"))
    with pytest.raises(ValueError, match="the md5 of url"):
        check(path, Remote("file", "url", "md5:0"))
