"""JSON of the API: what the wire can bring can be written, and a task can be read by its names."""

from __future__ import annotations

import json
from typing import Any

import msgspec
import pytest

from corral.jsons import NoKind, TaskObject, encode, task_from
from corral.messages import ResultView, Step, TaskView
from corral.tasks import Failure, Retry, State, Task, Variant


def read(text: str, base: Task | None = None) -> Task:
    return task_from(msgspec.json.decode(text, type=TaskObject), base or Task(kind=""))


@pytest.mark.parametrize(
    ("value", "written"),
    [
        ({"a": [1, None]}, {"a": [1, None]}),
        ({(1, 2): "x"}, {"[1,2]": "x"}),
        ([msgspec.msgpack.Ext(3, b"ab")], [{"ext": 3, "data": "YWI="}]),
    ],
)
def test_whatever_the_wire_brings_is_written(value: Any, written: Any) -> None:
    assert json.loads(encode(value)) == written


def test_what_is_an_array_on_the_wire_has_names_as_json() -> None:
    view = TaskView(
        id="a", kind="k", state=State.FAILED, params={"x": (1, 2)}, needs=(Variant(gpus=1),),
        failure=Failure("E", "m"), story=[Step(1.0, State.QUEUED, "submit")],
    )  # fmt: skip
    [told] = json.loads(encode([view]))
    assert told["needs"] == [
        {"cpus": 0, "memory_gb": 0, "gpus": 1, "gpu_memory_gb": 0, "named": {}, "labels": {}}
    ]
    assert told["failure"] == {"type": "E", "message": "m", "traceback": ""}
    assert told["story"] == [
        {"at": 1, "state": "queued", "cause": "submit", "why": "", "worker": "", "attempt": 0}
    ]
    assert told["params"] == {"x": [1, 2]}
    assert told["retry_at"] is None
    assert read(json.dumps({"kind": "k", "needs": told["needs"]})).needs == view.needs


def test_a_result_that_json_lacks_words_for_has_names_around_it() -> None:
    view = ResultView(id="a", state=State.FAILED, value={(1, 2): 3}, failure=Failure("E"))
    told = json.loads(encode(view))
    assert (told["value"], told["failure"]["type"]) == ({"[1,2]": 3}, "E")


def test_a_task_has_names_for_its_fields() -> None:
    task = read(
        '{"kind": "k", "params": {"a": 1}, "needs": [{"gpus": 1}, {"cpus": 2}], "retry": 5,'
        ' "after": {"p": "x"}, "priority": 3, "run_limit": null}'
    )
    assert task == Task(
        "k", {"a": 1}, {"p": "x"}, (Variant(gpus=1), Variant(cpus=2)), 3, retry=Retry(limit=5)
    )
    assert read('{"kind": "k", "retry": {"delay": 2}}').retry == Retry(delay=2)


def test_what_is_left_out_is_the_base_s() -> None:
    base = Task("k", {"a": 1, "b": 2}, priority=3)
    assert read('{"params": {"a": 5}}', base) == Task("k", {"a": 5, "b": 2}, priority=3)


def test_a_task_without_a_kind_is_none() -> None:
    with pytest.raises(NoKind):
        read("{}")
    with pytest.raises(msgspec.ValidationError):
        read('{"kind": "k", "prams": {}}')
