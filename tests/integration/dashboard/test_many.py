"""Five thousand tasks: seen within a second, scrolled and filtered without a wait."""

from __future__ import annotations

import statistics

import pytest
from playwright.sync_api import expect

from corral import Task
from corral.tasks import Variant
from tests.evidence import Evidence
from tests.integration.conftest import Fleet, until
from tests.integration.dashboard.conftest import Visitor
from tests.support.gateway import Gateway

TASKS = 5_000
LOADS = 5
BOUND = 1.0  # seconds until rows are seen
ROWS_DRAWN = 80  # more than a screen holds, and far from all

# Notes when the first row has been painted: a frame after it was there.
WATCH = """
const look = () => document.querySelector(".row")
  ? requestAnimationFrame(() => (window.painted = performance.now()))
  : requestAnimationFrame(look);
requestAnimationFrame(look);
"""


@pytest.fixture(scope="module", autouse=True)
def tasks(fleet: Fleet, gateway: Gateway) -> None:
    """So many tasks that wait for ever."""
    client = fleet.client()
    tasks = [
        Task("echo", {"n": n}, name=f"task {n:04}", project=f"p{n % 7}", needs=(Variant(gpus=9),))
        for n in range(TASKS)
    ]
    client.submit_many(tasks, batch=None)
    with gateway.client() as rest:
        until(
            "the gateway has heard of all",
            lambda: rest.get("/broker").json()["tasks"]["queued"] == TASKS,
        )


def test_they_are_seen_within_a_second(visitor: Visitor, evidence: Evidence) -> None:
    page = visitor.page
    page.add_init_script(WATCH)
    seconds = []
    for _ in range(LOADS):
        visitor.go("?view=queue")
        page.wait_for_function("window.painted")
        expect(page.get_by_text("5,000 shown")).to_be_visible()
        seconds.append(page.evaluate("window.painted") / 1000)
    evidence.record("dashboard", tasks=TASKS, first_paint_s=round(statistics.median(seconds), 3))
    assert statistics.median(seconds) < BOUND, seconds
    visitor.picture("many")


def test_only_rows_in_sight_are_drawn(visitor: Visitor) -> None:
    page = visitor.go("?view=queue")
    rows = page.locator(".row")
    expect(rows.first).to_contain_text("task 0000")
    assert rows.count() < ROWS_DRAWN
    page.locator(".table-body").evaluate("box => (box.scrollTop = box.scrollHeight)")
    expect(rows.filter(has_text="task 4999")).to_be_visible()
    assert rows.count() < ROWS_DRAWN
    expect(page.get_by_role("table")).to_have_attribute("aria-rowcount", str(TASKS))
    expect(rows.last).to_have_attribute("aria-rowindex", str(TASKS))
    chip = rows.filter(has_text="task 4999").locator(".chip")
    expect(chip).to_have_text("too few GPUs")


def test_verdicts_are_asked_for_rows_in_sight_alone(visitor: Visitor) -> None:
    asked: list[str] = []
    visitor.page.on("request", lambda one: "/explain" in one.url and asked.append(one.url))
    page = visitor.go("?view=queue")
    expect(page.locator(".row .chip").nth(10)).to_be_visible()
    assert 10 <= len(set(asked)) < ROWS_DRAWN


def test_they_are_walked_by_keys(visitor: Visitor) -> None:
    page = visitor.go("?view=queue")
    expect(page.locator(".row").first).to_be_visible()
    for _ in range(60):
        page.keyboard.press("j")
    chosen = page.locator(".row.chosen")
    expect(chosen).to_contain_text("task 0059")
    assert page.evaluate(
        "(([row, box]) => row.top >= box.top && row.bottom <= box.bottom)"
        "(['.row.chosen', '.table-body'].map("
        "name => document.querySelector(name).getBoundingClientRect()))"
    )


def test_columns_keep_their_widths(visitor: Visitor) -> None:
    page = visitor.go("?view=queue")
    heads = page.get_by_role("columnheader")
    expect(page.locator(".row").first).to_be_visible()

    def widths() -> list[float]:
        found: list[float] = heads.evaluate_all(
            "all => all.map(one => one.getBoundingClientRect().width)"
        )
        return found

    before = widths()
    page.get_by_label("Filter").fill("task 499")
    expect(page.locator(".row")).to_have_count(10)
    assert widths() == before
    page.get_by_label("project").select_option("p3")
    expect(page.get_by_text("1 shown")).to_be_visible()
    assert widths() == before
