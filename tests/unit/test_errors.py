"""Errors: each says what happened and what to do, has one code, and survives the wire."""

from __future__ import annotations

import re
import string

import pytest

from corral import errors
from corral.errors import BY_CODE, CorralError, from_wire

CLASSES = [value for value in vars(errors).values() if isinstance(value, type)]
ERRORS = [cls for cls in CLASSES if issubclass(cls, CorralError)]
# What the command line promises; 0 and 130 are no errors, 6 is a warning.
EXITS = {
    "usage": 2, "bad_config": 2, "bad_task": 2, "bad_params": 2, "unknown_kind": 2,
    "missing_parent": 2, "cyclic_parents": 2, "duplicate_id": 2, "too_large": 2, "wrong_state": 2,
    "store_in_use": 2, "store_refused": 2, "address_in_use": 2, "keys_required": 2,
    "missing_extra": 2, "intruder": 2, "no_keys": 2,
    "not_found": 3, "ambiguous_id": 3, "unknown_key": 3, "no_attempt": 3, "no_log": 3,
    "not_allowed": 4, "key_refused": 4,
    "broker_unreachable": 5, "timed_out": 7, "task_cancelled": 8,
    "error": 1, "task_failed": 1, "busy": 1, "store_full": 1, "store_corrupt": 1,
    "fenced": 1, "illegal_transition": 1, "too_many_watches": 1,
}  # fmt: skip


def _fields(cls: type[CorralError]) -> set[str]:
    return {name for _, name, _, _ in string.Formatter().parse(cls.__doc__ or "") if name}


def test_every_error_is_found_by_its_code_and_no_two_share_one() -> None:
    assert len({cls.code for cls in ERRORS}) == len(ERRORS) == len(BY_CODE)
    assert {BY_CODE[cls.code] for cls in ERRORS} == set(ERRORS)


@pytest.mark.parametrize("cls", ERRORS, ids=lambda cls: cls.__name__)
def test_an_error_says_what_and_what_next(cls: type[CorralError]) -> None:
    filled = cls(**{field: f"<{field}>" for field in _fields(cls)})
    assert str(filled) == filled.message
    for text in (filled.message, filled.cure):
        assert len(text) > 5
        assert "\n" not in text
        assert not re.search(r"[{}]", text)
        assert "  " not in text
    for field in _fields(cls):
        assert f"<{field}>" in filled.message + filled.cure
    assert filled.message != filled.cure


@pytest.mark.parametrize("cls", ERRORS, ids=lambda cls: cls.__name__)
def test_an_error_crosses_the_wire_unchanged(cls: type[CorralError]) -> None:
    sent = cls(**{field: f"<{field}>" for field in _fields(cls)})
    received = from_wire(sent.code, sent.fields)
    assert type(received) is cls
    assert (received.message, received.cure) == (sent.message, sent.cure)


@pytest.mark.parametrize("cls", ERRORS, ids=lambda cls: cls.__name__)
def test_a_field_that_is_missing_or_strange_spoils_no_message(cls: type[CorralError]) -> None:
    for fields in ({}, {"what": "{}{0}{nope}"}, dict.fromkeys(_fields(cls))):
        assert cls(**fields).message


def test_a_code_of_next_year_stays_readable() -> None:
    error = from_wire("out_of_cheese", {"why": "no more"})
    assert type(error) is CorralError
    assert "out_of_cheese" in error.message
    assert "no more" in error.message


def test_exit_codes_are_what_scripts_rely_on() -> None:
    statuses = {cls.code: cls.exit_status for cls in ERRORS}
    assert {code: statuses.get(code) for code in EXITS} == EXITS
    assert set(statuses.values()) == {1, 2, 3, 4, 5, 7, 8}


def test_an_error_without_a_docstring_still_speaks() -> None:
    class Bare(CorralError):
        pass

    Bare.__doc__ = None
    assert Bare(what="x").cure == ""
