"""What is written can be read, on a laptop and on a telephone: nothing is cut beside empty room."""

from __future__ import annotations

import re

import pytest
from playwright.sync_api import Page, expect

from corral import Task
from corral.tasks import Variant
from tests.integration.conftest import Fleet, until
from tests.integration.dashboard.conftest import Visit, Visitor
from tests.support.gateway import Gateway

NAMES = ("AAPL/2024-06/mlp/train", "AAPL/2024-07/mlp/train")
VIEWS = 8
ODD = re.compile(r"\d\.\d{2,} [KMGT]iB|\d [kMGT]B\b")  # two decimals, or thousands

# Texts that are wider than the room they have, and rows that hold more than their height.
CUT = """all => all
  .filter((one) => one.scrollWidth > one.clientWidth || one.scrollHeight > one.clientHeight + 1)
  .map((one) => `${one.className}: ${one.textContent}`)"""

# How many neighbours on one line have texts that touch.
TOUCH = """all => all.flatMap((step) => {
  const boxes = [...step.children].map((one) => {
    const text = document.createRange();
    text.selectNodeContents(one);
    return text.getBoundingClientRect();
  });
  const touches = (one, next) => next.top < one.bottom - 4 && next.left < one.right + 4;
  return boxes.slice(1).filter((box, n) => touches(boxes[n], box));
}).length"""


@pytest.fixture(scope="module", autouse=True)
def ended(fleet: Fleet, gateway: Gateway) -> str:
    """The id of a task that has succeeded; two more wait for what nobody has."""
    client = fleet.client()
    cards = (Variant(gpus=2),)
    waiting = [Task("sleep", {"seconds": 1.0}, name=name, needs=cards) for name in NAMES]
    handles = client.submit_many([Task("echo", {"n": 1}), *waiting], batch=None)
    until("it is over", lambda: client.show([handles[0].id])[0].state.value == "succeeded")
    return handles[0].id


def all_is_read(page: Page) -> None:
    rows = page.locator(".row")
    expect(rows).to_have_count(2)
    for what in (".row", ".row .cell", ".row .chip"):
        assert page.locator(what).evaluate_all(CUT) == [], what


@pytest.mark.parametrize("narrow", [False, True], ids=["laptop", "telephone"])
def test_names_and_reasons_of_the_queue(visit: Visit, gateway: Gateway, narrow: bool) -> None:
    visitor = visit(gateway, narrow=narrow)
    page = visitor.go("?view=queue")
    expect(page.locator(".row .chip")).to_have_text(["too few GPUs"] * 2)
    cure = page.locator(".row").filter(has_text=NAMES[0]).locator(".cure")
    expect(cure).to_have_text("g1 has 1 GPU more than it has")
    if not narrow:  # where its beginning is seen, and all of it is on the task's page
        assert cure.evaluate_all(CUT) == []
    all_is_read(page)
    visitor.picture(f"widths-queue-{'narrow' if narrow else 'wide'}")


@pytest.mark.parametrize("narrow", [False, True], ids=["laptop", "telephone"])
def test_what_workers_have(visit: Visit, gateway: Gateway, narrow: bool) -> None:
    visitor = visit(gateway, narrow=narrow)
    page = visitor.go("?view=workers")
    expect(page.locator(".row").filter(has_text="g1")).to_contain_text("1 GPU")
    all_is_read(page)
    visitor.picture(f"widths-workers-{'narrow' if narrow else 'wide'}")


def test_rows_of_two_lines_are_walked_by_keys(visit: Visit, gateway: Gateway) -> None:
    page = visit(gateway, narrow=True).go("?view=queue")
    rows = page.locator(".row")
    expect(rows).to_have_count(2)
    first, second = (rows.nth(n).bounding_box() for n in range(2))
    assert first is not None
    assert second is not None
    assert second["y"] == first["y"] + first["height"]
    page.keyboard.press("j")
    page.keyboard.press("j")
    expect(page.locator(".row.chosen")).to_contain_text(NAMES[1])


def test_the_way_that_was_taken_is_in_sight(visit: Visit, gateway: Gateway) -> None:
    page = visit(gateway, narrow=True).go()
    for key in [*range(1, VIEWS + 1), 1]:
        page.keyboard.press(str(key))
        chosen = page.locator(".ways a").nth(key - 1)
        expect(chosen).to_have_attribute("aria-current", "page")
        expect(chosen).to_be_in_viewport(ratio=1)


@pytest.mark.parametrize("narrow", [False, True], ids=["laptop", "telephone"])
def test_the_words_of_a_story_stand_apart(
    visit: Visit, gateway: Gateway, ended: str, narrow: bool
) -> None:
    visitor = visit(gateway, narrow=narrow)
    page = visitor.go(f"?view=task&id={ended}")
    steps = page.locator(".story li")
    expect(steps.last).to_contain_text("succeed on")
    assert steps.evaluate_all(TOUCH) == 0
    visitor.picture(f"widths-story-{'narrow' if narrow else 'wide'}")


@pytest.mark.parametrize("query", ["fleet", "workers&name=g1", "results", "load"])
def test_amounts_are_written_in_one_way(visitor: Visitor, query: str) -> None:
    page = visitor.go(f"?view={query}")
    expect(page.locator("main")).to_contain_text(re.compile(r"\d [KMGT]iB"))
    assert ODD.findall(page.locator("main").inner_text()) == []
