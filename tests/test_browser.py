"""The browser that other tests open pages in."""

from __future__ import annotations

import asyncio
import subprocess
from collections.abc import Callable
from pathlib import Path

import pytest

import browser
from browser import Launched, Opened

PAGE = """<!doctype html>
<html lang="en">
<meta charset="utf-8">
<title>A page</title>
<main><h1>A page</h1><p>Empty</p></main>
<script>
  const asks = (question) => matchMedia(question).matches;
  document.querySelector("p").textContent = [navigator.language, innerWidth, navigator.maxTouchPoints > 0,
    asks("(prefers-color-scheme: dark)"), asks("(prefers-reduced-motion: reduce)")].join(" ");
</script>
</html>
"""
# Each of these lines does what a page of ours must not do.
FAULTY = PAGE.replace(
    "</html>",
    """<img src="http://elsewhere.invalid/picture.png" alt="">
<script>console.error("said by the page")</script>
<script>throw new Error("raised by the page")</script>
</html>""",
)


@pytest.fixture
def page_of(tmp_path: Path, open_page: Callable[..., Opened]) -> Callable[..., Opened]:
    def page_of(source: str, **options: object) -> Opened:
        path = tmp_path / "page.html"
        path.write_text(source, encoding="utf-8")
        return open_page(path, **options)

    return page_of


def test_a_page_opens_and_asks_for_nothing(tmp_path: Path, page_of: Callable[..., Opened]) -> None:
    plain = page_of(PAGE, locale="en-GB")
    assert plain.page.inner_text("p") == "en-GB 1280 false false false"
    other = page_of(PAGE, locale="zh-CN", width=400, color_scheme="dark", reduced_motion="reduce", has_touch=True)
    assert other.page.inner_text("p") == "zh-CN 400 true true true"
    for opened in (plain, other):
        assert opened.errors == []
        assert opened.requests == [(tmp_path / "page.html").as_uri()]


def test_what_a_page_does_wrong_is_seen(page_of: Callable[..., Opened]) -> None:
    opened = page_of(FAULTY)
    assert opened.requests[1:] == ["http://elsewhere.invalid/picture.png"]
    assert {"said by the page", "raised by the page"} <= set(opened.errors)
    socket = "ws://elsewhere.invalid/socket"
    opened.page.evaluate("address => new Promise(done => { new WebSocket(address).onerror = () => done() })", socket)
    assert opened.requests[2:] == [socket]


def test_axe_finds_what_keeps_people_out(page_of: Callable[..., Opened]) -> None:
    from axe_playwright_python.sync_playwright import Axe

    assert Axe().run(page_of(PAGE).page).response["violations"] == []
    found = Axe().run(page_of(PAGE.replace(' lang="en"', "")).page).response["violations"]
    assert [violation["id"] for violation in found] == ["html-has-lang"]


def test_others_may_run_loops_of_their_own(launched: Launched) -> None:
    asyncio.run(asyncio.sleep(0))


NONE = "this machine has none of chromium, chromium-browser, google-chrome; "


def test_without_a_browser(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(browser.shutil, "which", lambda name: None)
    monkeypatch.delenv("CI", raising=False)
    with pytest.raises(pytest.skip.Exception, match=NONE):
        browser.needed()
    monkeypatch.setenv("CI", "true")
    with pytest.raises(pytest.fail.Exception, match=NONE):
        browser.needed()


# The script that installs it: machines that are made of a folder of commands.


@pytest.fixture
def machine(tmp_path: Path) -> Callable[..., subprocess.CompletedProcess[str]]:
    def machine(**commands: str) -> subprocess.CompletedProcess[str]:
        folder = tmp_path / "bin"
        folder.mkdir()
        for name, lines in commands.items():
            path = folder / name.replace("_", "-")
            path.write_text(f"#!/bin/sh\n{lines}\n", encoding="utf-8")
            path.chmod(0o755)
        script = Path(__file__).parent / "chromium.sh"
        environment = {"PATH": str(folder), "FOLDER": str(folder)}
        return subprocess.run(
            ["/bin/bash", script], env=environment, capture_output=True, text=True, check=True, timeout=60
        )

    return machine


APT = """PATH=/usr/bin:/bin
echo "$@" >> $FOLDER/log
case "$*" in *install*chromium*) cp $0 $FOLDER/chromium;; esac"""
FAILING = "echo 'Unable to locate package chromium' >&2; exit 100"
SUDO = 'shift; exec "$@"'
ENV = 'exec /usr/bin/env "$@"'


@pytest.mark.parametrize("name", browser.NAMES)
def test_the_script_prints_what_is_there(machine: Callable[..., subprocess.CompletedProcess[str]], name: str) -> None:
    done = machine(**{name: "exit 1", "apt_get": FAILING})
    assert (Path(done.stdout.strip()).name, done.stderr) == (name, "")


def test_the_script_installs(machine: Callable[..., subprocess.CompletedProcess[str]], tmp_path: Path) -> None:
    done = machine(apt_get=APT, sudo=SUDO, env=ENV, true="exit 0")
    assert Path(done.stdout.strip()) == tmp_path / "bin" / "chromium"
    assert (tmp_path / "bin" / "log").read_text(encoding="utf-8").splitlines() == [
        "-qq update",
        "-qq -y install --no-install-recommends chromium fonts-noto-cjk",
    ]


@pytest.mark.parametrize("commands", [{}, {"apt_get": FAILING, "sudo": "exit 1"}], ids=["no apt-get", "no package"])
def test_the_script_says_that_tests_will_be_skipped(
    machine: Callable[..., subprocess.CompletedProcess[str]], commands: dict[str, str]
) -> None:
    done = machine(**commands)
    assert done.stdout == ""
    assert done.stderr.splitlines()[-1].startswith("The tests of pages will be skipped: no Chromium was found; install")
