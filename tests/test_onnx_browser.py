"""The page of examples/browser in Chromium: the same text as in Python, from the .onnx file alone. `make browser` fetches what it needs."""

from __future__ import annotations

import functools
import http.server
import shutil
import threading
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import numpy as np
import onnx
import pytest

import elman.onnx
from browser import Opened
from elman.datasets.vocabulary import WORD
from tiny_runs import elman as command
from tiny_runs import prose

PAGE = Path(__file__).parent.parent / "examples" / "browser"
RUNTIME = PAGE / "onnxruntime-web"
pytestmark = [
    pytest.mark.skipif(
        not RUNTIME.exists(), reason="onnxruntime-web is not there; `make browser` fetches it and runs these tests"
    ),
    pytest.mark.filterwarnings("ignore:.*treespec.*:FutureWarning"),
]


def run_of(directory: Path, *options: object) -> Path:
    """A run that has learned a little, so that its text does not soon repeat itself."""
    (directory / "text.txt").write_text((prose(900) + "é: ") * 6)
    small = "--hidden-size", 64, "--epochs", 16, "--evaluations", 1, "--batch-size", 4, "--window", 32, *options
    outcome = command("train", "lm", directory / "text.txt", "--run", directory / "run", *small)
    assert outcome.status == 0, outcome.err
    return directory / "run"


@pytest.fixture
def site(tmp_path: Path) -> Iterator[tuple[Path, str]]:
    """A folder with the page, and the address where it is served."""
    folder = tmp_path / "site"
    shutil.copytree(PAGE, folder, ignore=shutil.ignore_patterns("onnxruntime-web", "model.onnx"))
    (folder / "onnxruntime-web").symlink_to(RUNTIME)

    class Quiet(http.server.SimpleHTTPRequestHandler):
        extensions_map = http.server.SimpleHTTPRequestHandler.extensions_map | {".mjs": "text/javascript"}

        def log_message(self, format: str, *arguments: Any) -> None:
            pass

    server = http.server.ThreadingHTTPServer(("127.0.0.1", 0), functools.partial(Quiet, directory=str(folder)))
    threading.Thread(target=server.serve_forever, daemon=True).start()
    yield folder, f"http://127.0.0.1:{server.server_address[1]}/"
    server.shutdown()
    server.server_close()


@pytest.fixture
def opened(browser: Any, site: tuple[Path, str]) -> Iterator[Any]:
    """A function that opens the page; all that it asks for is noted."""
    contexts = []

    def open_page(width: int = 1280, **options: Any) -> Opened:
        context = browser.new_context(viewport={"width": width, "height": 900}, **options)
        contexts.append(context)
        context.route(lambda address: not address.startswith(site[1]), lambda route: route.abort())  # no network
        found = Opened(context.new_page(), [], [])
        context.on("request", lambda request: found.requests.append(request.url))
        context.on("weberror", lambda error: found.errors.append(str(error.error)))
        context.on("console", lambda said: found.errors.append(said.text) if said.type == "error" else None)
        found.page.goto(site[1])
        return found

    yield open_page
    for context in contexts:
        context.close()


def written(shown: Opened, prompt: str, length: int, temperature: str = "0") -> str:
    page = shown.page
    page.wait_for_function("!document.getElementById('write').disabled")
    for name, value in (("prompt", prompt), ("length", str(length)), ("temperature", temperature)):
        page.locator(f"#{name}").fill(value)
    page.locator("#write").click()
    page.wait_for_function("document.getElementById('state').textContent.includes(' a second')", timeout=60_000)
    return page.locator("#text").evaluate("node => node.textContent")


@pytest.mark.parametrize("unit", ["characters", "bytes", "words"])
def test_the_same_text_as_in_python(tmp_path: Path, site: tuple[Path, str], opened: Any, unit: str) -> None:
    cell = "peephole_lstm" if unit == "words" else "gru_before"
    run = run_of(tmp_path, "--unit", unit, "--cell", cell, "--num-layers", 2)
    elman.onnx.export_run(run, site[0] / "model.onnx", streaming=True)
    prompt = " of to " if unit == "words" else "the of"
    shown = opened()
    text = written(shown, prompt, 300)
    want = command("sample", run, "--prompt", prompt, "--length", 300, "--temperature", 0, "--seed", 0).out[:-1]
    assert text == want
    assert len(set(text[-100:])) > 5
    assert shown.errors == []
    assert all(address.startswith((site[1], "data:", "blob:")) for address in shown.requests), shown.requests
    random = written(shown, prompt, 60, "1")
    assert random.startswith(prompt.rstrip())
    assert random != want[: len(random)]


def test_texts_are_cut_as_in_python(tmp_path: Path, site: tuple[Path, str], opened: Any) -> None:
    """In words, with the white space of Python; bytes to text, whatever the text before ended in."""
    elman.onnx.export_run(run_of(tmp_path), site[0] / "model.onnx", streaming=True)
    page = opened().page
    text = "a b_1  \u00e9\u4e2d!? x\ufeff.\x1cy\x85\u3000z \ufeff\n- \u0661 \u2028end"
    words = sorted(set(WORD.findall(text)))
    script = """async ([words, text]) => {
        const { Vocabulary } = await import("./model.js");
        return new Vocabulary({ unit: "words", words }).encode(text).map((number) => words[number]);
    }"""
    assert page.evaluate(script, [words, text]) == WORD.findall(text)
    script = """async () => {
        const { Vocabulary } = await import("./model.js");
        const vocabulary = new Vocabulary({ unit: "bytes" });
        return [[0xc3], [0xef, 0xbb, 0xbf, 0x61], [0xc3, 0xa9]].map((bytes) => bytes.map(vocabulary.decoder()).join(""));
    }"""
    assert page.evaluate(script) == ["", "\ufeffa", "\u00e9"]


def test_how_fast_it_writes(tmp_path: Path, site: tuple[Path, str], opened: Any) -> None:
    """Prints it; no test depends on how fast a machine is."""
    for cell in ("lstm", "gru"):
        folder = tmp_path / cell
        folder.mkdir()
        elman.onnx.export_run(
            run_of(folder, "--num-layers", 2, "--cell", cell),
            site[0] / "model.onnx",
            streaming=True,
        )
        shown = opened()
        written(shown, "the ", 500)
        written(shown, "the ", 5000)
        print(f"\n{cell}, two layers of 64 units: {shown.page.locator('#state').text_content()}")


def test_anyone_can_use_it(tmp_path: Path, site: tuple[Path, str], opened: Any) -> None:
    from axe_playwright_python.sync_playwright import Axe

    elman.onnx.export_run(run_of(tmp_path), site[0] / "model.onnx", streaming=True)
    for width, scheme in ((390, "dark"), (1280, "light")):
        shown = opened(width, color_scheme=scheme)
        written(shown, "the ", 300)
        found = Axe().run(shown.page)
        assert found.response["violations"] == []
        assert shown.page.evaluate("document.documentElement.scrollWidth") <= width
        shown.page.screenshot(path=str(tmp_path / f"page-{scheme}.png"))


def test_what_is_wrong_is_said(tmp_path: Path, site: tuple[Path, str], opened: Any) -> None:
    shown = opened()
    shown.page.wait_for_function("document.getElementById('state').textContent.includes('there is no model.onnx')")
    elman.onnx.export_run(run_of(tmp_path), site[0] / "model.onnx")
    shown = opened()
    shown.page.wait_for_function(
        "document.getElementById('state').textContent.includes('no language model of one step')"
    )
    assert shown.page.locator("#write").is_disabled()
    (site[0] / "model.onnx").write_text("no model")
    shown = opened()
    shown.page.wait_for_function(
        "document.getElementById('state').textContent.includes('no language model of one step')"
    )
    elman.onnx.export_run(tmp_path / "run", site[0] / "model.onnx", streaming=True)
    shown = opened()
    shown.page.wait_for_function("!document.getElementById('write').disabled")
    shown.page.locator("#prompt").fill("the \N{SNOWMAN}")
    shown.page.locator("#write").click()
    shown.page.wait_for_function("document.getElementById('state').textContent.includes('not in the model')")
    (site[0] / "onnxruntime-web").unlink()
    shown = opened()
    shown.page.wait_for_function("document.getElementById('state').textContent.includes('run make browser')")


def test_a_model_of_nothing(tmp_path: Path, site: tuple[Path, str], opened: Any) -> None:
    """One whose weights are NaN."""
    model = elman.onnx.export_run(run_of(tmp_path), site[0] / "model.onnx", streaming=True).path
    content = onnx.load(model)
    for each in content.graph.initializer:
        if each.data_type == onnx.TensorProto.FLOAT:
            each.CopyFrom(onnx.numpy_helper.from_array(np.full(each.dims, np.nan, np.float32), each.name))
    onnx.save(content, model)
    shown = opened()
    shown.page.wait_for_function("!document.getElementById('write').disabled")
    shown.page.locator("#prompt").fill("the ")
    shown.page.locator("#write").click()
    shown.page.wait_for_function("document.getElementById('state').textContent.includes('the model predicts NaN')")
