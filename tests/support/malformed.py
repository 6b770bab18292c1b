"""Messages that no peer should send: an endless, seeded stream of them, in every dialect.

Some are noise, some follow the grammar with the wrong words, most are recordings of legal messages
with something broken, and some are legal but hostile (a NaN of cores, a name of 64 KiB): a broker
must stand them all. None names a kind, worker or task that a test cares about, as long as that
test's names are not in `tests.support.samples.NAMES`.
"""

from __future__ import annotations

import random
import typing
from collections.abc import Callable, Iterator

import msgspec

from corral import messages, wire
from corral.messages import Answer, Call, Document, Extension, Gpu, Kind, Submit
from corral.tasks import Retry, Spec, Variant
from corral.wire import Dialect
from tests.support.samples import NAMES, REALS, sample

Frames = list[bytes]

HEADERS = (b"", b"MDPC01", b"MDPW01", b"MDPC02", b"MDPW02", b"MDPC0X", b"MDPW0X", b"MDPC03",
           b"\xaa\xa4\x01\x06MDPC02\x01", b"mdpc02", b"MDPC021")  # fmt: skip
COMMANDS = (b"", *(bytes((code,)) for code in (*range(10), 0x3F, *range(0x40, 0x50), 0xFF)))
SERVICES = tuple(name.encode() for name in (
    *messages.SERVICES, *NAMES, "mmi.service", "mmi.workers", "mmi.queue", "mmi.version", "mmi.x",
    "titanic.request", "titanic.reply", "titanic.close", "titanic.x", "corral.", "corral.nope",
))  # fmt: skip
ODD = (b" ", b"\x00", b"\xff\xfe", b"\xc3\xa9", b"x" * 201, b"two words", b"\n", b"x" * 65_537)
TOKENS = (b"\x01" + bytes(20), b"t", b"t" * 64, b"t" * 65, bytes(5), b"\x00\x80\x00\x41\xa7")
BODIES = (
    b"", b"\x90", b"\x80", b"\xc0", b"\xc1", b"{}", b'{"x": 1}', b'{"x": NaN}', b"[1]", b'{"a":',
    b"[" * 20_000, b'{"a":' * 20_000, b"\xff" * 50, b'{"\\ud800": 1}', b"1e999", b"alpha",
    b'{"x": ' + b"9" * 5_000 + b"}",
)  # fmt: skip
# What claims to be long and is not, by msgpack's prefixes: bin, ext, str, array and map of 32 bits.
HUGE = tuple(bytes((code,)) + b"\xff\xff\xff\xff" for code in (0xC6, 0xC9, 0xDB, 0xDD, 0xDF))
NESTS = (b"\x91", b"\x81\xa1a", b"\x92\xc4\x01r", b"\x81\x91", b"\xdc\x00\x01")


def malformed(seed: int) -> Iterator[Frames]:
    """Endless messages without routing id, the same for the same seed."""
    source = random.Random(seed)
    recorded = recordings(source)
    while True:
        make = source.choices(_MAKERS, _WEIGHTS)[0]
        yield make(source, recorded)


def recordings(source: random.Random) -> list[Frames]:
    """A few legal messages of every type and dialect, in both directions."""
    found: list[Frames] = []
    for tame in (True, True, True, False, False):
        found += [_call(kind, source, tame) for kind in typing.get_args(Call)]
        found += [
            wire.answers("corral.show", [sample(kind, source, tame)], final=tame)
            for kind in typing.get_args(Answer)
        ]
        found += [wire.extension(sample(kind, source, tame)) for kind in typing.get_args(Extension)]
        found.append(wire.ready("alpha", sample(Document, source, tame)))
        found += [wire.call(call) for call in _LAST]
        for dialect in Dialect:
            head = [b"", b"MDPW01"] if dialect is Dialect.MDP01 else [b"MDPW02"]
            found += [
                [*head, b"\x01", source.choice(NAMES).encode()],
                [*head, b"\x03", source.choice(TOKENS), b"", source.choice(BODIES)],
                [*head, b"\x04", source.choice(TOKENS), b"", source.choice(BODIES)],
                wire.request(dialect, source.choice(TOKENS), [b"body"]),
                wire.reply(dialect, "alpha", [b"body"]),
                wire.heartbeat(dialect),
                wire.disconnect(dialect),
            ]
        for service in SERVICES:
            found.append([b"", b"MDPC01", service, source.choice(BODIES)])
            found.append([b"MDPC02", b"\x01", service, b"alpha", source.choice(BODIES)])
    return found


def _call(call: type[Call], source: random.Random, tame: bool) -> Frames:
    message = sample(call, source, tame)
    return wire.call(msgspec.structs.replace(message, request=source.randbytes(8)))


# --- the makers: each draws one message -------------------------------------------------


def _noise(source: random.Random, recorded: list[Frames]) -> Frames:
    return [source.randbytes(source.choice((0, 1, 2, 6, 30))) for _ in range(source.randrange(8))]


def _grammar(source: random.Random, recorded: list[Frames]) -> Frames:
    """The right kinds of words, drawn each for itself."""
    words = (HEADERS, COMMANDS, SERVICES, TOKENS, BODIES, (b"",), ODD)
    header = source.choice(HEADERS)
    rest = [source.choice(source.choice(words)) for _ in range(source.randrange(6))]
    return [header, *rest] if header else [header, source.choice(HEADERS), *rest]


def _unchanged(source: random.Random, recorded: list[Frames]) -> Frames:
    return source.choice(recorded)


def _frames_mutated(source: random.Random, recorded: list[Frames]) -> Frames:
    """A recording with a frame lost, doubled, swapped, emptied or taken from another one."""
    frames = list(source.choice(recorded))
    at = source.randrange(len(frames))
    what = source.randrange(6)
    if what == 0:
        del frames[at]
    elif what == 1:
        frames.insert(at, frames[at])
    elif what == 2:
        other = source.randrange(len(frames))
        frames[at], frames[other] = frames[other], frames[at]
    elif what == 3:
        frames[at] = b""
    elif what == 4:
        frames[at] = source.choice(source.choice(recorded))
    else:
        frames += source.choice(recorded)
    return frames


def _bytes_mutated(source: random.Random, recorded: list[Frames]) -> Frames:
    """A recording with bytes changed, cut off or added in one frame, mostly its body."""
    frames = list(source.choice(recorded))
    at = len(frames) - 1 if source.random() < 0.8 else source.randrange(len(frames))
    frame = bytearray(frames[at])
    for _ in range(source.choice((1, 1, 2, 4))):
        place = source.randrange(len(frame) + 1)
        what = source.randrange(5)
        if what == 0:
            frame[place : place + 1] = source.randbytes(1)
        elif what == 1:
            del frame[place:]
        elif what == 2:
            frame[place:place] = source.randbytes(source.choice((1, 3)))
        elif what == 3:
            frame[place : place + 1] = source.choice(HUGE)
        else:
            del frame[place : place + source.choice((1, 4))]
    frames[at] = bytes(frame)
    return frames


def _native(source: random.Random, body: bytes) -> Frames:
    """`body` where a decoder of Corral's own would read it."""
    what = source.randrange(3)
    if what == 0:
        return [b"MDPC02", b"\x01", source.choice(list(messages.SERVICES)).encode(), body]
    if what == 1:
        return [b"MDPW02", bytes((source.choice(list(messages.EXTENSIONS)),)), body]
    return [b"MDPW02", b"\x01", source.choice(NAMES).encode(), body]


def _deep(source: random.Random, recorded: list[Frames]) -> Frames:
    nest = source.choice(NESTS)
    depth = source.choice((10, 100, 400, 1_000, 10_000))
    head = source.choice((b"", b"\x92\xc4\x02rr", b"\x92\xc4\x02rr\x91\x92\xa5alpha"))
    return _native(source, head + nest * depth + source.choice((b"", b"\xc0")))


def _huge(source: random.Random, recorded: list[Frames]) -> Frames:
    head = source.choice((b"", b"\x92\xc4\x02rr", b"\x92\xc4\x02rr\x91\x92\xa5alpha", b"\x92"))
    return _native(source, head + source.choice(HUGE) + source.choice((b"", b"\x90" * 100)))


def _bad_text(source: random.Random, recorded: list[Frames]) -> Frames:
    """A recording whose names are no UTF-8."""
    frames = list(source.choice(recorded))
    name = source.choice(NAMES[:5]).encode()
    junk = source.choice((b"\xff", b"\xed\xa0\x80", b"\xc0\xaf", b"\x00"))
    frames[-1] = frames[-1].replace(name, (junk * len(name))[: len(name)])
    return frames


def _wrong_types(source: random.Random, recorded: list[Frames]) -> Frames:
    """Arrays of the right length for some call or command, filled with anything."""
    values = [source.choice(_VALUES) for _ in range(source.randrange(12))]
    if source.random() < 0.5:
        values.insert(0, source.randbytes(8))
    if source.random() < 0.1:
        return _native(source, msgspec.msgpack.encode(dict(enumerate(values))))
    return _native(source, msgspec.msgpack.encode(values))


def _large(source: random.Random, recorded: list[Frames]) -> Frames:
    """More than anybody asked for: long names, many frames, long lists of tiny things."""
    what = source.randrange(5)
    if what == 0:
        return [b"MDPC02", b"\x01", source.choice(NAMES).encode(), *[b"x"] * 1_000]
    if what == 3:
        return [b"MDPW02", b"\x01", source.choice(NAMES).encode(), b"\x90" * 65_537]
    if what == 1:
        name = "n" * 65_536
        return wire.call(Submit(b"r" * 8, [Spec("alpha", name=name, after={name: name})]))
    if what == 2:
        return wire.call(messages.Results(b"r" * 8, ["x"] * 5_000, wait=source.random() < 0.5))
    return _native(source, b"\x92\xc4\x02rr\xdd\x00\x00\x4e\x20" + b"\x90" * 20_000)


def _plausible(source: random.Random, recorded: list[Frames]) -> Frames:
    """Legal, so that what follows meets workers, tasks and watchers; only the figures are odd."""
    name, other = source.choice(NAMES), source.choice(NAMES)
    odd = source.choice((*REALS, 2.0, 16.0))
    spec = Spec(
        name,
        after=source.choice(({}, {}, {}, {name: "#0"}, {name: "#1"}, {name: other})),
        needs=source.choice((None, None, (Variant(cpus=odd), Variant(gpus=1)))),
        priority=source.choice((0, 0, 1, -5)),
        id=source.choice((None, None, f"fuzz-{source.randrange(20)}")),
        run_limit=source.choice((None, 1e-3, odd)),
        queue_limit=source.choice((None, 1e-3, odd)),
        retry=source.choice((None, Retry(limit=0), Retry(delay=odd), Retry(never=(name,)))),
    )  # fmt: skip
    document = Document(
        name=name,
        incarnation=str(source.randrange(3)),
        kinds=[
            Kind(name, source.choice(_SCHEMAS), content=source.random() < 0.3, frames=True),
            Kind(other, needs=source.choice(((), (Variant(cpus=odd),))), strategy=other),
        ],
        slots=source.choice((0, 1, 2, -1, 2**63)),
        cpus=odd,
        memory_gb=source.choice((0.0, 16.0, odd)),
        gpus=[Gpu(other, odd, declared=True)] * source.randrange(3),
        inflight=[source.choice(TOKENS)] * source.randrange(3),
    )
    request = source.randbytes(8)
    ids = [f"fuzz-{source.randrange(20)}"]
    dialect = source.choice(list(Dialect))
    ready = [b"", b"MDPW01", b"\x01"] if dialect is Dialect.MDP01 else [b"MDPW02", b"\x01"]
    asking = [b"", b"MDPC01"] if dialect is Dialect.MDP01 else [b"MDPC02", b"\x01"]
    return source.choice(
        (
            wire.ready(name, document),
            wire.call(Submit(request, [spec] * source.choice((1, 2, 3)), source.random() < 0.5)),
            wire.call(messages.Watch(request, ids * source.randrange(2), source.choice((None, 0)))),
            wire.call(messages.Results(request, ids)),
            wire.call(messages.Cancel(request, ids)),
            wire.call(messages.Retry(request, ids)),
            wire.call(messages.Explain(request, ids[0])),
            wire.call(messages.Drain(request, name, deadline=odd)),
            wire.call(messages.Resume(request, name)),
            wire.heartbeat(dialect),
            [*ready, name.encode()],
            [*asking, name.encode(), source.choice(BODIES)],
            [*asking, b"titanic.request", name.encode(), source.choice(BODIES)],
        )
    )


_SCHEMAS = (
    "", "{}", "true", "{", '{"type": "object"}', '{"type": 7}', '{"$ref": "#"}', "\ud7ff",
    '{"$ref": "https://nowhere.invalid/schema"}', '{"pattern": "(((a+)+)+)+$"}', "[" * 5_000,
    '{"properties": {"x": {"$ref": "#/$defs/nope"}}}', '{"additionalProperties": {"$ref": "#"}}',
)  # fmt: skip


def _poisoned(source: random.Random, recorded: list[Frames]) -> Frames:
    """A submission whose params only break those who open them."""
    params = source.choice(_POISON) if source.random() < 0.7 else source.choice(NESTS) * 200
    spec = Spec("alpha", params=msgspec.Raw(params))
    return wire.call(Submit(source.randbytes(8), [spec]))


# Legal to pass over, not to decode: text that is no UTF-8, keys that are no text, a date.
_POISON = (
    b"\xa2\xff\xfe", b"\x81\xa2\xff\xfe\x01", b"\x81\xc4\x01x\x01", b"\x81\x91\x01\x01",
    b"\x81\x07\x07", b"\x81\x80\x01", b"\x82\xa1x\x01\xa1x\x02", b"\x81\xc0\x01", b"\xd4\x05\x00",
    b"\xd6\xff\xff\xff\xff\xff", b"\x81\xa1x\xcb\x7f\xf8\x00\x00\x00\x00\x00\x00", b"\xc1", b"",
    b"\x81\xa1x\xcf" + b"\xff" * 8,
)  # fmt: skip

_LAST: tuple[Call, ...] = (
    messages.Show(b"r" * 8, ["last"]), messages.Explain(b"r" * 8, "last"),
    messages.Logs(b"r" * 8, "last"), messages.List(b"r" * 8, before="last"),
    messages.List(b"r" * 8),
)  # fmt: skip

_VALUES: tuple[object, ...] = (
    None, True, 0, -1, 2**63, 2**64 - 1, -(2**63), 0.5, float("nan"), float("inf"), "", "alpha",
    "x" * 1_000, "#0", "#-1", "#" + "9" * 5_000, "#\u0663", b"", b"bytes", [], [[]], {},
    {"alpha": "beta"}, {1: 2}, ["alpha"], ["alpha", "#0"], [["alpha"]], [["alpha", {"x": 1}]],
    [["alpha", {}, {"p": "#0"}]], [["alpha", {}, {"p": "#1"}], ["alpha", {}, {"p": "#0"}]],
    [["alpha", b"\xff", {}, [[1e400, -1]], 10**9]], [b"t", b"t"], [0.0] * 20,
)  # fmt: skip

_MAKERS: tuple[Callable[[random.Random, list[Frames]], Frames], ...] = (
    _noise, _grammar, _unchanged, _frames_mutated, _bytes_mutated, _deep, _huge, _bad_text,
    _wrong_types, _large, _poisoned, _plausible,
)  # fmt: skip
_WEIGHTS = (10, 20, 8, 15, 30, 1, 3, 4, 8, 1, 2, 12)
