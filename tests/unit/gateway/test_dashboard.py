"""The dashboard's files: what others wrote is as it was released, what is ours keeps the rules."""

from __future__ import annotations

import hashlib
import re
from pathlib import Path

import pytest

from corral.gateway.dashboard import FILES, WEB, asked

VENDOR = WEB / "vendor"
OURS = sorted(
    path.relative_to(WEB).as_posix()
    for path in WEB.rglob("*")
    if path.suffix in (".js", ".css") and VENDOR not in path.parents
)
MOST_LINES = 450


def text(name: str) -> str:
    return (WEB / name).read_text(encoding="utf-8")


def test_libraries_are_those_whose_hashes_are_written_down() -> None:
    listed = [line.split() for line in text("vendor/hashes").splitlines()]
    assert {name for _, name in listed} == {
        path.name for path in VENDOR.iterdir() if path.name not in ("hashes", "README.md")
    }
    for digest, name in listed:
        assert hashlib.sha256((VENDOR / name).read_bytes()).hexdigest() == digest, name
    for name in ("htm", "preact", "uplot"):
        assert (VENDOR / f"{name}.LICENSE").exists()


@pytest.mark.parametrize("name", OURS)
def test_a_file_tells_first_what_lives_in_it(name: str) -> None:
    assert text(name).startswith(("// ", "/* "))
    assert len(text(name).splitlines()) <= MOST_LINES


@pytest.mark.parametrize("name", OURS)
def test_text_stays_text_and_nothing_comes_from_elsewhere(name: str) -> None:
    makes_markup = r"innerHTML|outerHTML|insertAdjacentHTML|document\.write|dangerouslySet|\beval\("
    assert not re.search(makes_markup, text(name))
    assert not re.search(r"https?://|url\(", text(name))


def test_every_module_that_is_imported_is_served() -> None:
    for name in ("index.html", *OURS):
        for found in re.findall(r"from \"(\.[^\"]+)\"|(?:href|src)=\"/web/([^\"]+)\"", text(name)):
            path = found[1] or (Path("/", name).parent / found[0]).resolve().as_posix()[1:]
            assert path in FILES, (name, found)


def test_what_is_served_is_what_browsers_need() -> None:
    assert "index.html" in FILES
    assert not {name for name in FILES if name.endswith((".md", "LICENSE", "hashes", ".py"))}
    assert len({file.etag for file in FILES.values()}) == len(FILES)


def test_the_sign_in_page_shows_what_it_is_given_as_text() -> None:
    page = asked("<b>why</b>", '"><script>alert(1)</script>')
    told = bytes(page.body).decode()
    assert page.status_code == 401
    assert "<script" not in told
    assert "&lt;b&gt;why" in told
    assert "script-src" not in page.headers["content-security-policy"]
    assert page.headers["content-security-policy"].startswith("default-src 'none'; style-src 'sha")
