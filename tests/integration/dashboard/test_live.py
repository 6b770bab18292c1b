"""The page is current without being asked, says so when it is not, and comes back by itself."""

from __future__ import annotations

import re
from collections.abc import Iterator
from pathlib import Path

import pytest
from playwright.sync_api import expect

from corral import Client
from tests.integration.conftest import PATIENCE, Fleet, until
from tests.integration.dashboard.conftest import Visitor
from tests.support.gateway import Gateway

UNREACHABLE = "ERR_"  # what Chromium writes of a connection that was cut or refused


@pytest.fixture
def client(fleet: Fleet) -> Client:
    return fleet.client()


def test_what_happens_is_seen(client: Client, visitor: Visitor) -> None:
    page = visitor.go("?view=queue&state=all&q=soon")
    task = client.submit("sleep", seconds=2.0)
    page.get_by_label("Filter").fill(task.id)
    row = page.locator(".row")
    expect(row).to_contain_text("sleep")
    row.get_by_role("link").first.click()
    expect(page.locator(".task-head .state")).to_have_text("running")
    expect(page.locator(".task-head .state")).to_have_text("succeeded")
    expect(page.locator(".json").last).to_have_text(re.compile(r"^2\.\d+"))


def test_a_log_is_followed(client: Client, visitor: Visitor) -> None:
    task = client.submit("chatter", words="first words", seconds=4.0)
    page = visitor.go(f"?view=task&id={task.id}")
    expect(page.locator(".log")).to_contain_text("first words by print")
    expect(page.locator(".log")).to_contain_text("first words by process")
    expect(page.locator(".task-head .state")).to_have_text("succeeded")


def test_pause_holds_the_page_still(client: Client, visitor: Visitor) -> None:
    page = visitor.go("?view=queue&state=all&kind=echo")
    rows = page.locator(".row")
    expect(page.locator(".link")).to_have_text("live")
    before = rows.count()
    page.keyboard.press("p")
    client.submit("echo", held=True).result(timeout=60)
    expect(page.locator(".link.held")).to_contain_text(re.compile(r"paused · [1-9]\d* changes?"))
    assert rows.count() == before
    page.keyboard.press("p")
    expect(rows).to_have_count(before + 1)


def test_a_gateway_that_starts_again_is_found(
    client: Client, gateway: Gateway, visitor: Visitor
) -> None:
    page = visitor.go("?view=queue&state=all")
    expect(page.locator(".link")).to_have_text("live")
    gateway.stop()
    expect(page.locator(".link.lost")).to_contain_text(
        re.compile(r"stale since \d\d:\d\d:\d\d · no gateway")
    )
    expect(page).to_have_title(re.compile("^stale: "))
    visitor.picture("stale")
    task = client.submit("echo", meanwhile=True)
    task.result(timeout=60)
    gateway.start()
    expect(page.locator(".link")).to_have_text("live")
    page.get_by_label("Filter").fill(task.id)
    expect(page.locator(".row")).to_have_count(1)
    visitor.forgive(UNREACHABLE)


def test_a_broker_that_starts_again_is_found(
    client: Client, fleet: Fleet, visitor: Visitor
) -> None:
    page = visitor.go("?view=queue&state=all")
    expect(page.locator(".link")).to_have_text("live")
    fleet.broker.kill()
    expect(page.locator(".link.lost")).to_contain_text("no broker")
    fleet.broker.start()
    expect(page.locator(".link")).to_have_text("live")
    task = client.submit("echo", after_all=True)
    task.result(timeout=60)
    page.get_by_label("Filter").fill(task.id)
    expect(page.locator(".row")).to_contain_text("succeeded")
    visitor.forgive("503")


@pytest.fixture
def moved(fleet: Fleet) -> Iterator[Gateway]:
    """A gateway of its own, to be stopped."""
    folder = Path(fleet.folder, "moved")
    folder.mkdir()
    with Gateway(folder, fleet.endpoint) as gateway:
        yield gateway


def test_open_pages_do_not_keep_a_gateway_from_ending(moved: Gateway, visitor: Visitor) -> None:
    visitor.gateway = moved
    page = visitor.go("?view=load")
    expect(page.locator(".link")).to_have_text("live")
    assert moved.stop() < 2.0
    expect(page.locator(".link.lost")).to_be_visible()
    visitor.forgive(UNREACHABLE)


def test_workers_that_come_and_go_are_seen(fleet: Fleet, visitor: Visitor) -> None:
    page = visitor.go("?view=rollouts")
    expect(page.locator(".cell-worker")).to_have_count(2)
    fleet.start_worker("w9")
    expect(page.locator(".cell-worker")).to_have_count(3)
    expect(page.locator(".changes")).to_contain_text("w9")
    process = fleet.workers["w9"]
    fleet.kill("w9")
    process.wait(PATIENCE)
    expect(page.locator(".cell-worker.s-unavailable")).to_have_text("w9")
    client = fleet.client()
    until("it is away", lambda: any(one.status == "unavailable" for one in client.workers()))
