"""A browser for the tests of pages: the machine's own Chromium, which playwright drives.

A test asks for `open_page`, or for `browser`. Both are known in every file of tests.
"""

from __future__ import annotations

import asyncio
import os
import shutil
from asyncio import AbstractEventLoop
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import TYPE_CHECKING, Any, NamedTuple

import pytest

if TYPE_CHECKING:  # importing it takes long, and most tests open no page
    from playwright.sync_api import Browser, Page

NAMES = ("chromium", "chromium-browser", "google-chrome")  # as in chromium.sh, which installs the first
# Nothing but the page: no updates or accounts. It has no sandbox, since containers allow none.
OPTIONS = ["--no-sandbox", "--disable-gpu", "--disable-quic", "--no-first-run", "--disable-background-networking"]
OPTIONS += ["--disable-component-update", "--disable-sync"]
# Features that are off. Of such lists the last one counts, so it begins with what matters of playwright's. Then: each
# window has a process for what its address bar might drop down, which takes half of the time of a page.
OFF = ["AvoidUnnecessaryBeforeUnloadCheckSync", "DestroyProfileOnBrowserClose", "HttpsUpgrades", "LensOverlay"]
OFF += ["HttpsFirstBalancedModeAutoEnable", "MediaRouter", "PaintHolding", "ThirdPartyStoragePartitioning"]
OFF += ["OptimizationHints", "NetworkTimeServiceQuerying", "AimEnabled", "PreconnectToSearch"]
OFF += ["WebUIOmniboxPopup", "WebUIOmniboxAimPopup", "WebUIOmniboxFullPopup"]
OPTIONS += [f"--disable-features={','.join(OFF)}"]


def executable() -> str | None:
    """The path of the machine's Chromium, if it has one."""
    return next((path for name in NAMES if (path := shutil.which(name))), None)


def needed() -> str:
    """The path of the machine's Chromium. Without one, the test fails where CI is set, and is skipped elsewhere."""
    path = executable()
    if path is None:
        reason = f"this machine has none of {', '.join(NAMES)}; tests/chromium.sh installs one on Debian"
        if "CI" in os.environ:
            pytest.fail(reason)
        pytest.skip(reason)
    return path


SETTLED = """new Promise((go) => {
  const look = () => (elman.settled() ? go() : setTimeout(look, 10));
  requestAnimationFrame(() => requestAnimationFrame(look));  // by then, the page knows of another size and other colours
})"""


def settled(page: Page) -> None:
    """Waits until all views of a page of elman.explain show what is chosen."""
    page.evaluate(SETTLED)


class Launched(NamedTuple):
    """The browser of all tests in this process."""

    browser: Browser
    loop: AbstractEventLoop  # playwright's


@pytest.fixture(scope="session")
def launched() -> Iterator[Launched]:
    path = needed()
    from playwright.sync_api import sync_playwright

    with sync_playwright() as playwright:
        loop = asyncio.get_running_loop()
        browser = playwright.chromium.launch(executable_path=path, args=OPTIONS)
        with running(None):
            yield Launched(browser, loop)
        browser.close()


@contextmanager
def running(loop: AbstractEventLoop | None) -> Iterator[None]:
    """Makes asyncio take this loop for the one that runs.

    From its start to its stop, playwright's loop counts as running, and asyncio allows a thread only one. So it counts
    during the tests that use the browser, and the others may run a loop of their own.
    """
    before = asyncio._get_running_loop()
    asyncio._set_running_loop(loop)
    try:
        yield
    finally:
        asyncio._set_running_loop(before)


@pytest.fixture
def browser(launched: Launched) -> Iterator[Browser]:
    """Chromium, without a window. It is started once."""
    with running(launched.loop):
        yield launched.browser


class Opened(NamedTuple):
    """A page, and what has happened in it so far. It is noted while a function of playwright runs."""

    page: Page
    errors: list[str]  # that its scripts raised, or that its console shows
    requests: list[str]  # the addresses of all that it asked for; the first is its own


@contextmanager
def opening(browser: Browser) -> Iterator[Callable[..., Opened]]:
    """A function that opens an HTML file in a context of its own, without a network. All are closed in the end.

    Its options are those of playwright's `new_context`, such as locale, color_scheme, reduced_motion and has_touch.
    """
    contexts = []

    def open_page(path: Path, *, width: int = 1280, height: int = 800, **options: Any) -> Opened:
        context = browser.new_context(offline=True, viewport={"width": width, "height": height}, **options)
        contexts.append(context)
        opened = Opened(context.new_page(), [], [])
        context.on("request", lambda request: opened.requests.append(request.url))
        opened.page.on("websocket", lambda socket: opened.requests.append(socket.url))
        context.on("weberror", lambda error: opened.errors.append(str(error.error)))
        context.on("console", lambda said: opened.errors.append(said.text) if said.type == "error" else None)
        opened.page.goto(path.resolve().as_uri())
        return opened

    yield open_page
    for context in contexts:
        context.close()


@pytest.fixture
def open_page(browser: Browser) -> Iterator[Callable[..., Opened]]:
    """See opening."""
    with opening(browser) as open_page:
        yield open_page
