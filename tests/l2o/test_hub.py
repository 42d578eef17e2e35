"""The Hub through the real library: its cache on disk without a network, and a server here that speaks its protocol."""

import base64
import hashlib
import json
import threading
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer

import pytest
import torch

import l2o
from l2o import hub
from l2o.learners import MAML, MLP
from l2o.rules import LSTMRule
from l2o.training.config import MetaTrainConfig
from l2o.training.meta_train_command import train
from l2o.training.model_card import card, push

pytest.importorskip("huggingface_hub.constants")
import huggingface_hub

COMMIT = "a" * 40


@pytest.fixture
def cache(tmp_path, monkeypatch):
    """An empty cache, and no network."""
    monkeypatch.setattr(huggingface_hub.constants, "HF_HUB_CACHE", str(tmp_path / "cache"))
    monkeypatch.setattr(huggingface_hub.constants, "HF_HUB_OFFLINE", True)
    return tmp_path / "cache"


def lay(cache, name, files):
    """What huggingface_hub leaves behind after a download."""
    folder = cache / ("models--" + name.replace("/", "--"))
    (folder / "refs").mkdir(parents=True)
    (folder / "refs" / "main").write_text(COMMIT)
    (folder / "snapshots" / COMMIT).mkdir(parents=True)
    for file, data in files.items():
        (folder / "snapshots" / COMMIT / file).write_bytes(data)


def same(a, b):
    return a.config == b.config and all(torch.equal(x, b.state_dict()[key]) for key, x in a.state_dict().items())


def bytes_of(module, tmp_path):
    l2o.save(module, tmp_path / "it.safetensors")
    return (tmp_path / "it.safetensors").read_bytes()


@pytest.mark.parametrize("suffix", ["", "@main", f"@{COMMIT}"])
def test_what_is_in_the_cache_loads_without_a_network(cache, tmp_path, suffix):
    rule = LSTMRule(hidden_size=3)
    lay(cache, "org/small.lstm", {"rule.safetensors": bytes_of(rule, tmp_path)})
    assert same(rule, l2o.load(f"org/small.lstm{suffix}"))
    optimizer = l2o.LearnedOptimizer([torch.nn.Parameter(torch.ones(2))], f"org/small.lstm{suffix}")
    assert same(rule, optimizer.rule)


def test_damage_in_the_cache_is_told_as_in_any_file(cache, tmp_path):
    data = bytes_of(LSTMRule(hidden_size=3), tmp_path)
    lay(cache, "org/cut", {"rule.safetensors": data[:-7]})
    lay(cache, "org/pickle", {"rule.safetensors": b"\x80\x04evil"})
    with pytest.raises(ValueError, match="whole"):
        l2o.load("org/cut")
    with pytest.raises(ValueError, match="pickle"):
        l2o.load("org/pickle")


def test_without_a_network_what_is_not_in_the_cache_is_told(cache):
    with pytest.raises(FileNotFoundError, match=r"a name must be a path here, or in the Hub's cache.*org/unknown"):
        l2o.load("org/unknown")


def test_a_path_comes_before_the_hub(cache, tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    rule = LSTMRule(hidden_size=3)
    l2o.save(rule, "org/name/rule.safetensors")
    assert same(rule, l2o.load("org/name"))


def test_what_is_a_name_there():
    assert all(map(hub.is_name, ("org/name", "o/n_1.2-x", "org/name@v1.0", "org/name@refs/pr/1")))
    none = ("name", "a/b/c", "/a/b", "./a/b", "../a", "org/x.safetensors", "org/", "org/na me", "org/..", "org/name@")
    assert not any(map(hub.is_name, none))


class Server(BaseHTTPRequestHandler):
    """As much of the Hub as pushing and loading ask for."""

    def log_message(self, *args):
        pass

    def answer(self, status, body=b"", **headers):
        self.send_response(status)
        for key, value in headers.items():
            self.send_header(key.replace("_", "-"), value)
        if "Content_Length" not in headers:
            self.send_header("Content-Length", str(len(body)))
        self.end_headers()
        if self.command != "HEAD":
            self.wfile.write(body)

    def do_POST(self):
        body = self.rfile.read(int(self.headers["Content-Length"]))
        repositories, (*_, last) = self.server.repositories, self.path.strip("/").split("/")
        if self.path == "/api/repos/create":
            told = json.loads(body)
            name = f"{told['organization']}/{told['name']}"
            repositories.setdefault(name, {})
            found = {"url": f"{self.server.address}/{name}"}
        elif self.path == "/api/validate-yaml":
            assert json.loads(body)["content"].startswith("---\nlibrary_name: l2o\n")
            found = {"errors": [], "warnings": []}
        else:
            assert last == "main"
            _, _, organization, name, action, _ = self.path.strip("/").split("/")
            if action == "preupload":
                found = {
                    "files": [
                        {**file, "uploadMode": "regular", "shouldIgnore": False} for file in json.loads(body)["files"]
                    ]
                }
            else:
                for entry in map(json.loads, body.decode().splitlines()):
                    if entry["key"] == "file":
                        data = base64.b64decode(entry["value"]["content"])
                        repositories[f"{organization}/{name}"][entry["value"]["path"]] = data
                found = {"commitUrl": f"{self.server.address}/{organization}/{name}/commit/{COMMIT}"}
                found["commitOid"] = COMMIT
        self.answer(200, json.dumps(found).encode(), Content_Type="application/json")

    def do_HEAD(self):
        organization, name, resolve, _, *path = self.path.strip("/").split("/")
        files = self.server.repositories.get(f"{organization}/{name}")
        data = None if files is None else files.get("/".join(path))
        if resolve != "resolve" or data is None:
            code = "RepoNotFound" if files is None else "EntryNotFound"
            self.answer(404, X_Error_Code=code, X_Repo_Commit=COMMIT)
        else:
            size = self.server.sizes.get(name, len(data))
            etag = f'"{hashlib.sha256(data).hexdigest()}"'
            self.answer(200, data, ETag=etag, X_Repo_Commit=COMMIT, Content_Length=str(size))

    do_GET = do_HEAD  # noqa: N815


@pytest.fixture
def server(tmp_path, monkeypatch):
    """A Hub of our own, and a cache for it."""
    monkeypatch.setattr(huggingface_hub.constants, "HF_HUB_CACHE", str(tmp_path / "cache"))
    monkeypatch.setattr(huggingface_hub.constants, "HF_HUB_OFFLINE", False)
    monkeypatch.setenv("NO_PROXY", "127.0.0.1")
    with ThreadingHTTPServer(("127.0.0.1", 0), Server) as running:
        running.repositories, running.sizes = {}, {}
        running.address = f"http://127.0.0.1:{running.server_port}"
        monkeypatch.setenv("HF_ENDPOINT", running.address)
        thread = threading.Thread(target=running.serve_forever)
        thread.start()
        yield running
        running.shutdown()
        thread.join()


@pytest.mark.filterwarnings("ignore")  # what the library warns about is its own
def test_what_is_pushed_loads_again_and_later_without_a_network(server, monkeypatch):
    rule = LSTMRule(hidden_size=3)
    assert rule.push_to_hub("org/mine", token="hf_x") == f"{server.address}/org/mine"
    assert set(server.repositories["org/mine"]) == {"rule.safetensors", "README.md"}
    assert same(rule, l2o.load("org/mine"))
    server.repositories["org/large"] = server.repositories["org/mine"]
    server.sizes["large"] = 1 << 40
    with pytest.raises(ValueError, match=r"at most 4,294,967,296 bytes; on org/large it has 1,099,511,627,776"):
        l2o.load("org/large")
    with pytest.raises(FileNotFoundError, match="a path here or a repository on the Hub; org/none is neither"):
        l2o.load("org/none")
    server.repositories["org/other"] = {"model.bin": b"..."}
    with pytest.raises(ValueError, match=r"must hold rule\.safetensors or learner\.safetensors; org/other does not"):
        l2o.load("org/other")
    monkeypatch.setattr(huggingface_hub.constants, "HF_HUB_OFFLINE", True)
    assert same(rule, l2o.load("org/mine"))


def test_only_names_of_the_hub_are_pushed():
    for name in ("mine", "org/mine@main", "a/b/c"):
        with pytest.raises(ValueError, match="a name on the Hub must be org/name"):
            push(LSTMRule(hidden_size=3), name)


def test_the_card_tells_what_it_is_and_how_it_was_trained(tmp_path):
    torch.manual_seed(0)
    config = MetaTrainConfig(rule="lstm", tasks="tests.integration.tiny:suite", steps=2, threads=1)
    scores = train(config, tmp_path / "run", show_progress=False)
    rule = l2o.load(tmp_path / "run")
    text = card(rule, "org/mine", tmp_path / "run")
    assert text.startswith("---\nlibrary_name: l2o\n")
    assert "optimizer = l2o.LearnedOptimizer(model.parameters(), 'org/mine', total_steps=10_000)" in text
    assert "| tasks | tests.integration.tiny:suite |" in text and "2 outer steps" in text
    assert f"| score | {scores['score']:.4g} |" in text
    assert f"{sum(p.numel() for p in rule.parameters()):,} weights" in text
    with pytest.raises(FileNotFoundError, match="there is none in"):
        card(rule, "org/mine", tmp_path / "nowhere")


def test_learners_have_cards_too():
    assert "learner = l2o.load('org/maml')" in card(MAML(MLP(sizes=(3, 4, 2))), "org/maml")
