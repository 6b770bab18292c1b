"""Frames against messages, by the tables of the RFCs.

Every frame here is written out from ZeroMQ RFC 7 (MDP/0.1) and RFC 18 (MDP/0.2) and from Corral's
own table of extension commands; nothing is taken from the decoder under test.
"""

from __future__ import annotations

import random
import tracemalloc
import typing
from collections.abc import Callable
from functools import partial

import msgspec
import pytest

from corral import messages, wire
from corral.messages import Answer, Document, Kind
from corral.tasks import Variant
from corral.wire import (
    Beaten,
    Called,
    Dialect,
    Extended,
    Malformed,
    Parted,
    PlainRequest,
    Readied,
    Replied,
    Requested,
)
from tests.support.samples import sample

MDP01, MDP02 = Dialect.MDP01, Dialect.MDP02
TOKEN = bytes.fromhex("01" + "5a" * 16 + "00000007")
pack = msgspec.msgpack.encode
CALLS = list(typing.get_args(messages.Call))
ANSWERS = list(typing.get_args(Answer))
EXTENSIONS = list(typing.get_args(messages.Extension))


# --- RFC 7 and RFC 18, frame by frame ---------------------------------------------------

TO_THE_BROKER = {
    "0.1 client REQUEST": ([b"", b"MDPC01", b"echo", b"body"], Requested(MDP01, "echo", [b"body"])),
    "0.1 client REQUEST of many frames": (
        [b"", b"MDPC01", b"echo", b"a", b"", b"c"],
        Requested(MDP01, "echo", [b"a", b"", b"c"]),
    ),
    "0.1 client asks MMI": (
        [b"", b"MDPC01", b"mmi.service", b"echo"],
        Requested(MDP01, "mmi.service", [b"echo"]),
    ),
    "0.1 worker READY": ([b"", b"MDPW01", b"\x01", b"echo"], Readied(MDP01, "echo", None)),
    "0.1 worker REPLY": (
        [b"", b"MDPW01", b"\x03", b"addr", b"", b"body"],
        Replied(MDP01, b"addr", [b"body"], final=True),
    ),
    "0.1 worker REPLY of many frames": (
        [b"", b"MDPW01", b"\x03", b"addr", b"", b"", b"b"],
        Replied(MDP01, b"addr", [b"", b"b"], final=True),
    ),
    "0.1 worker HEARTBEAT": ([b"", b"MDPW01", b"\x04"], Beaten(MDP01)),
    "0.1 worker DISCONNECT": ([b"", b"MDPW01", b"\x05"], Parted(MDP01)),
    "0.2 client REQUEST": (
        [b"MDPC02", b"\x01", b"echo", b"body"],
        Requested(MDP02, "echo", [b"body"]),
    ),
    "0.2 client REQUEST of many frames": (
        [b"MDPC02", b"\x01", b"titanic.request", b"echo", b"", b"c"],
        Requested(MDP02, "titanic.request", [b"echo", b"", b"c"]),
    ),
    "0.2 worker READY": ([b"MDPW02", b"\x01", b"echo"], Readied(MDP02, "echo", None)),
    "0.2 worker PARTIAL": (
        [b"MDPW02", b"\x03", b"addr", b"", b"body"],
        Replied(MDP02, b"addr", [b"body"], final=False),
    ),
    "0.2 worker FINAL": (
        [b"MDPW02", b"\x04", b"addr", b"", b"body", b"more"],
        Replied(MDP02, b"addr", [b"body", b"more"], final=True),
    ),
    "0.2 worker HEARTBEAT": ([b"MDPW02", b"\x05"], Beaten(MDP02)),
    "0.2 worker DISCONNECT": ([b"MDPW02", b"\x06"], Parted(MDP02)),
    "a reply without a body": (
        [b"MDPW02", b"\x04", b"addr", b""],
        Replied(MDP02, b"addr", [], final=True),
    ),
    "the longest service name": (
        [b"MDPC02", b"\x01", b"s" * 200, b""],
        Requested(MDP02, "s" * 200, [b""]),
    ),
    "a name of one character": (
        [b"", b"MDPW01", b"\x01", b"~"],
        Readied(MDP01, "~", None),
    ),
    "the longest client address": (
        [b"MDPW02", b"\x04", b"t" * 64, b"", b""],
        Replied(MDP02, b"t" * 64, [b""], final=True),
    ),
}


@pytest.mark.parametrize(("frames", "message"), TO_THE_BROKER.values(), ids=TO_THE_BROKER)
def test_what_the_rfcs_allow_is_understood(frames: list[bytes], message: wire.Inbound) -> None:
    assert wire.decode(frames) == message


def test_the_same_code_means_something_else_in_the_other_dialect() -> None:
    assert wire.decode([b"", b"MDPW01", b"\x04"]) == Beaten(MDP01)
    assert wire.decode([b"MDPW02", b"\x04", b"a", b"", b"b"]) == Replied(MDP02, b"a", [b"b"], True)
    assert wire.decode([b"", b"MDPW01", b"\x05"]) == Parted(MDP01)
    assert wire.decode([b"MDPW02", b"\x05"]) == Beaten(MDP02)


FROM_THE_BROKER = {
    "REPLY to a 0.1 client": (
        wire.reply(MDP01, "echo", [b"a", b"b"]),
        [b"", b"MDPC01", b"echo", b"a", b"b"],
    ),
    "FINAL to a 0.2 client": (
        wire.reply(MDP02, "echo", [b"a", b"b"]),
        [b"MDPC02", b"\x03", b"echo", b"a", b"b"],
    ),
    "PARTIAL to a 0.2 client": (
        wire.reply(MDP02, "echo", [b"a"], final=False),
        [b"MDPC02", b"\x02", b"echo", b"a"],
    ),
    "an empty body is padded for 0.1": (
        wire.reply(MDP01, "echo", []),
        [b"", b"MDPC01", b"echo", b""],
    ),
    "an empty body is padded for 0.2": (
        wire.reply(MDP02, "echo", []),
        [b"MDPC02", b"\x03", b"echo", b""],
    ),
    "REQUEST to a 0.1 worker": (
        wire.request(MDP01, TOKEN, [b"a", b"b"]),
        [b"", b"MDPW01", b"\x02", TOKEN, b"", b"a", b"b"],
    ),
    "REQUEST to a 0.2 worker": (
        wire.request(MDP02, TOKEN, [b"a"]),
        [b"MDPW02", b"\x02", TOKEN, b"", b"a"],
    ),
    "a request without a body is padded": (
        wire.request(MDP02, TOKEN, []),
        [b"MDPW02", b"\x02", TOKEN, b"", b""],
    ),
    "HEARTBEAT to a 0.1 worker": (wire.heartbeat(MDP01), [b"", b"MDPW01", b"\x04"]),
    "HEARTBEAT to a 0.2 worker": (wire.heartbeat(MDP02), [b"MDPW02", b"\x05"]),
    "DISCONNECT to a 0.1 worker": (wire.disconnect(MDP01), [b"", b"MDPW01", b"\x05"]),
    "DISCONNECT to a 0.2 worker": (wire.disconnect(MDP02), [b"MDPW02", b"\x06"]),
    "FINAL of a native worker": (
        wire.final(TOKEN, [b"a", b"b"]),
        [b"MDPW02", b"\x04", TOKEN, b"", b"a", b"b"],
    ),
}


@pytest.mark.parametrize(("frames", "golden"), FROM_THE_BROKER.values(), ids=FROM_THE_BROKER)
def test_what_is_sent_is_what_the_rfcs_write(frames: list[bytes], golden: list[bytes]) -> None:
    assert frames == golden


# --- Corral's own frames ----------------------------------------------------------------

COMMANDS = {
    0x40: "Welcome", 0x41: "CancelAttempts", 0x42: "Progress", 0x43: "ResultAck", 0x44: "Nack",
    0x45: "DrainWorker", 0x46: "Resources", 0x47: "Checkpoint", 0x48: "Assign", 0x49: "Finished",
    0x4A: "Recall", 0x4B: "FetchLog", 0x4C: "LogChunk",
}  # fmt: skip
NAMED_CALLS = {
    "corral.submit": "Submit", "corral.results": "Results", "corral.show": "Show",
    "corral.list": "List", "corral.explain": "Explain", "corral.watch": "Watch",
    "corral.unwatch": "Unwatch", "corral.cancel": "Cancel", "corral.retry": "Retry",
    "corral.workers": "Workers", "corral.drain": "Drain", "corral.resume": "Resume",
    "corral.status": "Status", "corral.logs": "Logs", "corral.blob": "Blob", "corral.keys": "Keys",
    "corral.backup": "Backup",
}  # fmt: skip


def test_commands_and_services_have_the_codes_and_names_that_peers_know() -> None:
    assert {code: cls.__name__ for code, cls in messages.EXTENSIONS.items()} == COMMANDS
    assert {name: cls.__name__ for name, cls in messages.SERVICES.items()} == NAMED_CALLS
    assert set(messages.CODE_OF) == set(EXTENSIONS)
    assert set(messages.SERVICE_OF) == set(CALLS)


def test_a_call_is_a_request_of_rfc_18() -> None:
    frames = wire.call(messages.Cancel(b"r1", ["a", "b"], "enough"))
    body = b"\x93\xc4\x02r1\x92\xa1a\xa1b\xa6enough"
    assert frames == [b"MDPC02", b"\x01", b"corral.cancel", body]
    assert wire.decode(frames) == Called(messages.Cancel(b"r1", ["a", "b"], "enough"))


def test_a_later_field_may_be_missing_and_a_newer_one_is_ignored() -> None:
    short = [b"MDPC02", b"\x01", b"corral.logs", pack([b"r", "id"])]
    long = [b"MDPC02", b"\x01", b"corral.status", pack([b"r", "a field of next year"])]
    assert wire.decode(short) == Called(messages.Logs(b"r", "id"))
    assert wire.decode(long) == Called(messages.Status(b"r"))


def test_answers_travel_as_partial_or_final() -> None:
    answer = messages.Done(b"r1", ["a"])
    body = b"\x91\x94\x06\xc4\x02r1\x91\xa1a\x80"
    assert wire.answers("corral.cancel", [answer], final=True) == [
        b"MDPC02", b"\x03", b"corral.cancel", body,
    ]  # fmt: skip
    assert wire.answers("corral.cancel", [answer], final=False)[1] == b"\x02"


def test_an_extension_is_one_command_and_one_body() -> None:
    assert wire.extension(messages.ResultAck([1, 2])) == [b"MDPW02", b"\x43", b"\x91\x92\x01\x02"]


def test_ready_carries_the_document_behind_the_service() -> None:
    document = Document(name="w1", incarnation="i1", kinds=[Kind("echo")], slots=2)
    frames = wire.ready("echo", document)
    assert frames[:3] == [b"MDPW02", b"\x01", b"echo"]
    assert wire.decode(frames) == Readied(MDP02, "echo", document)
    assert wire.decode([b"", b"MDPW01", b"\x01", b"echo", frames[3]]) == Readied(
        MDP01, "echo", document
    )


@pytest.mark.parametrize("cls", CALLS, ids=lambda cls: cls.__name__)
def test_every_call_comes_back_as_it_was(cls: type[messages.Call]) -> None:
    source = random.Random(cls.__name__)
    for _ in range(50):
        message = msgspec.structs.replace(sample(cls, source, tame=True), request=b"r")
        assert wire.decode(wire.call(message)) == Called(message)


@pytest.mark.parametrize("cls", EXTENSIONS, ids=lambda cls: cls.__name__)
def test_every_extension_comes_back_as_it_was(cls: type[messages.Extension]) -> None:
    source = random.Random(cls.__name__)
    for _ in range(50):
        message = sample(cls, source, tame=True)
        assert wire.decode(wire.extension(message)) == Extended(message)
        assert wire.heard_by_worker(wire.extension(message)) == Extended(message)


@pytest.mark.parametrize("cls", ANSWERS, ids=lambda cls: cls.__name__)
def test_every_answer_comes_back_as_it_was(cls: type[Answer]) -> None:
    source = random.Random(cls.__name__)
    for _ in range(50):
        message = sample(cls, source, tame=True)
        frames = wire.answers("corral.show", [message, message], final=True)
        assert wire.heard_by_client(frames) == [message, message]


@pytest.mark.parametrize(
    "frames",
    [
        [],
        [b"MDPC02", b"\x03", b"corral.show"],
        [b"MDPC02", b"\x03", b"corral.show", b"\x90", b"more"],
        [b"MDPW02", b"\x03", b"corral.show", b"\x90"],
        [b"MDPC02", b"\x03", b"corral.show", b"\x91\x91\x63"],
        [b"MDPC02", b"\x03", b"corral.show", b"\x91\x92\x06\xa1r"],
        [b"MDPC02", b"\x03", b"corral.show", b"\xff"],
        [b"MDPC02", b"\x03", b"corral.show", b""],
    ],
)
def test_a_client_hears_nothing_in_what_is_no_answer(frames: list[bytes]) -> None:
    assert wire.heard_by_client(frames) == []


# --- what a native worker hears ---------------------------------------------------------


def test_a_worker_hears_a_broker_that_knows_no_extensions() -> None:
    assert wire.heard_by_worker([b"MDPW02", b"\x02", b"addr", b"", b"a", b"b"]) == PlainRequest(
        b"addr", [b"a", b"b"]
    )
    assert wire.heard_by_worker([b"MDPW02", b"\x05"]) == Beaten(MDP02)
    assert wire.heard_by_worker([b"MDPW02", b"\x06"]) == Parted(MDP02)


@pytest.mark.parametrize(
    ("frames", "reason"),
    [
        ([], "header"),
        ([b"MDPW02"], "header"),
        ([b"MDPC02", b"\x05"], "header"),
        ([b"", b"MDPW01", b"\x04"], "header"),
        ([b"MDPW02", b"\x02", b"addr", b""], "request envelope"),
        ([b"MDPW02", b"\x02", b"addr", b"x", b"body"], "request envelope"),
        ([b"MDPW02", b"\x04", b"addr", b"", b"body"], "command"),
        ([b"MDPW02", b"\x01", b"echo"], "command"),
        ([b"MDPW02", b"\x40", b"\xff"], "extension body"),
        ([b"MDPW02", b"\x07"], "worker command"),
    ],
)
def test_a_worker_refuses_what_no_broker_says(frames: list[bytes], reason: str) -> None:
    heard = wire.heard_by_worker(frames)
    assert isinstance(heard, Malformed)
    assert heard.reason == reason


# --- what is not legal ------------------------------------------------------------------

DEEP = b"\x91" * 100_000 + b"\xc0"
NOT_MSGPACK = {
    "nothing": b"",
    "a reserved byte": b"\xc1",
    "cut short": pack([b"r", ["id"]])[:-1],
    "something behind it": pack([b"r", ["id"]]) + b"\xc0",
    "a map": pack({"request": b"r"}),
    "a number": b"\x07",
    "an empty array": b"\x90",
    "text for the request": pack(["r", ["id"]]),
    "a list that never comes": b"\x92\xc4\x01r\xdd\xff\xff\xff\xff",
    "bytes that never come": b"\x92\xc6\xff\xff\xff\xff",
    "a text that never comes": b"\x92\xc4\x01r\x91\xdb\xff\xff\xff\xff",
    "a map that never comes": b"\xdf\xff\xff\xff\xff",
    "text that is not UTF-8": b"\x92\xc4\x01r\x91\xa2\xff\xfe",
    "deep nesting": b"\x92\xc4\x01r" + DEEP,
    "a time stamp out of range": b"\x92\xc4\x01r\xc7\x0c\xff" + b"\xff" * 12,
    "a map with maps for keys": b"\x92\xc4\x01r\x81\x80\x01",
}


@pytest.mark.parametrize("body", NOT_MSGPACK.values(), ids=NOT_MSGPACK)
def test_a_body_that_does_not_decode_is_malformed_everywhere(body: bytes) -> None:
    called = wire.decode([b"MDPC02", b"\x01", b"corral.results", body])
    assert isinstance(called, Malformed)
    assert (called.reason, called.dialect) == ("call body", None)
    extended = wire.decode([b"MDPW02", b"\x44", body])
    assert isinstance(extended, Malformed)
    assert (extended.reason, extended.dialect) == ("extension body", MDP02)
    for head in ([b"MDPW02"], [b"", b"MDPW01"]):
        readied = wire.decode([*head, b"\x01", b"echo", body[:65536]])
        assert isinstance(readied, Malformed)
        assert readied.reason == "document"
        assert readied.dialect is (MDP01 if head[0] == b"" else MDP02)
    assert wire.heard_by_client([b"MDPC02", b"\x03", b"corral.show", body]) == []


@pytest.mark.parametrize(
    ("body", "request_id"),
    [
        (pack([b"r7", "no list"]), b"r7"),
        (pack([b"r7"]), b"r7"),
        (b"\x92\xc4\x02r7\x91\xa2\xff\xfe", b"r7"),
        (b"\x92\xc4\x02r7" + DEEP, b""),
        (pack(["r7", []]), b""),
        (pack([]), b""),
        (pack({"request": b"r7"}), b""),
        (b"\xc1", b""),
    ],
)
def test_the_sender_of_a_bad_call_can_be_told(body: bytes, request_id: bytes) -> None:
    malformed = wire.decode([b"MDPC02", b"\x01", b"corral.results", body])
    assert isinstance(malformed, Malformed)
    assert malformed.request == request_id
    assert malformed.detail


def test_the_detail_names_the_field_that_is_wrong() -> None:
    bad = wire.decode([b"MDPC02", b"\x01", b"corral.results", pack([b"r", ["a", 7]])])
    assert isinstance(bad, Malformed)
    assert "$[1][1]" in bad.detail
    assert "str" in bad.detail


ILLEGAL = {
    "no frames": ([], "no frames", None),
    "one empty frame": ([b""], "header", None),
    "a header of next year": ([b"MDPC03", b"\x01", b"echo", b""], "header", None),
    "a header alone, 0.1 client": ([b"", b"MDPC01"], "client frames", None),
    "a 0.1 request without body": ([b"", b"MDPC01", b"echo"], "client frames", None),
    "a 0.2 request without body": ([b"MDPC02", b"\x01", b"echo"], "client frames", None),
    "a 0.2 client header alone": ([b"MDPC02"], "client frames", None),
    "a 0.2 client that answers": ([b"MDPC02", b"\x03", b"echo", b""], "client frames", None),
    "a 0.2 client without code": ([b"MDPC02", b"", b"echo", b""], "client frames", None),
    "0.2 behind an empty frame": ([b"", b"MDPC02", b"\x01", b"echo", b""], "header", None),
    "0.1 without the empty frame": ([b"MDPC01", b"echo", b"", b""], "header", None),
    "an empty service": ([b"MDPC02", b"\x01", b"", b""], "service name", None),
    "a service with a space": ([b"", b"MDPC01", b"a b", b""], "service name", None),
    "a service of 201 bytes": ([b"MDPC02", b"\x01", b"s" * 201, b""], "service name", None),
    "a service that is not ASCII": ([b"MDPC02", b"\x01", b"\xc3\xa9", b""], "service name", None),
    "a service with a control character": (
        [b"MDPC02", b"\x01", b"a\x7f", b""], "service name", None,
    ),
    "a call that does not exist": ([b"MDPC02", b"\x01", b"corral.nope", b""], "unknown call", None),
    "a call in 0.1": ([b"", b"MDPC01", b"corral.submit", b""], "unknown call", None),
    "a 0.2 worker header alone": ([b"MDPW02"], "worker frames", MDP02),
    "a 0.1 worker header alone": ([b"", b"MDPW01"], "worker command", MDP01),
    "READY of 0.1 without service": ([b"", b"MDPW01", b"\x01"], "ready frames", MDP01),
    "READY of 0.2 without service": ([b"MDPW02", b"\x01"], "ready frames", MDP02),
    "READY with too many frames": ([b"MDPW02", b"\x01", b"a", b"", b""], "ready frames", MDP02),
    "READY for no legal name": ([b"MDPW02", b"\x01", b"a b"], "service name", MDP02),
    "a document over 64 KiB": ([b"MDPW02", b"\x01", b"a", b"x" * 65537], "document size", MDP02),
    "a 0.1 worker's REQUEST": ([b"", b"MDPW01", b"\x02", b"a", b"", b""], "worker command", MDP01),
    "a 0.2 worker's REQUEST": ([b"MDPW02", b"\x02", b"a", b"", b""], "worker command", MDP02),
    "a command of 0.1 that is unknown": ([b"", b"MDPW01", b"\x06"], "worker command", MDP01),
    "a command of 0.2 that is unknown": ([b"MDPW02", b"\x07"], "worker command", MDP02),
    "an empty command": ([b"MDPW02", b""], "worker command", MDP02),
    "a command of two bytes": ([b"MDPW02", b"\x05\x05"], "worker command", MDP02),
    "HEARTBEAT of 0.1 with more": ([b"", b"MDPW01", b"\x04", b""], "worker command", MDP01),
    "HEARTBEAT of 0.2 with more": ([b"MDPW02", b"\x05", b""], "worker command", MDP02),
    "DISCONNECT of 0.1 with more": ([b"", b"MDPW01", b"\x05", b""], "worker command", MDP01),
    "DISCONNECT of 0.2 with more": ([b"MDPW02", b"\x06", b""], "worker command", MDP02),
    "REPLY without address": ([b"", b"MDPW01", b"\x03"], "reply envelope", MDP01),
    "REPLY with an empty address": (
        [b"", b"MDPW01", b"\x03", b"", b"", b""], "reply envelope", MDP01,
    ),
    "REPLY with two addresses": (
        [b"", b"MDPW01", b"\x03", b"a", b"b", b"", b""], "reply envelope", MDP01,
    ),
    "REPLY with a long address": (
        [b"", b"MDPW01", b"\x03", b"a" * 65, b"", b""], "reply envelope", MDP01,
    ),
    "PARTIAL without address": ([b"MDPW02", b"\x03"], "reply envelope", MDP02),
    "PARTIAL without the empty frame": ([b"MDPW02", b"\x03", b"a"], "reply envelope", MDP02),
    "FINAL with an empty address": ([b"MDPW02", b"\x04", b"", b"", b"x"], "reply envelope", MDP02),
    "an extension without body": ([b"MDPW02", b"\x49"], "extension frames", MDP02),
    "an extension with two bodies": (
        [b"MDPW02", b"\x49", b"\x90", b"\x90"], "extension frames", MDP02,
    ),
    "an extension in 0.1": ([b"", b"MDPW01", b"\x49", b"\x92\x01\x90"], "worker command", MDP01),
}  # fmt: skip


@pytest.mark.parametrize(("frames", "reason", "dialect"), ILLEGAL.values(), ids=ILLEGAL)
def test_what_the_rfcs_forbid_is_malformed(
    frames: list[bytes], reason: str, dialect: Dialect | None
) -> None:
    assert wire.decode(frames) == Malformed(reason, dialect)


FOREIGN = {
    "wire-protocol-0.2 HEARTBEAT": ([b"MDPW02", b"\x04"], "wire-protocol-0.2", MDP02),
    "libmdp client": ([b"MDPC0X", b"\x01", b"echo", b"body"], "libmdp", None),
    "libmdp worker": ([b"MDPW0X", b"\x01", b"echo"], "libmdp", None),
    "libmdp behind an empty frame": ([b"", b"MDPW0X", b"\x01", b"echo"], "libmdp", None),
    "zproto": ([b"\xaa\xa4\x05\x06MDPW02\x01\x04echo"], "zproto", None),
    "zproto behind an empty frame": ([b"", b"\xaa\xa4\x01\x06MDPC02\x01"], "zproto", None),
}


@pytest.mark.parametrize(("frames", "name", "dialect"), FOREIGN.values(), ids=FOREIGN)
def test_the_other_wires_that_call_themselves_0_2_are_named(
    frames: list[bytes], name: str, dialect: Dialect | None
) -> None:
    assert wire.decode(frames) == Malformed("foreign dialect", dialect, foreign=name)


# --- what a message may cost ------------------------------------------------------------


def _peak(action: Callable[[], object]) -> int:
    """Bytes allocated at the worst moment of `action`."""
    tracemalloc.start()
    try:
        action()
        return tracemalloc.get_traced_memory()[1]
    finally:
        tracemalloc.stop()


SIZE = 4 << 20
BOMBS = {
    "empty lists behind a bad call": b"\xdd\x00\x3f\xff\xff" + b"\x90" * (SIZE - 1),
    "tasks": b"\x92\xc4\x01r\xdd\x00\x15\x55\x55" + b"\x91\xa1x" * (SIZE // 3),
    "ids": b"\x92\xc4\x01r\xdd\x00\x1f\xff\xff" + b"\xa1x" * (SIZE // 2),
    "parents": b"\x92\xc4\x01r\x91\x93\xa1x\xc0\xdf\x00\x0a\xaa\xaa"
    + b"".join(b"\xa4%04x\xa0" % (number % 65536) for number in range(SIZE // 6)),
    "variants": b"\x92\xc4\x01r\x91\x94\xa1x\xc0\x80\xdd\x00\x3f\xff\xff" + b"\x90" * SIZE,
}


@pytest.mark.parametrize("body", BOMBS.values(), ids=BOMBS)
def test_a_small_message_never_becomes_a_large_one(body: bytes) -> None:
    """Objects are some fifty times the bytes that ask for them, so their number is bounded."""
    for service in (b"corral.submit", b"corral.results", b"corral.status"):
        frames = [b"MDPC02", b"\x01", service, body]
        assert _peak(partial(wire.decode, frames)) < 3 * SIZE


def test_a_refusal_does_not_repeat_what_was_sent() -> None:
    """The names of states are quoted by the decoder's message, whatever their length."""
    body = pack([b"r", ["x" * 1_000_000]])
    malformed = wire.decode([b"MDPC02", b"\x01", b"corral.list", body])
    assert isinstance(malformed, Malformed)
    assert malformed.request == b"r"
    assert len(malformed.detail) <= 300


@pytest.mark.parametrize("request_id", [b"", b"r" * 65])
def test_a_request_id_has_1_to_64_bytes(request_id: bytes) -> None:
    """It is kept as long as its answers come, and echoed in each of them."""
    malformed = wire.decode(wire.call(messages.Status(request_id)))
    assert isinstance(malformed, Malformed)
    assert malformed.reason == "call body"
    assert malformed.request == b""


@pytest.mark.parametrize("bad", [-1, 2**63, 2**64 - 1])
def test_nobody_reads_at_a_place_that_no_file_has(bad: int) -> None:
    for call in (
        messages.Logs(b"r", "t", offset=bad),
        messages.Logs(b"r", "t", size=bad),
        messages.Blob(b"r", "d", offset=bad),
        messages.Blob(b"r", "d", size=bad),
    ):
        malformed = wire.decode(wire.call(call))
        assert isinstance(malformed, Malformed)
        assert (malformed.reason, malformed.request) == ("call body", b"r")


def test_a_reason_has_a_longest_length() -> None:
    """It is kept with every task that it is about."""
    for call in (messages.Cancel(b"r", ["t"], "x" * 2001), messages.Drain(b"r", "w", "x" * 2001)):
        malformed = wire.decode(wire.call(call))
        assert isinstance(malformed, Malformed)
        assert (malformed.reason, malformed.request) == ("call body", b"r")
    longest = messages.Cancel(b"r", ["t"], "é" * 2000)
    assert wire.decode(wire.call(longest)) == Called(longest)


# --- figures ----------------------------------------------------------------------------

NAN, INF = float("nan"), float("inf")
BARE = Document(name="w", incarnation="i", kinds=[])


@pytest.mark.parametrize("bad", [NAN, INF, -INF, 1e300])
def test_a_worker_cannot_offer_what_is_no_amount(bad: float) -> None:
    gpu = messages.Gpu("GPU-1", 24.0)
    documents = [
        msgspec.structs.replace(BARE, cpus=bad),
        msgspec.structs.replace(BARE, memory_gb=bad),
        msgspec.structs.replace(BARE, gpus=[msgspec.structs.replace(gpu, memory_gb=bad)]),
        msgspec.structs.replace(BARE, gpus=[msgspec.structs.replace(gpu, foreign_gb=bad)]),
        msgspec.structs.replace(BARE, kinds=[Kind("k", needs=(Variant(cpus=bad),))]),
        msgspec.structs.replace(BARE, kinds=[Kind("k", needs=(Variant(), Variant(memory_gb=bad)))]),
    ]
    for document in documents:
        heard = wire.decode(wire.ready("echo", document))
        assert isinstance(heard, Malformed)
        assert (heard.reason, heard.dialect) == ("document", MDP02)
        assert heard.detail
    for message in (
        messages.Resources(bad, [], []),
        messages.Resources(0.0, [messages.Gpu("GPU-1", bad)], []),
        messages.Finished(1, [messages.Ended(b"t", "ok", seconds=bad)]),
        messages.Finished(1, [messages.Ended(b"t", "ok", waited=bad)]),
        messages.Finished(1, [messages.Ended(b"t", "ok", peak_gb=bad)]),
    ):
        heard = wire.decode(wire.extension(message))
        assert isinstance(heard, Malformed)
        assert heard.reason == "extension body"
    drain = wire.decode(wire.call(messages.Drain(b"r", "w", deadline=bad)))
    assert isinstance(drain, Malformed)
    assert drain.request == b"r"


def test_a_document_with_needs_that_can_be_met_is_taken() -> None:
    kinds = [Kind("a", needs=(Variant(gpus=1), Variant(cpus=2.0))), Kind("b")]
    document = msgspec.structs.replace(BARE, kinds=kinds, cpus=4.0)
    assert wire.decode(wire.ready("a", document)) == Readied(MDP02, "a", document)


def test_a_handler_may_report_what_it_likes() -> None:
    """A loss that became NaN is news for its author, no fault of the worker."""
    frames = wire.extension(messages.Progress([messages.Progressed(b"t", 0.5, {"loss": NAN})]))
    assert isinstance(wire.decode(frames), Extended)
