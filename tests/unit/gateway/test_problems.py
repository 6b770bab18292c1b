"""Refusals: each error has a status, and says what happened and what to do."""

from __future__ import annotations

import re
import string

import pytest

from corral import errors
from corral.errors import CorralError
from corral.gateway import problems
from corral.gateway.problems import Refusal, headers_of, problem_of, status_of

REFUSALS = [
    one for one in vars(problems).values() if isinstance(one, type) and issubclass(one, Refusal)
]


def made(kind: type[CorralError]) -> CorralError:
    names = {name for _, name, _, _ in string.Formatter().parse(kind.__doc__ or "") if name}
    return kind(**{name: f"<{name}>" for name in names})


@pytest.mark.parametrize("kind", REFUSALS, ids=lambda kind: kind.__name__)
def test_a_refusal_is_a_problem_that_says_all(kind: type[Refusal]) -> None:
    problem = problem_of(made(kind))
    assert problem.status == kind.status >= 400
    assert (problem.code, problem.type) == (kind.code, f"urn:corral:{kind.code}")
    for text in (problem.detail, problem.next):
        assert len(text) > 5 or text == "<next>"
        assert not re.search(r"[{}]", text.replace('{"', ""))


def test_no_two_errors_share_a_code() -> None:
    codes = [kind.code for kind in REFUSALS] + list(errors.BY_CODE)
    assert len(codes) == len(set(codes))


def test_what_the_table_names_are_errors() -> None:
    assert set(problems.BY_CODE) <= set(errors.BY_CODE)


@pytest.mark.parametrize("kind", errors.BY_CODE.values(), ids=lambda kind: kind.code)
def test_the_fault_of_who_asks_is_no_fault_of_the_server(kind: type[CorralError]) -> None:
    theirs = kind.exit_status in (2, 3) and kind.code != "missing_extra"
    assert (400 <= status_of(made(kind)) < 500) or not theirs


@pytest.mark.parametrize(
    ("error", "status", "header"),
    [
        (errors.NotFound(noun="task", name="x"), 404, None),
        (errors.NotAllowed(who="a", role="viewer", action="x", needed="client"), 403, None),
        (errors.StoreFull(why="x"), 503, "retry-after"),
        (errors.IllegalTransition(state="x", cause="y"), 500, None),
        (problems.NoToken(why="none was shown"), 401, "www-authenticate"),
        (problems.TooFast(who="a", rate=1, seconds_left=7), 429, "retry-after"),
        (problems.WrongVerb(verb="PUT", path="/", allow="GET"), 405, "allow"),
    ],
)
def test_status_and_headers(error: CorralError, status: int, header: str | None) -> None:
    assert status_of(error) == status
    assert list(headers_of(error)) == ([header] if header else [])


def test_one_who_asks_too_fast_is_told_how_long_to_wait() -> None:
    error = problems.TooFast(who="a", rate=1, seconds_left=7)
    assert headers_of(error) == {"retry-after": "7"}
