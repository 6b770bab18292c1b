"""What a person may do from the page is done at the broker, and asked about first."""

from __future__ import annotations

import re
from collections.abc import Iterator

import pytest
from playwright.sync_api import Page, expect

from corral import Client, Task
from corral.tasks import Retry, Variant
from tests.integration.conftest import Fleet, until
from tests.integration.dashboard.conftest import Visit, Visitor, admitted
from tests.support.gateway import Gateway

NOWHERE = (Variant(gpus=9),)


@pytest.fixture
def client(fleet: Fleet) -> Client:
    return fleet.client()


def state(client: Client, id: str) -> str:
    return client.show([id])[0].state.value


def waiting(client: Client, name: str, project: str = "") -> str:
    """A task that waits for ever."""
    task = Task("echo", {"name": name}, name=name, needs=NOWHERE, project=project)
    return client.submit_many([task])[0].id


def agree(page: Page, word: str, reason: str = "") -> str:
    """Answer the page's question with yes; the command that it showed."""
    dialog = page.get_by_role("dialog")
    expect(dialog).to_be_visible()
    if reason:
        dialog.get_by_role("textbox").fill(reason)
    command = dialog.locator(".twin code").inner_text()
    dialog.get_by_role("button", name=re.compile(f"^{word}")).last.click()
    expect(dialog).to_have_count(0)
    return command


def test_cancel_and_retry_a_task(client: Client, visitor: Visitor) -> None:
    id = waiting(client, "unwanted")
    page = visitor.go(f"?view=task&id={id}")
    page.get_by_role("button", name="Cancel", exact=True).click()
    visitor.picture("cancel")
    command = agree(page, "Cancel", "not 'needed'")
    assert command == f"corral task cancel {id} --reason 'not '\\''needed'\\'''"
    expect(page.locator(".notice")).to_have_text("unwanted is cancelled")
    expect(page.locator(".task-head .state")).to_have_text("cancelled")
    expect(page.locator(".story")).to_contain_text("not 'needed'")
    assert state(client, id) == "cancelled"
    page.get_by_role("button", name="Retry", exact=True).click()
    assert agree(page, "Retry") == f"corral task retry {id}"
    expect(page.locator(".task-head .state")).to_have_text("queued")
    assert state(client, id) == "queued"
    client.cancel([id])


def test_a_question_may_be_left(client: Client, visitor: Visitor) -> None:
    id = waiting(client, "wanted")
    page = visitor.go(f"?view=task&id={id}")
    page.get_by_role("button", name="Cancel", exact=True).click()
    page.get_by_role("button", name="Leave it").click()
    expect(page.get_by_role("dialog")).to_have_count(0)
    page.get_by_role("button", name="Cancel", exact=True).click()
    expect(page.get_by_role("dialog")).to_be_visible()
    page.keyboard.press("Escape")
    expect(page.get_by_role("dialog")).to_have_count(0)
    assert state(client, id) == "queued"
    client.cancel([id])


def test_all_by_keyboard(client: Client, visitor: Visitor) -> None:
    first, second = waiting(client, "key one"), waiting(client, "key two")
    page = visitor.go()
    page.keyboard.press("2")
    page.keyboard.press("/")
    page.keyboard.type("key")
    page.keyboard.press("Escape")
    expect(page.locator(".row")).to_have_count(2)
    page.keyboard.press("j")
    page.keyboard.press("j")
    page.keyboard.press("k")
    page.keyboard.press("j")
    chosen = page.locator(".row.chosen")
    expect(chosen).to_contain_text("key two")
    page.keyboard.press("x")
    agree(page, "Cancel")
    expect(page.locator(".row")).to_have_count(1)
    assert (state(client, first), state(client, second)) == ("queued", "cancelled")
    page.keyboard.press("k")
    page.keyboard.press("Enter")
    expect(page.locator("h1")).to_have_text("key one")
    page.keyboard.press("x")
    agree(page, "Cancel")
    expect(page.locator(".task-head .state")).to_have_text("cancelled")
    page.keyboard.press("r")
    agree(page, "Retry")
    expect(page.locator(".task-head .state")).to_have_text("queued")
    page.keyboard.press("?")
    expect(page.get_by_role("dialog")).to_contain_text("retry the task")
    visitor.picture("keys")
    page.keyboard.press("Escape")
    expect(page.get_by_role("dialog")).to_have_count(0)
    page.keyboard.press("Backspace")
    expect(page.get_by_label("Filter")).to_have_value("key")
    client.cancel([first])


def test_a_view_answers_its_keys_as_soon_as_it_is_there(visitor: Visitor) -> None:
    page = visitor.go()
    # Both keys in one frame: nothing that is done after the drawing comes between them.
    typed = page.evaluate("""async () => {
        const press = (key) => dispatchEvent(new KeyboardEvent("keydown", { key }));
        press("2");
        while (!document.querySelector("[role=search]")) await null;
        press("/");
        return document.activeElement.getAttribute("aria-label");
    }""")
    assert typed == "Filter"


def test_the_page_has_its_keys_again_as_soon_as_a_dialog_is_closed(visitor: Visitor) -> None:
    page = visitor.go()
    place = page.evaluate("""async () => {
        const press = (key) => document.activeElement.dispatchEvent(
            new KeyboardEvent("keydown", { key, bubbles: true }));
        press("?");
        while (!document.querySelector("dialog[open]")) await null;
        document.querySelector("dialog button").focus();
        document.querySelector("dialog").close();
        press("2");
        return location.search;
    }""")
    assert place == "?view=queue"


def test_many_at_once_by_a_filter(client: Client, visitor: Visitor) -> None:
    ids = [waiting(client, f"many {n}", "lot") for n in range(7)]
    other = waiting(client, "other", "else")
    page = visitor.go("?view=queue&project=lot")
    expect(page.locator(".row")).to_have_count(7)
    page.get_by_role("button", name="Cancel all …").click()
    expect(page.get_by_role("dialog")).to_contain_text("7 tasks match: --project lot.")
    assert agree(page, "Cancel 7") == "corral task cancel --project lot"
    expect(page.locator(".notice")).to_have_text("cancelled: 7")
    expect(page.locator(".row")).to_have_count(0)
    assert {state(client, id) for id in ids} == {"cancelled"}
    assert state(client, other) == "queued"
    page.get_by_role("link", name="without success").click()
    page.get_by_role("button", name="Retry all …").click()
    agree(page, "Retry 7")
    until("all are queued again", lambda: {state(client, id) for id in ids} == {"queued"})
    client.cancel([*ids, other])


def test_what_matches_may_change_before_it_is_confirmed(client: Client, visitor: Visitor) -> None:
    ids = [waiting(client, "moving", "moving")]
    page = visitor.go("?view=queue&project=moving")
    page.get_by_role("button", name="Cancel all …").click()
    expect(page.get_by_role("dialog")).to_contain_text("1 task match")
    ids.append(waiting(client, "moved in", "moving"))
    page.get_by_role("button", name="Cancel 1").click()
    expect(page.get_by_role("alert")).to_contain_text("2 tasks match, not the 1")
    assert {state(client, id) for id in ids} == {"queued"}
    visitor.forgive("409")
    client.cancel(ids)


def test_a_filter_that_the_broker_does_not_know_offers_nothing_for_all(
    client: Client, visitor: Visitor
) -> None:
    id = waiting(client, "just one", "one")
    page = visitor.go("?view=queue&project=one&q=just")
    expect(page.locator(".row")).to_have_count(1)
    expect(page.get_by_role("button", name="Cancel all …")).to_have_count(0)
    client.cancel([id])


def test_failed_ones_are_retried_from_their_group(client: Client, visitor: Visitor) -> None:
    task = Task("fail", {"message": "again", "times": 1}, name="fails once", retry=Retry(limit=0))
    [handle] = client.submit_many([task])
    page = visitor.go("?view=failures")
    page.get_by_role("link", name="again").click()
    page.get_by_role("button", name="Retry failed fail …").click()
    agree(page, "Retry 1")
    until("it runs again", lambda: client.show([handle.id])[0].run == 2)


def test_drain_and_resume_a_worker(client: Client, visitor: Visitor) -> None:
    page = visitor.go("?view=workers&name=w1")
    one = page.locator(".one")
    one.get_by_role("button", name="Drain", exact=True).click()
    assert agree(page, "Drain", "new disk") == "corral worker drain w1 --reason 'new disk'"
    expect(one).to_contain_text("drained: new disk (local by the gateway)")
    [view] = [one for one in client.workers() if one.name == "w1"]
    assert view.admission == "drained"
    visitor.picture("drained")
    one.get_by_role("button", name="Resume", exact=True).click()
    assert agree(page, "Resume") == "corral worker resume w1"
    expect(one.locator(".task-head .state")).to_have_text("available")


def test_a_refusal_says_what_and_why(client: Client, visitor: Visitor) -> None:
    id = waiting(client, "too late")
    page = visitor.go(f"?view=task&id={id}")
    page.get_by_role("button", name="Cancel", exact=True).click()
    page.route("**/cancel", lambda route: route.fulfill(
        status=409, content_type="application/problem+json",
        body='{"detail": "It has ended meanwhile.", "next": "Look at it."}',
    ))  # fmt: skip
    page.get_by_role("dialog").get_by_role("button", name="Cancel", exact=True).click()
    expect(page.get_by_role("alert")).to_have_text("It has ended meanwhile. Look at it.")
    visitor.forgive("409")
    client.cancel([id])


class Members:
    """A gateway that wants tokens, and one for each role."""

    def __init__(self, fleet: Fleet, gateway: Gateway) -> None:
        self.gateway = gateway
        self.tokens = {
            role: admitted(gateway, fleet.folder, role, role)
            for role in ("viewer", "client", "operator")
        }


@pytest.fixture(scope="module")
def members(fleet: Fleet) -> Iterator[Members]:
    options = ("--tokens", fleet.folder / "tokens.json")
    folder = fleet.folder / "members"
    folder.mkdir()
    with Gateway(folder, fleet.endpoint, *options) as gateway:
        yield Members(fleet, gateway)


def sign_in(visitor: Visitor, token: str, query: str = "") -> Page:
    """Come in by the page that asks for a token."""
    page = visitor.page
    page.goto(f"http://{visitor.gateway.bind}/{query}")
    page.get_by_label("Your token").fill(token)
    page.get_by_role("button", name="Sign in").click()
    visitor.forgive("401")
    expect(page.locator("main .view")).to_be_visible()
    return page


def test_one_who_may_only_look_is_offered_nothing_else(
    client: Client, members: Members, visit: Visit
) -> None:
    id = waiting(client, "looked at", "seen")
    visitor = visit(members.gateway)
    page = sign_in(visitor, members.tokens["viewer"], "?view=queue&project=seen")
    expect(page.locator(".me")).to_have_text("viewer, viewer")
    expect(page.locator(".row")).to_have_count(1)
    page.keyboard.press("j")
    page.keyboard.press("x")
    for query in ("view=queue&project=seen", f"view=task&id={id}", "view=workers&name=w1",
                  "view=failures", "view=pipelines&project=seen"):  # fmt: skip
        visitor.go(f"?{query}")
        expect(page.locator(".me")).to_have_text("viewer, viewer")
        words = re.compile("Cancel|Retry|Drain|Resume")
        expect(page.get_by_role("button", name=words)).to_have_count(0)
        expect(page.get_by_role("dialog")).to_have_count(0)
    expect(page.locator(".task-head, .node")).not_to_have_count(0)
    client.cancel([id])


def test_a_client_may_cancel_and_not_drain(client: Client, members: Members, visit: Visit) -> None:
    id = waiting(client, "mine")
    visitor = visit(members.gateway)
    page = sign_in(visitor, members.tokens["client"], f"?view=task&id={id}")
    page.get_by_role("button", name="Cancel", exact=True).click()
    agree(page, "Cancel")
    until("it is cancelled", lambda: state(client, id) == "cancelled")
    visitor.go("?view=workers&name=w1")
    expect(page.locator(".me")).to_have_text("client, client")
    expect(page.locator(".one")).to_be_visible()
    expect(page.get_by_role("button", name="Drain", exact=True)).to_have_count(0)


def test_an_operator_s_drain_bears_the_name(client: Client, members: Members, visit: Visit) -> None:
    visitor = visit(members.gateway)
    page = sign_in(visitor, members.tokens["operator"], "?view=workers&name=w1")
    page.locator(".one").get_by_role("button", name="Drain", exact=True).click()
    agree(page, "Drain")
    expect(page.locator(".one")).to_contain_text("(operator by the gateway)")
    client.resume("w1")
