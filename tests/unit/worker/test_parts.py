"""The small pure parts of the worker: pace, cores, framing, failures, extras, ends."""

from __future__ import annotations

from collections.abc import Callable
from importlib.metadata import Distribution, EntryPoint
from os import PathLike
from pathlib import Path

import msgspec
import pytest
from hypothesis import given
from hypothesis import strategies as st

from corral.errors import CorralError, MissingExtra
from corral.handlers import Cancelled
from corral.messages import Item, Raw
from worker import extras, failures
from worker.lanes import MAX_CHUNK, Pace, least_used
from worker.pipe import Ask, GiveBack, Inbox, ToChild, Want, Work, pack
from worker.processes import how_it_ended

# --- pace and cores -------------------------------------------------------------------------


def test_an_unknown_kind_gets_one_at_a_time() -> None:
    assert Pace().chunk("echo") == 1


@pytest.mark.parametrize(
    ("seconds", "chunk"), [(0.0, MAX_CHUNK), (1e-6, MAX_CHUNK), (0.001, 5), (0.006, 1), (60.0, 1)]
)
def test_a_child_is_fed_a_few_milliseconds_of_work(seconds: float, chunk: int) -> None:
    pace = Pace()
    pace.learn("echo", 1, seconds)
    assert pace.chunk("echo") == chunk
    assert pace.chunk("train") == 1


def test_slowness_is_believed_at_once_and_speed_by_and_by() -> None:
    pace = Pace()
    pace.learn("echo", 100, 0.001)
    pace.learn("echo", 1, 0.005)
    assert pace.chunk("echo") == 1
    pace.learn("echo", 1, 0.000_01)
    assert pace.chunk("echo") == 1
    for _ in range(30):
        pace.learn("echo", 1, 0.000_01)
    assert pace.chunk("echo") > 100


@given(
    st.lists(st.integers(0, 7), unique=True, min_size=1),
    st.dictionaries(st.integers(0, 7), st.integers(0, 3)),
    st.floats(1, 16),
)
def test_a_lane_gets_the_cores_that_fewest_lanes_use(
    cores: list[int], use: dict[int, int], cpus: float
) -> None:
    chosen = least_used(cores, use, cpus)
    assert len(set(chosen)) == len(chosen) == min(len(cores), -int(-cpus // 1))
    left = set(cores) - set(chosen)
    assert not left or max(use.get(core, 0) for core in chosen) <= min(
        use.get(core, 0) for core in left
    )


def test_work_that_books_no_whole_core_may_use_all() -> None:
    assert least_used((0, 1), {}, 0.5) == ()


# --- framing --------------------------------------------------------------------------------


@given(st.lists(st.integers(0, 3), max_size=8), st.data())
def test_messages_survive_any_cutting_of_the_stream(kinds: list[int], data: st.DataObject) -> None:
    item = Item(b"token", "task", 1, Raw(b"\xa1x"))
    choices: list[ToChild] = [
        Ask(b"token", Want.SOFT),
        GiveBack(),
        Work([item] * 3, 1.5, 2.0, True),
        Work([], 0.0, 0.0, False),
    ]
    messages = [choices[kind] for kind in kinds]
    stream = b"".join(pack(message) for message in messages)
    inbox: Inbox[ToChild] = Inbox(ToChild)
    heard: list[ToChild] = []
    while stream:
        cut = data.draw(st.integers(1, len(stream)))
        heard += inbox.fill(stream[:cut])
        stream = stream[cut:]
    assert list(map(msgspec.msgpack.encode, heard)) == list(map(msgspec.msgpack.encode, messages))


def test_nonsense_in_the_stream_is_an_error() -> None:
    inbox: Inbox[ToChild] = Inbox(ToChild)
    with pytest.raises(msgspec.MsgspecError):
        list(inbox.fill(b"\x00\x00\x00\x01\xc1"))


# --- failures -------------------------------------------------------------------------------


class Rude(Exception):
    """An error whose text cannot be made."""

    def __str__(self) -> str:
        raise RuntimeError("no")


def raised(make: Callable[[], BaseException]) -> BaseException:
    try:
        raise make()
    except BaseException as error:
        return error


@pytest.mark.parametrize(
    ("make", "want", "outcome", "type", "text"),
    [
        (lambda: ValueError("bad"), None, "error", "ValueError", "bad"),
        (lambda: MemoryError(), None, "out_of_memory", "MemoryError", ""),
        (lambda: Cancelled(), Want.CANCEL, "cancelled", "cancelled", "cancelled"),
        (lambda: Cancelled(), Want.HAND_BACK, "handed_back", "handed_back", "worker leaves"),
        (lambda: Cancelled(), None, "error", "Cancelled", ""),
        (lambda: Cancelled(), Want.SOFT, "error", "Cancelled", ""),
        (lambda: KeyboardInterrupt(), None, "error", "KeyboardInterrupt", ""),
        (lambda: Rude(), None, "error", "Rude", "RuntimeError"),
        (lambda: CorralError(what="this"), None, "error", "CorralError", "this"),
        (lambda: ValueError("\ud800"), None, "error", "ValueError", "?"),
    ],
)
def test_what_a_handler_raises_becomes_a_failure(
    make: Callable[[], BaseException], want: Want | None, outcome: str, type: str, text: str
) -> None:
    found, failure = failures.describe(raised(make), want, "echo")
    assert found == outcome
    assert failure.type == type
    assert text in failure.message
    msgspec.msgpack.encode(failure)


def test_long_messages_and_tracebacks_are_cut_where_they_say_least() -> None:
    _, failure = failures.describe(
        raised(lambda: ValueError("begin " + "x" * 50_000)), None, "echo"
    )
    assert failure.message.startswith("begin")
    assert len(failure.message) <= failures.MAX_MESSAGE
    assert len(failure.traceback) <= failures.MAX_TRACEBACK
    assert failure.traceback.rstrip().endswith("x")


def test_what_cannot_be_packed_is_named() -> None:
    failure = failures.unpackable(object(), TypeError("unsupported"))
    assert (failure.type, failure.message) == (
        "bad_result",
        "its result, a builtins.object, cannot be packed: unsupported",
    )
    assert "float(x)" in failures.unpackable([], TypeError("numpy.float64 is unsupported")).message


# --- extras ---------------------------------------------------------------------------------


class Owner(Distribution):
    """A distribution with two extras."""

    def read_text(self, filename: str) -> str | None:
        return (
            "Metadata-Version: 2.1\nName: mill\nVersion: 1\n"
            "Requires-Dist: msgspec\n"
            'Requires-Dist: scikit-learn>=1; extra == "learn"\n'
            "Requires-Dist: Cheese.Of_the-moon[holes]>=2 ; "
            '(python_version > "3") and extra == "moon"\n'
            if filename == "METADATA"
            else None
        )

    def locate_file(self, path: str | PathLike[str]) -> Path:
        return Path(path)


def entry(value: str = "mill:grind") -> EntryPoint:
    found = EntryPoint("grind", value, "corral.handlers")
    vars(found).update(dist=Owner())
    return found


@pytest.mark.parametrize(
    ("module", "install"),
    [
        ("sklearn.linear_model", "mill[learn]"),
        ("cheese_of_the_moon", "mill[moon]"),
        ("something", "something"),
    ],
)
def test_a_missing_module_leads_to_the_extra_that_brings_it(module: str, install: str) -> None:
    lack = extras.of_module(module, entry())
    assert lack.install == install
    assert lack.text.endswith(f"pip install '{install}'")


def test_a_missing_module_of_nobody_is_named_itself() -> None:
    assert "pip install 'pyyaml'" in extras.of_module("yaml", None).text


def test_an_entry_point_with_extras_lacks_what_they_bring() -> None:
    lack = extras.of_entry(entry("mill:grind [moon]"))
    assert lack is not None
    assert "pip install 'mill[moon]'" in lack.text
    assert extras.of_entry(entry("mill:grind [learn]")) is None  # it is installed here
    assert extras.of_entry(entry()) is None


def test_a_handler_that_lacks_a_module_names_the_pip_command() -> None:
    missing = ModuleNotFoundError("No module named 'torch'", name="torch")
    outcome, failure = failures.describe(missing, None, "train_model")
    assert (outcome, failure.type) == ("error", "missing_extra")
    assert failure.message.endswith("Run: pip install 'corral[research]'")
    _, failure = failures.describe(MissingExtra(module="pandas", extra="research"), None, "x")
    assert failure.type == "missing_extra"
    assert "pip install 'corral[research]'" in failure.message


# --- ends -----------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("status", "words"),
    [(0, "exit status 0"), (3, "exit status 3"), (-11, "SIGSEGV"), (-99, "signal 99")],
)
def test_an_end_is_told_in_words(status: int, words: str) -> None:
    assert how_it_ended(status) == words
