"""The fleet that ought to be there against the one that is, as a person and a program see it."""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path

import pytest
from playwright.sync_api import expect

from tests.integration.conftest import Fleet, until
from tests.integration.dashboard.conftest import Visit, Visitor
from tests.support.gateway import Gateway


@pytest.fixture(scope="module")
def inventory(fleet: Fleet) -> Path:
    """A file that expects one worker that is there and one that never came."""
    file = fleet.folder / "expected"
    file.write_text("# two of them\nw1\nw9\n")
    return file


@pytest.fixture(scope="module")
def expecting(fleet: Fleet, inventory: Path) -> Iterator[Gateway]:
    with Gateway(fleet.folder, fleet.endpoint, "--expect", inventory) as gateway:
        yield gateway


@pytest.mark.parametrize("view", ["fleet", "workers"])
@pytest.mark.parametrize("narrow", [False, True], ids=["wide", "narrow"])
def test_who_is_not_there_is_named_and_whom_nobody_expects(
    visit: Visit, expecting: Gateway, view: str, narrow: bool
) -> None:
    visitor = visit(expecting, narrow=narrow)
    line = visitor.go(f"?view={view}").locator(".expected")
    expect(line).to_contain_text("1 of 2 expected workers are there")
    expect(line).to_contain_text("Not there: w9")
    expect(line).to_contain_text("Nobody expects: g1")
    assert visitor.fits()
    visitor.picture(f"expected-{view}-{'narrow' if narrow else 'wide'}")


def test_a_program_is_told_the_same(expecting: Gateway) -> None:
    with expecting.client() as rest:
        told = rest.get("/fleet/expected").json()
        assert told == {"expected": ["w1", "w9"], "silent": ["w9"], "unknown": ["g1"]}
        figures = rest.get(f"http://{expecting.bind}/metrics").text
    assert 'corral_worker_expected{worker="w9"} 1.0' in figures


def test_without_a_file_nobody_is_missed(visitor: Visitor) -> None:
    page = visitor.go("?view=workers")
    expect(page.get_by_role("link", name="w1").first).to_be_visible()
    expect(page.locator(".expected")).to_have_count(0)
    with visitor.gateway.client() as rest:
        told = rest.get("/fleet/expected").json()
    assert told == {"expected": None, "silent": [], "unknown": []}


def test_a_file_that_changes_and_a_worker_that_falls_silent_are_seen(
    visit: Visit, fleet: Fleet, inventory: Path, expecting: Gateway
) -> None:
    line = visit(expecting).go("?view=workers").locator(".expected")
    expect(line).to_contain_text("Not there: w9")
    fresh = inventory.with_name("fresh")
    fresh.write_text("g1\nw1\n")
    fresh.replace(inventory)
    expect(line).to_have_text("2 of 2 expected workers are there")
    fleet.kill("g1")
    expect(line).to_contain_text("1 of 2 expected workers are there")
    expect(line).to_contain_text("Not there: g1")
    with expecting.client() as rest:
        until("it is told", lambda: rest.get("/fleet/expected").json()["silent"] == ["g1"])
