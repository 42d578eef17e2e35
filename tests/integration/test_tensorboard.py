"""What a person sees of a run: TensorBoard's own server, its data interface, and its pages in a browser."""

import contextlib
import json
import shutil
import socket
import subprocess
import sys
import time
from urllib.parse import urlencode
from urllib.request import Request, urlopen

import pytest
import torch
import torch.nn.functional as F
from torch import nn

import l2o
from l2o.training.config import MetaTrainConfig
from l2o.training.meta_train_command import train
from l2o.types import seeded

CHROMIUM = shutil.which("chromium") or shutil.which("chromium-browser") or shutil.which("google-chrome")
CHROMIUM_ARGUMENTS = [
    *("--no-sandbox", "--disable-gpu", "--disable-quic", "--no-first-run", "--disable-background-networking"),
    *("--disable-component-update", "--disable-sync"),
]


@pytest.fixture(scope="module")
def runs(tmp_path_factory):
    """A meta-training run of four steps, and a training that was watched, with what they say they reached."""
    folder = tmp_path_factory.mktemp("runs")
    torch.manual_seed(0)
    config = MetaTrainConfig(rule="lstm", tasks="tests.integration.tiny:suite", steps=4, evaluate_every=2, threads=1)
    scores = train(config, folder / "meta", show_progress=False)
    net = nn.Linear(3, 2)
    optimizer = torch.optim.SGD(net.parameters(), lr=0.1)
    with l2o.watch(net, folder / "watched", every=1) as watch:
        for i in range(3):
            optimizer.zero_grad()
            F.mse_loss(net(torch.randn(8, 3, generator=seeded(i))), torch.zeros(8, 2)).backward()
            optimizer.step()
    return folder, scores, watch.newest


@pytest.fixture(scope="module")
def server(runs):
    """Where TensorBoard shows them."""
    with socket.socket() as free:
        free.bind(("127.0.0.1", 0))
        port = free.getsockname()[1]
    command = [sys.executable, "-W", "ignore", "-m", "tensorboard.main", "--logdir", str(runs[0]), "--port", str(port)]
    process = subprocess.Popen([*command, "--load_fast", "false"], stdout=subprocess.DEVNULL, stderr=subprocess.DEVNULL)
    address = f"http://127.0.0.1:{port}"
    try:
        until = time.time() + 240
        while time.time() < until and process.poll() is None:
            with contextlib.suppress(OSError):
                if len(get(address, "data/runs")) >= 2:
                    break
            time.sleep(0.5)
        else:
            raise RuntimeError("TensorBoard did not start")
        yield address
    finally:
        process.terminate()
        process.wait(30)


def get(address, path, body=None, **query):
    request = Request(
        f"{address}/{path}" + (f"?{urlencode(query)}" if query else ""),
        data=None if body is None else json.dumps(body).encode(),
        headers={"Content-Type": "application/json"},
    )
    with urlopen(request, timeout=60) as answer:
        return json.load(answer)


def test_the_server_has_curves_pictures_hyperparameters_and_layouts(runs, server):
    _, scores, newest = runs
    held_out = get(server, "data/plugin/scalars/scalars", run="meta/tensorboard", tag="held_out/score")
    assert [step for _, step, _ in held_out] == [2, 4]
    assert held_out[-1][2] == pytest.approx(scores["score"], rel=1e-5)
    watched = get(server, "data/plugin/scalars/scalars", run="watched", tag="update_ratio/weight")
    assert watched[-1][2] == pytest.approx(newest["update_ratio/weight"], rel=1e-5)
    pictures = get(server, "data/plugin/images/tags")
    assert pictures["meta/tensorboard"]["held_out/curves"]["samples"] == 1
    layout = get(server, "data/plugin/custom_scalars/layout")
    titles = {category["title"] for category in layout["category"]}
    assert {"meta-training", "held out", "layers"} <= titles
    shown = get(server, "data/plugin/hparams/experiment", body={"experimentName": ""})
    assert {"rule", "tasks", "lr"} <= {info["name"] for info in shown["hparamInfos"]}
    assert any(info["name"]["tag"] == "hparam/best" for info in shown["metricInfos"])


@pytest.mark.skipif(CHROMIUM is None, reason="no Chromium here")
def test_a_browser_shows_what_the_run_has_reached(runs, server):
    """The hyperparameters tab has the run's score and a setting, the curve of a layer its newest value."""
    playwright = pytest.importorskip("playwright.sync_api")
    _, scores, newest = runs
    with playwright.sync_playwright() as play:
        browser = play.chromium.launch(executable_path=CHROMIUM, args=CHROMIUM_ARGUMENTS)
        page = browser.new_page(viewport={"width": 1600, "height": 1400})
        page.set_default_timeout(120_000)
        page.goto(f"{server}/#hparams")
        page.get_by_text(f"{scores['score']:#.5g}", exact=True).first.wait_for()
        page.get_by_text("checkpoint_every").first.wait_for()
        page.goto(f"{server}/?tagFilter=update_ratio%2Fweight#timeseries")
        page.reload()
        curve = page.locator("line-chart").first
        shown, until = "", time.time() + 120
        while f"{newest['update_ratio/weight']:.4g}" not in shown and time.time() < until:
            box = curve.bounding_box()  # over the last point of the curve a box with numbers opens
            page.mouse.move(box["x"] + 0.94 * box["width"], box["y"] + box["height"] / 2)
            page.wait_for_timeout(500)
            page.mouse.move(box["x"] + 0.95 * box["width"], box["y"] + box["height"] / 2)
            page.wait_for_timeout(500)
            shown = " ".join(page.locator(".tooltip").all_inner_texts())
        browser.close()
    assert "watched" in shown and f"{newest['update_ratio/weight']:.4g}" in shown
