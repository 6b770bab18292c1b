"""What a task says stays text, and nobody comes in or acts who may not."""

from __future__ import annotations

import json
import re
import subprocess
from collections.abc import Iterator
from pathlib import Path

import httpx
import pytest
from playwright.sync_api import expect

from corral import Task
from corral.tasks import Retry, Variant
from tests.integration.conftest import Fleet
from tests.integration.dashboard.conftest import Visit, Visitor, admitted
from tests.support.daemon import environment
from tests.support.gateway import CORRAL, Gateway

EVIL = "<img src=x onerror=\"document.title='owned'\"><script>document.title='owned'</script>"


def test_script_in_name_params_error_and_log_stays_text(fleet: Fleet, visitor: Visitor) -> None:
    client = fleet.client()
    fails, talks, waits = client.submit_many(
        [
            Task("fail", {"message": EVIL}, name=EVIL, project=EVIL, retry=Retry(limit=0)),
            Task("chatter", {"words": EVIL}, name=f"log {EVIL}", project=EVIL),
            Task("echo", {EVIL: EVIL}, name=f"params {EVIL}", project=EVIL,
                 needs=(Variant(named={EVIL: 9}),)),
        ]
    )  # fmt: skip
    assert len(list(client.results([fails, talks]))) == 2
    pages = {
        "?view=queue&state=all": EVIL,
        "?view=fleet": EVIL,
        "?view=failures": EVIL,
        "?view=pipelines": EVIL,
        f"?view=task&id={fails.id}": EVIL,
        f"?view=task&id={talks.id}": f"{EVIL} by print",
        f"?view=task&id={waits.id}": EVIL.replace('"', '\\"'),
    }
    for query, words in pages.items():
        page = visitor.go(query)
        expect(page.get_by_text(words).first).to_be_attached()
        assert page.locator("img, main script").count() == 0
        assert "owned" not in page.title()
    visitor.picture("script-is-text")
    client.cancel([waits.id])


def test_what_is_served_says_that_nothing_else_may_run(gateway: Gateway) -> None:
    at = f"http://{gateway.bind}"
    page = httpx.get(f"{at}/")
    policy = page.headers["content-security-policy"]
    assert "default-src 'self'" in policy
    assert "unsafe" not in policy
    assert "frame-ancestors 'none'" in policy
    assert page.headers["x-content-type-options"] == "nosniff"
    assert page.headers["cache-control"] == "no-cache"
    script = httpx.get(f"{at}/web/app.js")
    assert script.headers["content-type"].startswith("text/javascript")
    again = httpx.get(f"{at}/web/app.js", headers={"if-none-match": script.headers["etag"]})
    assert (again.status_code, again.content) == (304, b"")
    for path in (
        "/web/vendor/hashes",
        "/web/../door.py",
        "/web/%2e%2e/door.py",
        "/web/",
        "/app.js",
    ):
        assert httpx.get(at + path).status_code == 404, path
    assert httpx.post(f"{at}/").status_code in (404, 405)


def test_a_script_that_is_written_into_the_page_does_not_run(visitor: Visitor) -> None:
    page = visitor.go()
    page.evaluate(
        "() => { const one = document.createElement('script');"
        " one.textContent = 'window.ran = 1'; document.body.append(one); }"
    )
    assert page.evaluate("window.ran") is None
    assert any("Content Security Policy" in one for one in visitor.errors)
    visitor.forgive("Content Security Policy")


@pytest.fixture(scope="module")
def guarded(fleet: Fleet) -> Iterator[Gateway]:
    """A gateway beyond loopback, which wants tokens."""
    folder = fleet.folder / "guarded"
    folder.mkdir()
    options = ("--tokens", folder / "tokens.json", "--audit", folder / "audit.jsonl")
    with Gateway(folder, fleet.endpoint, *options, bind="0.0.0.0:0") as gateway:
        gateway.bind = gateway.bind.replace("0.0.0.0", "127.0.0.1")
        yield gateway


@pytest.fixture
def folder(fleet: Fleet) -> Path:
    return fleet.folder / "guarded"


def test_a_stranger_is_given_nothing_but_the_question(guarded: Gateway) -> None:
    at = f"http://{guarded.bind}"
    for path in ("/", "/web/app.js", "/web/base.css", "/sign-in", "/sign-out", "/api/v1/me"):
        assert httpx.get(at + path).status_code == 401, path
    asked = httpx.get(f"{at}/?view=queue", headers={"accept": "text/html"})
    assert asked.status_code == 401
    assert "<script" not in asked.text
    assert 'name="token"' in asked.text
    for form in ({}, {"token": ""}, {"token": "corral_guessed"}):
        refused = httpx.post(f"{at}/sign-in", data=form)
        assert refused.status_code == 401, form
        assert "set-cookie" not in refused.headers
    assert httpx.post(f"{at}/sign-in", content=b"token=" + b"x" * 10_000).status_code == 413


def test_sign_in_and_out(guarded: Gateway, folder: Path, visit: Visit) -> None:
    known = admitted(guarded, folder, "ann", "operator")
    visitor = visit(guarded)
    page = visitor.page
    page.goto(f"http://{guarded.bind}/?view=workers&name=w1")
    visitor.picture("sign-in")
    page.get_by_label("Your token").fill("corral_wrong")
    page.get_by_role("button", name="Sign in").click()
    expect(page.get_by_role("alert")).to_contain_text("unknown or was revoked")
    page.get_by_label("Your token").fill(known)
    page.get_by_role("button", name="Sign in").click()
    expect(page.locator(".one h1")).to_have_text("w1")  # back where it was asked for
    expect(page.locator(".me")).to_have_text("ann, operator")
    [cookie] = page.context.cookies()
    assert (cookie["httpOnly"], cookie["sameSite"]) == (True, "Strict")
    assert page.evaluate("document.cookie") == ""
    page.get_by_role("button", name="Sign out").click()
    expect(page.get_by_label("Your token")).to_be_visible()
    assert page.context.cookies() == []
    visitor.forgive("401")
    assert known not in guarded.log + (folder / "audit.jsonl").read_text()


def test_a_token_that_is_revoked_is_asked_for_again(
    guarded: Gateway, folder: Path, visit: Visit
) -> None:
    known = admitted(guarded, folder, "bob", "viewer")
    visitor = visit(guarded)
    page = visitor.page
    page.context.add_cookies(
        [{"name": "corral", "value": known, "url": f"http://{guarded.bind}", "sameSite": "Strict"}]
    )
    visitor.go()
    revoke(folder, "bob")
    expect(page.get_by_label("Your token")).to_be_visible()
    visitor.forgive("401")


def revoke(folder: Path, name: str) -> None:
    """Take a token back."""
    command = [CORRAL, "gateway", "token", "revoke", name, "--tokens", folder / "tokens.json"]
    subprocess.run(command, check=True, capture_output=True, env=environment())


@pytest.mark.parametrize(
    "headers",
    [
        {"origin": "http://evil.example"},
        {"origin": "http://127.0.0.1:1"},
        {"sec-fetch-site": "same-site"},
        {"sec-fetch-site": "cross-site"},
    ],
)
def test_a_page_of_another_site_cannot_act_by_the_cookie(
    guarded: Gateway, fleet: Fleet, folder: Path, headers: dict[str, str]
) -> None:
    known = admitted(guarded, folder, "eve" + "".join(re.findall(r"\w", str(headers))), "operator")
    cookies = {"cookie": f"corral={known}"}
    at = f"http://{guarded.bind}/api/v1"
    assert httpx.get(f"{at}/me", headers=cookies).json()["role"] == "operator"
    refused = httpx.post(f"{at}/workers/w1/drain", headers={**cookies, **headers}, json={})
    assert (refused.status_code, refused.json()["code"]) == (403, "cross_site")
    assert httpx.post(f"http://{guarded.bind}/sign-in", headers=headers).status_code == 403
    [view] = [one for one in fleet.client().workers() if one.name == "w1"]
    assert view.admission == "open"


def test_another_site_cannot_use_an_open_session(
    guarded: Gateway, folder: Path, visit: Visit, fleet: Fleet
) -> None:
    known = admitted(guarded, folder, "mallory", "operator")
    visitor = visit(guarded)
    page = visitor.page
    page.context.add_cookies(
        [{"name": "corral", "value": known, "url": f"http://{guarded.bind}", "sameSite": "Strict"}]
    )
    visitor.go()
    drain = f"http://{guarded.bind}/api/v1/workers/w1/drain"
    page.route("http://evil.example/", lambda route: route.fulfill(
        content_type="text/html",
        body=f'<form method="post" action="{drain}"><button>Win a card</button></form>',
    ))  # fmt: skip
    page.goto("http://evil.example/")
    with page.expect_response(drain) as told:
        page.get_by_role("button").click()
    assert told.value.status == 403
    line = json.loads((folder / "audit.jsonl").read_text().splitlines()[-1])
    assert (line["path"], line["refused"]) == ("/api/v1/workers/w1/drain", "cross_site")
    [view] = [one for one in fleet.client().workers() if one.name == "w1"]
    assert view.admission == "open"
    visitor.forgive("403")
