"""A real browser before a real gateway: Debian's Chromium, driven by Playwright.

A visitor's page may write no error to its console and raise none, or its test fails. Pictures of
what was seen are kept in `build/dashboard`, for people to look at.
"""

from __future__ import annotations

import ctypes
import os
import re
import subprocess
from collections.abc import Callable, Iterator
from pathlib import Path

import httpx
import pytest
from playwright.sync_api import Browser, Page, expect, sync_playwright

from tests.integration.conftest import PATIENCE, Fleet, until
from tests.support.gateway import Gateway, token

CHROMIUM = "/usr/bin/chromium"
PICTURES = Path(__file__).parents[3] / "build" / "dashboard"
CLONE_NEWNET = 0x40000000  # as <linux/sched.h> has it
WIDE, NARROW = {"width": 1280, "height": 800}, {"width": 390, "height": 844}

expect.set_options(timeout=PATIENCE * 1000)


def pytest_terminal_summary(terminalreporter: pytest.TerminalReporter) -> None:
    if PICTURES.is_dir():
        terminalreporter.line(f"pictures of the dashboard: {PICTURES}")


class Visitor:
    """One person with a browser."""

    def __init__(self, page: Page, gateway: Gateway) -> None:
        self.page = page
        self.gateway = gateway
        self.errors: list[str] = []
        page.set_default_timeout(PATIENCE * 1000)
        page.on("console", lambda one: one.type == "error" and self.errors.append(one.text))
        page.on("pageerror", lambda one: self.errors.append(str(one)))

    def go(self, query: str = "") -> Page:
        """Open a place of the dashboard, and wait until it shows something."""
        self.page.goto(f"http://{self.gateway.bind}/{query}")
        expect(self.page.locator("main .view")).to_be_visible()
        return self.page

    def picture(self, name: str) -> None:
        """Keep what is seen."""
        PICTURES.mkdir(parents=True, exist_ok=True)
        self.page.screenshot(path=PICTURES / f"{name}.png")

    def fits(self) -> bool:
        """Whether nothing is wider than the window."""
        wide: bool = self.page.evaluate(
            "document.documentElement.scrollWidth <= innerWidth"
            " && document.querySelector('main').scrollWidth <= innerWidth"
        )
        return wide

    def forgive(self, pattern: str) -> None:
        """Forget errors that a test has made on purpose."""
        self.errors = [one for one in self.errors if not re.search(pattern, one)]


def admitted(gateway: Gateway, folder: Path, name: str, role: str) -> str:
    """A new token, once the gateway has read of it."""
    known = token(folder, name, role)
    me = f"http://{gateway.bind}/api/v1/me"
    cookie = {"cookie": f"corral={known}"}
    until("it is known", lambda: httpx.get(me, headers=cookie).status_code == 200)
    return known


@pytest.fixture(scope="package", autouse=True)
def network() -> Iterator[None]:
    """A network of their own for this process and its children.

    Chromium drops its connections whenever an interface comes or goes, as those of containers do
    that other tests boot. Only root boots any.
    """
    if os.geteuid() != 0:
        yield
        return
    kernel = ctypes.CDLL(None, use_errno=True)

    def ask(call: str, *arguments: int) -> None:
        if getattr(kernel, call)(*arguments) != 0:
            raise OSError(ctypes.get_errno(), call)

    with open("/proc/thread-self/ns/net") as shared:
        ask("unshare", CLONE_NEWNET)
        try:
            subprocess.run(["ip", "link", "set", "lo", "up"], check=True)
            yield
        finally:
            ask("setns", shared.fileno(), CLONE_NEWNET)


@pytest.fixture(scope="package")
def browser(network: None) -> Iterator[Browser]:
    """A browser, with nothing of a display; as root it has no sandbox."""
    assert Path(CHROMIUM).exists(), "there is no Chromium; type: make browser"
    with sync_playwright() as playwright:
        browser = playwright.chromium.launch(executable_path=CHROMIUM, args=["--no-sandbox"])
        yield browser
        browser.close()


@pytest.fixture(scope="module")
def fleet(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Fleet]:
    """A broker with two workers, one of them with a GPU."""
    fleet = Fleet(tmp_path_factory.mktemp("fleet"))
    try:
        fleet.start_worker("g1", 2, "--gpu", "GPU-7c5a=24GB")
        fleet.start_worker("w1", 2)
        yield fleet
    finally:
        fleet.close()


@pytest.fixture(scope="module")
def gateway(fleet: Fleet) -> Iterator[Gateway]:
    """A gateway without tokens."""
    with Gateway(fleet.folder, fleet.endpoint) as gateway:
        yield gateway


Visit = Callable[..., Visitor]


@pytest.fixture
def visit(browser: Browser) -> Iterator[Visit]:
    """Makes visitors; `dark`, `narrow`."""
    visitors: list[Visitor] = []

    def make(gateway: Gateway, dark: bool = False, narrow: bool = False) -> Visitor:
        context = browser.new_context(
            viewport=NARROW if narrow else WIDE,
            color_scheme="dark" if dark else "light",
            has_touch=narrow,
        )
        visitor = Visitor(context.new_page(), gateway)
        visitors.append(visitor)
        return visitor

    yield make
    errors = [one for visitor in visitors for one in visitor.errors]
    for visitor in visitors:
        visitor.page.context.close()  # which may cut off what is on its way
    assert errors == []


@pytest.fixture
def visitor(visit: Visit, gateway: Gateway) -> Visitor:
    """Somebody with a wide and light screen."""
    return visit(gateway)
