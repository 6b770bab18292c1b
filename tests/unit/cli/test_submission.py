"""What a KEY=VALUE means, and what a line of a file of tasks may say."""

from __future__ import annotations

import contextlib
import io
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from corral.cli.submission import MOST, Defaults, Lines, params_of, read_lines, value_of
from corral.errors import BadTask, CyclicParents, UnknownKind, Usage
from corral.tasks import Retry, Variant


def defaults(**given: Any) -> Defaults:
    nothing: dict[str, Any] = {
        "kind": "", "params": {}, "needs": None, "after": {}, "priority": 0, "retries": None,
        "run_limit": None, "queue_limit": None, "project": "", "name": "", "id": None,
    }  # fmt: skip
    return Defaults(**{**nothing, **given})


def read(text: str, **given: Any) -> Lines:
    file = io.BytesIO(text.encode())
    file.name = "tasks.jsonl"
    return read_lines(file, defaults(**given))


@pytest.mark.parametrize(
    ("text", "value"),
    [
        ("7", 7), ("-1.5", -1.5), ("true", True), ("null", None), ("[1, 2]", [1, 2]),
        ('{"a": 1}', {"a": 1}), ('"7"', "7"), ("hello", "hello"), ("", ""), ("01", "01"),
        ("NaN", "NaN"), ("{a: 1}", "{a: 1}"), ('"1e999"', "1e999"),
    ],
)  # fmt: skip
def test_a_value_is_json_when_it_is_json(text: str, value: object) -> None:
    assert value_of(text) == value


@pytest.mark.parametrize(
    "text", ["1e999", "1" + "0" * 5000, '{"a": -1e999}', "[" * 5000 + "]" * 5000]
)
def test_json_that_cannot_be_carried_is_not_taken_for_text(text: str) -> None:
    with pytest.raises(Usage, match=r"out of range|too deeply"):
        value_of(text)


@given(st.text())
def test_every_text_is_a_value_or_refused(text: str) -> None:
    with contextlib.suppress(Usage):
        value_of(text)


def test_dots_make_maps() -> None:
    pairs = [("a.b.c", "1"), ("a.b.d", "2"), ("a.e", "3"), ("f", '{"g": 4}'), ("f.h", "5")]
    assert params_of(pairs) == {
        "a": {"b": {"c": 1, "d": 2}, "e": 3},
        "f": {"g": 4, "h": 5},
    }


@pytest.mark.parametrize(
    "keys", [["a", "a"], ["a", "a.b"], ["a.b", "a"], ["a."], [".a"], ["a..b"], ["a.b", "a.b.c"]]
)
def test_keys_that_contradict_each_other_are_refused(keys: list[str]) -> None:
    with pytest.raises(Usage, match=keys[-1].replace(".", r"\.")):
        params_of([(key, "1") for key in keys])


def test_a_line_goes_before_the_options() -> None:
    lines = read(
        '{"params": {"a": 1}, "priority": 5, "needs": [{"cpus": 2, "gpus": 1}]}\n'
        "\n"
        '{"kind": "sleep", "retry": 2, "needs": null}\n'
        '{"retry": {"limit": 1, "delay": 0.5}, "after": {"x": "#0"}}',
        kind="echo", params={"a": 0, "b": 2}, priority=3, needs=(Variant(cpus=9),),
    )  # fmt: skip
    assert lines.numbers == [1, 3, 4]
    first, second, third = lines.tasks
    assert (first.kind, first.params, first.priority) == ("echo", {"a": 1, "b": 2}, 5)
    assert first.needs == (Variant(cpus=2, gpus=1),)
    assert (second.kind, second.priority, second.needs) == ("sleep", 3, (Variant(cpus=9),))
    assert second.retry == Retry(limit=2)
    assert third.retry == Retry(limit=1, delay=0.5)
    assert third.after == {"x": "#0"}


@pytest.mark.parametrize(
    ("text", "words"),
    [
        ('{"kind": "echo",', ["no JSON"]),
        ("[1]", ["array"]),
        ('{"kind": "echo", "params": {"a": ' + "[" * 5000, ["nested"]),
        ('{"params": {"a": 1}}', ["kind"]),
        ('{"kind": "echo", "priority": "high"}', ["priority"]),
        ('{"kind": "echo", "prio": 1}', ["prio"]),
        ('{"kind": "echo", "needs": [{"gpu": 1}]}', ["needs[0]", "gpu"]),
        ('{"kind": "echo", "needs": [{"cpus": "two"}]}', ["needs[0].cpus"]),
        ('{"kind": "echo", "params": [1]}', ["params"]),
    ],
)
def test_a_bad_line_is_named_with_its_field(text: str, words: list[str]) -> None:
    with pytest.raises(BadTask) as caught:
        read('{"kind": "echo"}\n\n' + text)
    for word in ["tasks.jsonl:3", *words]:
        assert word in caught.value.message


def test_a_byte_order_mark_is_passed_over() -> None:
    [task] = read('\ufeff{"kind": "echo"}').tasks
    assert task.kind == "echo"


def test_bytes_that_are_no_text_are_refused() -> None:
    file = io.BytesIO(b'{"kind": "\xff"}')
    with pytest.raises(BadTask, match=r"the file:1"):
        read_lines(file, defaults())


def test_no_task_and_too_many_are_refused() -> None:
    with pytest.raises(Usage, match="no task"):
        read("\n\n")
    with pytest.raises(Usage, match="split it"):
        read("{}\n" * (MOST + 1), kind="echo")


def test_what_the_broker_says_of_an_index_is_said_of_a_line() -> None:
    lines = read("\n{}\n\n{}\n", kind="echo")
    told = lines.blame(UnknownKind(kind="echo", known="none", index=1))
    assert told.__notes__ == ["tasks.jsonl:4"]
    assert told.message == "No worker has ever announced the kind echo."
    circle = lines.blame(CyclicParents(circle="tasks[0] after tasks[1] after tasks[0]"))
    assert "line 2 after line 4 after line 2" in circle.message
