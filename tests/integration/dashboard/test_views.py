"""Each view shows what there is, on every screen."""

from __future__ import annotations

import re

import httpx
import pytest
from playwright.sync_api import expect

from corral import Client, Task
from corral.tasks import Retry, Variant
from tests.integration.conftest import Fleet, until
from tests.integration.dashboard.conftest import Visit, Visitor
from tests.support.gateway import Gateway

NO_RETRY = Retry(limit=0)
TWO_CARDS = (Variant(gpus=2),)


class World:
    """Tasks of every sort, by what they are called."""

    def __init__(self, fleet: Fleet) -> None:
        client = fleet.client()
        where = str(fleet.folder)
        tasks = [
            Task("gpu_lock", {"folder": where, "seconds": 3.0}, name="on a card", project="cards"),
            Task("progress_twice", {"seconds": 3600.0}, name="learns", project="cards"),
            Task("sleep", {"seconds": 1.0}, name="wants two cards", needs=TWO_CARDS),
            *(
                Task("fail", {"message": f"no row {n} in /data/{n}.csv"}, name=f"load {n}",
                     retry=NO_RETRY, project="etl")
                for n in range(3)
            ),
            Task("echo", {"n": 1}, name="AAPL/rank", project="flow"),
            Task("echo", {"n": 2}, name="AAPL/up/select", after={"rank": "#6"}, project="flow"),
            Task("chatter", {"words": "hello"}, name="AAPL/up/mlp/train", after={"select": "#7"},
                 project="flow"),
            Task("sleep", {"seconds": 3600.0}, name="AAPL/up/wait", after={"select": "#7"},
                 project="flow", needs=TWO_CARDS),
        ]  # fmt: skip
        handles = client.submit_many(tasks, batch=None)
        self.ids = {task.name: handle.id for task, handle in zip(tasks, handles, strict=True)}
        until("all has happened", lambda: self._settled(client))

    def _settled(self, client: Client) -> bool:
        found = {view.name: view.state.value for view in client.tasks(limit=100)}
        return (
            found["on a card"] == found["AAPL/up/mlp/train"] == "succeeded"
            and found["learns"] == "running"
            and all(found[f"load {n}"] == "failed" for n in range(3))
        )


@pytest.fixture(scope="module")
def world(fleet: Fleet, gateway: Gateway) -> World:
    """What the views show. The gateway runs from the beginning, and so has seen it all."""
    return World(fleet)


def test_fleet(world: World, visitor: Visitor) -> None:
    page = visitor.go("?view=fleet&span=10m")  # the tests before this one took their time
    expect(page.locator(".worker")).to_have_count(2)
    expect(page.get_by_text("2 workers on 1 host,")).to_be_visible()
    card = page.locator(".lane.gpu")
    expect(card.locator(".lane-name")).to_have_text("GPU 7c5a")
    expect(card.locator(".lane-bar")).to_have_text(["on a card"])
    expect(card.locator(".lane-idle")).to_have_text(re.compile(r"\d+ % idle"))
    running = page.locator(".lane-bar.s-running")
    expect(running).to_have_text(["learns"])
    running.click()
    expect(page.locator("h1")).to_have_text("learns")
    page.go_back()
    expect(card).to_be_visible()
    assert visitor.fits()
    visitor.picture("fleet")


def test_queue_says_why_a_task_waits_and_what_would_let_it_run(
    world: World, visitor: Visitor
) -> None:
    page = visitor.go("?view=queue&state=queued")
    row = page.get_by_role("row").filter(has_text="wants two cards")
    expect(row.locator(".chip.blocked")).to_have_text("too few GPUs")
    expect(row.locator(".cure")).to_have_text("g1 has 1 GPU more than it has")
    visitor.picture("queue")
    page.get_by_role("link", name="unfinished").click()
    learns = page.get_by_role("row").filter(has_text="learns")
    expect(learns.get_by_role("progressbar")).to_have_attribute("aria-valuenow", "50")
    expect(learns).to_contain_text("loss 0.25")
    assert visitor.fits()


def test_all_of_a_filter_is_in_the_address(world: World, visitor: Visitor) -> None:
    page = visitor.go()
    page.get_by_role("link", name="Queue").click()
    page.get_by_role("link", name="without success").click()
    page.keyboard.press("/")
    page.keyboard.type("load 1")
    rows = page.locator(".row")
    expect(rows).to_have_count(1)
    page.get_by_label("kind").select_option("fail")
    expect(page).to_have_url(re.compile(r"view=queue&state=lost&q=load\+1&kind=fail"))
    page.reload()
    expect(rows).to_have_count(1)
    expect(page.get_by_label("Filter")).to_have_value("load 1")
    page.get_by_role("link", name="load 1").click()
    expect(page.locator("h1")).to_have_text("load 1")
    page.go_back()
    expect(rows).to_have_count(1)
    page.get_by_role("button", name="Task").click()
    expect(page).to_have_url(re.compile("sort=task"))


def test_task_that_succeeded(world: World, visitor: Visitor) -> None:
    page = visitor.go(f"?view=task&id={world.ids['AAPL/up/mlp/train']}")
    expect(page.locator("h1")).to_have_text("AAPL/up/mlp/train")
    expect(page.locator(".story li")).to_have_count(4)
    expect(page.locator(".story")).to_contain_text("parents done")
    expect(page.locator(".log")).to_contain_text("hello by process")
    expect(page.locator(".facts")).to_contain_text("AAPL/up/select")
    twins = page.locator(".twins .twin code")
    expect(twins.first).to_have_text(f"corral task show {world.ids['AAPL/up/mlp/train']}")
    visitor.picture("task-succeeded")
    page.locator(".facts").get_by_role("link", name="AAPL/up/select").click()
    expect(page.locator("h1")).to_have_text("AAPL/up/select")
    expect(page.locator(".json").last).to_have_text(re.compile(r'"n": 2'))


def test_task_that_waits(world: World, visitor: Visitor) -> None:
    page = visitor.go(f"?view=task&id={world.ids['wants two cards']}")
    why = page.locator(".why")
    expect(why).to_contain_text("It would run with: g1 has 1 GPU more than it has")
    expect(why.locator(".need.unmet").first).to_have_text("gpus: wants 2, has 1")
    expect(page.get_by_text("It has not begun.")).to_be_visible()
    assert visitor.fits()
    visitor.picture("task-queued")


def test_task_that_runs_with_its_curves(world: World, visitor: Visitor) -> None:
    page = visitor.go(f"?view=task&id={world.ids['learns']}")
    expect(page.locator(".chart canvas")).to_have_count(2)
    expect(page.locator(".chart").first).to_contain_text("0.25")
    expect(page.get_by_text("It has written nothing.")).to_be_visible()
    visitor.picture("task-running")


def test_task_that_failed(world: World, visitor: Visitor) -> None:
    page = visitor.go(f"?view=task&id={world.ids['load 2']}")
    failure = page.locator(".failure")
    expect(failure.locator("h2")).to_have_text("ValueError")
    expect(failure).to_contain_text("no row 2 in /data/2.csv")
    failure.locator("summary").click()
    expect(failure.locator("pre")).to_contain_text("raise getattr")


def test_failures_of_one_trouble_are_one_line(world: World, visitor: Visitor) -> None:
    page = visitor.go("?view=failures")
    group = page.locator(".group")
    expect(group).to_have_count(1)
    expect(group.locator(".group-n")).to_have_text("3")
    expect(page.locator(".figures")).to_have_text("3 failed in 1 way")
    group.get_by_role("link").first.click()
    expect(group.get_by_role("link", name="load 0")).to_be_visible()
    expect(page).to_have_url(re.compile("group="))
    visitor.picture("failures")


def test_pipeline_as_a_graph(world: World, visitor: Visitor) -> None:
    page = visitor.go("?view=pipelines")
    page.get_by_role("link", name="flow").click()
    expect(page.locator(".node")).to_have_count(4)
    expect(page.locator(".edge")).to_have_count(3)
    lefts = {
        name: page.locator(".node").filter(has_text=name).bounding_box()
        for name in ("rank", "select", "train", "wait")
    }
    x = {name: box["x"] for name, box in lefts.items() if box}
    assert x["rank"] < x["select"] < x["train"] == x["wait"]
    expect(page.locator(".node.s-succeeded")).to_have_count(3)
    visitor.picture("pipeline")
    page.locator(".node").filter(has_text="train").click()
    expect(page.locator("h1")).to_have_text("AAPL/up/mlp/train")


def test_results(world: World, gateway: Gateway, visitor: Visitor) -> None:
    page = visitor.go("?view=results")
    row = page.locator(".row").filter(has_text="AAPL/rank")
    expect(row).to_contain_text("4 B")  # {"n": 1}, packed
    expect(page.locator(".row").filter(has_text="AAPL/up/mlp/train")).to_be_visible()
    expect(page.locator(".row").filter(has_text="learns")).to_have_count(0)  # it goes on
    expect(page.get_by_text("kept on the broker's disk")).to_be_visible()
    visitor.picture("results")
    whole = row.get_by_role("link", name="open").get_attribute("href")
    assert httpx.get(f"http://{gateway.bind}{whole}").json()["value"] == {"n": 1}
    row.get_by_role("link", name="flow").click()
    expect(page).to_have_url(re.compile("view=results&project=flow"))
    expect(page.locator(".row").filter(has_text="on a card")).to_have_count(0)
    expect(row).to_be_visible()
    page.keyboard.press("/")
    page.keyboard.type("select")
    expect(page.locator(".row")).to_have_count(1)


def test_a_result_that_comes_is_listed(world: World, fleet: Fleet, visitor: Visitor) -> None:
    page = visitor.go("?view=results")
    expect(page.locator(".row").first).to_be_visible()
    fleet.client().submit_many([Task("echo", {"n": 3}, name="newly made")])
    expect(page.locator(".row").first).to_contain_text("newly made")


def test_workers(world: World, visitor: Visitor) -> None:
    page = visitor.go("?view=workers")
    expect(page.locator(".row")).to_have_count(2)
    page.get_by_role("link", name="g1").click()
    one = page.locator(".one")
    expect(one).to_contain_text("24 GiB")
    expect(one).to_contain_text("gpu_lock")
    visitor.picture("workers")


def test_roll_outs(world: World, fleet: Fleet, visitor: Visitor) -> None:
    client = fleet.client()
    page = visitor.go("?view=rollouts")
    expect(page.locator(".version")).to_have_count(1)
    client.drain("w1", "update to 0.2")
    expect(page.locator(".leaving")).to_contain_text("update to 0.2")
    client.resume("w1")
    expect(page.locator(".changes")).to_contain_text("update to 0.2")
    expect(page.get_by_text("None.")).to_be_visible()
    visitor.picture("rollouts")


def test_load(world: World, visitor: Visitor) -> None:
    page = visitor.go("?view=load")
    expect(page.locator(".chart canvas")).to_have_count(2)
    expect(page.get_by_role("row").filter(has_text="progress_twice")).to_be_visible()
    expect(page.get_by_text("large results on disk")).to_be_visible()
    visitor.picture("load")


@pytest.mark.parametrize(
    "query", ["fleet&span=2m", "queue", "failures", "pipelines&project=flow", "results", "workers",
              "rollouts", "load", "task"],
)  # fmt: skip
@pytest.mark.parametrize("screen", ["dark", "narrow"])
def test_every_screen(
    world: World, visit: Visit, gateway: Gateway, query: str, screen: str
) -> None:
    visitor = visit(gateway, **{screen: True})
    id = world.ids["wants two cards"]
    page = visitor.go(f"?view={query}" + (f"&id={id}" if query == "task" else ""))
    if query in ("fleet&span=2m", "workers"):
        expect(page.get_by_role("link", name="g1").first).to_be_visible()
    if query in ("queue", "task"):
        expect(page.get_by_text("wants two cards").first).to_be_visible()
    assert visitor.fits()
    ground = page.evaluate("getComputedStyle(document.body).backgroundColor")
    assert (max(map(int, re.findall(r"\d+", ground))) < 60) == (screen == "dark")
    visitor.picture(f"{screen}-{query.partition('&')[0]}")
