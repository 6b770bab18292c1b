"""Any past moment can be shown, after the gateway has started again too."""

from __future__ import annotations

import re
import time
from collections.abc import Iterator
from typing import NamedTuple

import pytest
from playwright.sync_api import expect

from corral import Task
from tests.integration.conftest import Fleet, until
from tests.integration.dashboard.conftest import Visit, Visitor
from tests.support.gateway import Gateway


class Day(NamedTuple):
    """What happened, and when."""

    gateway: Gateway
    before: float  #: nothing had been submitted
    during: float  #: one task ran on g1 and its GPU; w1 was drained
    after: float  #: it had ended


@pytest.fixture(scope="module")
def day(fleet: Fleet) -> Iterator[Day]:
    folder = fleet.folder / "past"
    folder.mkdir()
    client = fleet.client()
    with Gateway(folder, fleet.endpoint, "--history", folder / "history.db") as gateway:
        with gateway.client() as rest:
            until("the history has begun", lambda: rest.get("/past?at=9e9").json()["workers"])
            before = time.time()
            client.drain("w1", "for a while")
            params = {"folder": str(folder), "seconds": 10.0}
            [handle] = client.submit_many([Task("gpu_lock", params, name="ran", project="day")])

            def ran() -> bool:
                """It is known to have run where it did."""
                told = rest.get(f"/past?at={time.time()}").json()
                [row] = told["tasks"] or [{}]
                drained = [one for one in told["workers"] if one["admission"] == "drained"]
                return bool(row.get("gpus")) and bool(drained)

            until("it runs", ran)
            during = time.time()
            assert handle.result(timeout=60)
            client.resume("w1")
            until(
                "that is noted",
                lambda: (
                    rest.get("/past?at=9e9").json()["counts"] == {"succeeded": 1}
                    and not [
                        one
                        for one in rest.get("/past?at=9e9").json()["workers"]
                        if one["admission"] != "open"
                    ]
                ),
            )
        after = time.time()
        gateway.stop()
        gateway.start()
        yield Day(gateway, before, during, after)


@pytest.fixture
def looker(visit: Visit, day: Day) -> Visitor:
    return visit(day.gateway)


def test_tasks_are_shown_as_they_were(day: Day, looker: Visitor) -> None:
    page = looker.go(f"?view=queue&state=all&at={day.during}")
    row = page.locator(".row")
    expect(row.locator(".state")).to_have_text("running")
    expect(page.get_by_role("link", name="running")).to_contain_text("1")
    page.goto(page.url.replace(str(day.during), str(day.after)))
    expect(row.locator(".state")).to_have_text("succeeded")
    page.goto(page.url.replace(str(day.after), str(day.before)))
    expect(page.get_by_text("Nothing here.")).to_be_visible()


def test_the_fleet_is_shown_as_it_was(day: Day, looker: Visitor) -> None:
    page = looker.go(f"?view=fleet&span=2m&at={day.during}")
    expect(page.locator(".lane.gpu .lane-bar.s-running")).to_have_text("ran")
    expect(page.locator(".worker").filter(has_text="w1")).to_contain_text("drained")
    expect(page.locator(".figures")).to_contain_text("1 of 1 GPU")
    looker.picture("past")
    page.get_by_role("link", name="Roll-outs").click()
    expect(page.locator(".leaving")).to_contain_text("for a while")
    expect(page).to_have_url(re.compile("at="))  # the moment goes along


def test_the_past_is_found_by_a_line_of_time(day: Day, looker: Visitor) -> None:
    page = looker.go("?view=queue&state=all")
    expect(page.locator(".row .state")).to_have_text("succeeded")
    page.get_by_role("link", name="Past").click()
    line = page.get_by_role("group", name="A past moment")
    expect(line).to_contain_text("as of")
    slider = page.get_by_role("slider", name="Moment")
    second = int(day.during) + 1
    slider.evaluate(
        "(one, to) => { one.value = to; one.dispatchEvent(new Event('input', {bubbles: true})); }",
        second,
    )
    expect(page.locator(".row .state")).to_have_text("running")
    expect(page).to_have_url(re.compile(f"at={second}"))
    slider.press("ArrowRight")
    expect(page).to_have_url(re.compile(f"at={second + 1}"))
    line.get_by_role("link", name="Back to now").click()
    expect(line).to_have_count(0)
    expect(page.locator(".row .state")).to_have_text("succeeded")


def test_what_has_passed_can_only_be_looked_at(day: Day, looker: Visitor) -> None:
    page = looker.go(f"?view=queue&project=day&at={day.during}")
    expect(page.locator(".row .state")).to_have_text("running")
    expect(page.get_by_role("button", name=re.compile("Cancel"))).to_have_count(0)
    page.keyboard.press("j")
    page.keyboard.press("x")
    expect(page.get_by_role("dialog")).to_have_count(0)


def test_depth_and_changes_go_on_after_a_restart(day: Day, looker: Visitor) -> None:
    with day.gateway.client() as rest:
        assert rest.get("/broker/depth").json()[0]["at"] < day.before
    page = looker.go("?view=rollouts")
    expect(page.locator(".changes")).to_contain_text("for a while")


def test_a_gateway_without_a_history_says_so(gateway: Gateway, visitor: Visitor) -> None:
    page = visitor.go("?view=queue&at=1000")
    expect(page.get_by_role("group", name="A past moment")).to_contain_text("--history FILE")
    page.get_by_role("link", name="Back to now").click()
    expect(page.get_by_role("link", name="Past")).to_have_count(0)
    visitor.forgive("404")
