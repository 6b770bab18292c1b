"""Messages: hot ones are small arrays, views are maps, and the tables name every one of them."""

from __future__ import annotations

import random
import typing
from typing import Any

import msgspec
import pytest
from msgspec import Struct

from corral import messages
from corral.messages import Answer, Call, Extension
from tests.support.samples import sample

STRUCTS = [
    value
    for value in vars(messages).values()
    if isinstance(value, type) and issubclass(value, Struct) and value is not Struct
]
CALLS = list(typing.get_args(Call))
ANSWERS = list(typing.get_args(Answer))
EXTENSIONS = list(typing.get_args(Extension))
VIEWS = [cls for cls in STRUCTS if cls.__name__.endswith(("View", "Verdict"))] + [
    messages.Update, messages.Explanation, messages.Part, messages.Document,
]  # fmt: skip


@pytest.mark.parametrize("cls", STRUCTS, ids=lambda cls: cls.__name__)
def test_a_message_cannot_be_changed(cls: type[Struct]) -> None:
    message = sample(cls, random.Random(1), tame=True)
    with pytest.raises(AttributeError, match="immutable"):
        setattr(message, cls.__struct_fields__[0], None)


@pytest.mark.parametrize("cls", STRUCTS, ids=lambda cls: cls.__name__)
def test_a_message_is_an_array_and_a_view_is_a_map(cls: type[Struct]) -> None:
    packed = msgspec.msgpack.decode(
        msgspec.msgpack.encode(sample(cls, random.Random(2), tame=True))
    )
    assert isinstance(packed, dict if cls in VIEWS else list)


@pytest.mark.parametrize("cls", CALLS, ids=lambda cls: cls.__name__)
def test_a_call_begins_with_the_request_id_that_answers_echo(cls: type[Struct]) -> None:
    assert cls.__struct_fields__[0] == "request"


@pytest.mark.parametrize("cls", ANSWERS, ids=lambda cls: cls.__name__)
def test_an_answer_begins_with_its_tag_and_the_request_id(cls: type[Struct]) -> None:
    packed = msgspec.msgpack.decode(
        msgspec.msgpack.encode(sample(cls, random.Random(3), tame=True))
    )
    assert packed[0] == ANSWERS.index(cls)
    assert isinstance(packed[1], bytes)
    assert cls.__struct_fields__[0] == "request"


@pytest.mark.parametrize("cls", VIEWS, ids=lambda cls: cls.__name__)
def test_what_scripts_read_is_json(cls: type[Struct]) -> None:
    source = random.Random(4)
    for _ in range(20):
        view = sample(cls, source, tame=True)
        again: Any = msgspec.json.decode(msgspec.json.encode(view), type=cls)
        assert msgspec.json.encode(again) == msgspec.json.encode(view)


def test_every_role_table_entry_is_a_call_that_exists() -> None:
    assert set(messages.ROLES) == set(messages.SERVICES)
    for roles in messages.ROLES.values():
        assert roles <= {"client", "viewer"}


def test_extension_codes_leave_room_for_future_rfcs() -> None:
    assert all(0x40 <= code <= 0xFF for code in messages.EXTENSIONS)
    assert set(messages.EXTENSIONS.values()) == set(EXTENSIONS)


def test_peers_of_the_time_before_kept_settings_were_told_understand_each_other() -> None:
    new = messages.Accepted(b"r", ["a"], [0], [], {0: ["needs"]})
    old = msgspec.msgpack.encode([0, b"r", ["a"], [0], []])
    assert msgspec.msgpack.decode(old, type=messages.Accepted) == messages.Accepted(
        b"r", ["a"], [0]
    )

    class Accepted(Struct, frozen=True, array_like=True, tag=0):
        request: bytes
        ids: list[str] | None = None
        known: list[int] = []
        warnings: list[str] = []

    packed = msgspec.msgpack.encode(new)
    assert msgspec.msgpack.decode(packed, type=Accepted) == Accepted(b"r", ["a"], [0])
