"""The vocabulary: states and their transitions, needs, ids, and what no broker could accept."""

from __future__ import annotations

import math
from typing import Any

import msgspec
import pytest
from hypothesis import given
from hypothesis import strategies as st
from msgspec import structs

from corral import tasks
from corral.errors import IllegalTransition
from corral.tasks import (
    DEFAULT_NEEDS,
    TERMINAL,
    Cause,
    Retry,
    Spec,
    State,
    Task,
    Variant,
    after,
    content_id,
    force_gpu,
    is_name,
    needs,
    prefer_gpu,
    problem,
    request_id,
)

# --- transitions ------------------------------------------------------------------------

# Written from the promises: a run waits for its parents, is queued, runs, and ends once; a result
# that was recorded is final; what ended otherwise may be opened again.
LEGAL = {
    ("waiting", "parents_done"): "queued",
    ("waiting", "parent_lost"): "aborted",
    ("waiting", "cancel"): "cancelled",
    ("waiting", "expire"): "expired",
    ("queued", "assign"): "running",
    ("queued", "cancel"): "cancelled",
    ("queued", "expire"): "expired",
    ("running", "succeed"): "succeeded",
    ("running", "fail"): "failed",
    ("running", "back_off"): "retrying",
    ("running", "requeue"): "queued",
    ("running", "cancel"): "cancelled",
    ("retrying", "due"): "queued",
    ("retrying", "cancel"): "cancelled",
    ("retrying", "expire"): "expired",
    **{
        (ended, cause): state
        for ended in ("failed", "cancelled", "aborted", "expired")
        for cause, state in (("reopen", "queued"), ("reopen_waiting", "waiting"))
    },
}


@pytest.mark.parametrize("state", State)
@pytest.mark.parametrize("cause", Cause)
def test_a_transition_is_legal_or_raises(state: State, cause: Cause) -> None:
    expected = LEGAL.get((state.value, cause.value))
    if expected is None:
        with pytest.raises(IllegalTransition) as illegal:
            after(state, cause)
        assert illegal.value.fields == {"state": state.value, "cause": cause.value}
    else:
        assert after(state, cause) is State(expected)


def test_the_terminal_states_are_those_that_only_a_new_run_leaves() -> None:
    assert {state.value for state in TERMINAL} == {
        "succeeded", "failed", "cancelled", "aborted", "expired",
    }  # fmt: skip
    for state in TERMINAL:
        assert {State(LEGAL[key]) for key in LEGAL if key[0] == state.value} <= {
            State.QUEUED,
            State.WAITING,
        }
    assert not [key for key in LEGAL if key[0] == "succeeded"]


def test_every_state_can_be_reached_from_the_two_that_a_run_begins_in() -> None:
    seen, found = set[State](), {State.WAITING, State.QUEUED}
    while found - seen:
        seen |= found
        found |= {after(State(a), Cause(cause)) for a, cause in LEGAL if State(a) in seen}
    assert seen == set(State)


# --- needs ------------------------------------------------------------------------------


def test_needs_say_variants_in_order_of_preference() -> None:
    assert prefer_gpu(cpus=4, memory_gb=8, gpu_memory_gb=24) == (
        Variant(cpus=4, memory_gb=8, gpus=1, gpu_memory_gb=24),
        Variant(cpus=4, memory_gb=8),
    )
    assert force_gpu(cpus=2, memory_gb=1, gpu_memory_gb=8) == (
        Variant(cpus=2, memory_gb=1, gpus=1, gpu_memory_gb=8),
    )
    assert needs(cpus=2, gpus=3, named={"ib_gateway": 1}) == (
        Variant(cpus=2, gpus=3, named={"ib_gateway": 1}),
    )
    assert needs() == DEFAULT_NEEDS == (Variant(cpus=1.0),)


# --- a task and a spec are the same fields ----------------------------------------------


def test_what_an_author_writes_is_what_broker_and_worker_carry() -> None:
    assert Task.__struct_fields__ == Spec.__struct_fields__
    task = Task(
        "train", {"x": 1}, {"a": "id"}, prefer_gpu(), 3, "p", "i", Retry(limit=1), 60.0, 5.0,
        ("prices",), "name",
    )  # fmt: skip
    spec = msgspec.msgpack.decode(msgspec.msgpack.encode(task), type=Spec)
    assert msgspec.msgpack.decode(spec.params) == {"x": 1}
    assert msgspec.msgpack.encode(spec) == msgspec.msgpack.encode(task)
    assert spec == structs.replace(spec, **{f: getattr(task, f) for f in ("kind", "after", "name")})


def test_a_spec_without_params_has_an_empty_mapping() -> None:
    spec = msgspec.msgpack.decode(msgspec.msgpack.encode(["echo"]), type=Spec)
    assert msgspec.msgpack.decode(spec.params) == {}


# --- ids --------------------------------------------------------------------------------


def test_the_id_of_a_request_is_the_same_on_both_sides_and_unlike_any_other() -> None:
    ids = {request_id(request, index) for request in (b"a", b"b", b"a\x00") for index in range(300)}
    assert len(ids) == 900
    assert request_id(b"a", 7) == request_id(b"a", 7)
    # printf "corral\0\0\0\1" | b2sum -l 80
    assert request_id(b"corral", 1) == "b8b67f80da01d69a35a9"
    assert all(is_name(id) and len(id) <= tasks.MAX_ID for id in ids)


JSON = st.recursive(
    st.none() | st.booleans() | st.integers(-(2**53), 2**53) | st.text(max_size=5)
    | st.floats(allow_nan=False, allow_infinity=False),
    lambda inner: st.lists(inner, max_size=3) | st.dictionaries(st.text(max_size=3), inner),
    max_leaves=8,
)  # fmt: skip


def _shuffled(value: Any) -> Any:
    """An equal value whose mappings tell their keys in another order."""
    if isinstance(value, dict):
        return {key: _shuffled(value[key]) for key in reversed(value)}
    return [_shuffled(each) for each in value] if isinstance(value, list) else value


@given(
    params=st.dictionaries(st.text(max_size=3), JSON), parents=st.dictionaries(st.text(), st.text())
)
def test_equal_content_has_equal_ids_whatever_the_order_of_keys(
    params: dict[str, Any], parents: dict[str, str]
) -> None:
    assert content_id("k", params, parents, "1", "d") == content_id(
        "k", _shuffled(params), _shuffled(parents), "1", "d"
    )


def test_whatever_makes_the_work_another_makes_the_id_another() -> None:
    same: dict[str, Any] = {
        "kind": "train", "params": {"x": 1}, "parents": {"a": "1"}, "code_version": "v",
        "data_snapshot": "d",
    }  # fmt: skip
    others = [
        {**same, "kind": "rank"},
        {**same, "params": {"x": 2}},
        {**same, "params": {"x": "1"}},
        {**same, "params": {"x": [1]}},
        {**same, "params": {}},
        {**same, "parents": {"a": "2"}},
        {**same, "parents": {"b": "1"}},
        {**same, "parents": {}},
        {**same, "code_version": "v2"},
        {**same, "data_snapshot": "d2"},
        {**same, "code_version": "vd", "data_snapshot": ""},
    ]
    ids = [content_id(**each) for each in (same, *others)]
    assert len(set(ids)) == len(ids)
    assert all(is_name(id) and len(id) <= tasks.MAX_ID for id in ids)


# --- names ------------------------------------------------------------------------------


@pytest.mark.parametrize("name", ["a", "!", "~", "train_model", "x" * 200, "a/b:c#1"])
def test_a_name_is_printable_ascii_without_space(name: str) -> None:
    assert is_name(name)


@pytest.mark.parametrize("name", ["", " ", "a b", "a\n", "\x7f", "é", "x" * 201, "a\x00", "\uff10"])
def test_anything_else_is_no_name(name: str) -> None:
    assert not is_name(name)


# --- what no broker could accept --------------------------------------------------------

GOOD = [
    Spec("echo"),
    Spec("x" * 200, id="i" * 64, project="p" * 200, name="two words" * 20, priority=-1_000_000),
    Spec(
        "echo", priority=1_000_000, run_limit=0.001, queue_limit=1e8, retry=Retry(0, 0, 0, 0, 0, 0)
    ),
    Spec("echo", needs=(Variant(),) * 8),
    Spec("echo", needs=prefer_gpu(cpus=0.5, memory_gb=999_999)),
    Spec("echo", needs=needs(named={"ib_gateway": 2})),
]


@pytest.mark.parametrize("spec", GOOD, ids=range(len(GOOD)))
def test_a_spec_within_the_bounds_has_no_problem(spec: Spec) -> None:
    assert problem(spec) is None


def _with_need(**fields: Any) -> Spec:
    return Spec("echo", needs=(Variant(), Variant(**fields)))


BAD = [
    (Spec(""), "kind"),
    (Spec("two words"), "kind"),
    (Spec("x" * 201), "kind"),
    (Spec("echo", id=""), "id"),
    (Spec("echo", id="i" * 65), "id"),
    (Spec("echo", id="a b"), "id"),
    (Spec("echo", id="last"), "id"),
    (Spec("echo", project="p" * 201), "project"),
    (Spec("echo", name="n" * 201), "name"),
    (Spec("echo", after={"a": "p", "n" * 201: "p"}), "after"),
    (Spec("echo", priority=1_000_001), "priority"),
    (Spec("echo", priority=-1_000_001), "priority"),
    (Spec("echo", run_limit=0), "run_limit"),
    (Spec("echo", run_limit=-1.0), "run_limit"),
    (Spec("echo", run_limit=math.nan), "run_limit"),
    (Spec("echo", run_limit=math.inf), "run_limit"),
    (Spec("echo", queue_limit=0.0), "queue_limit"),
    (Spec("echo", queue_limit=1e9), "queue_limit"),
    *(
        (Spec("echo", retry=structs.replace(Retry(), **{field: bad})), f"retry.{field}")
        for field in ("limit", "lost_limit", "memory_limit", "poison_limit", "delay", "max_delay")
        for bad in (-1, math.nan, math.inf, 10**9)
    ),
    (Spec("echo", needs=()), "needs"),
    (Spec("echo", needs=(Variant(),) * 9), "needs"),
    *(
        (_with_need(**{field: bad}), f"needs[1].{field}")
        for field in ("cpus", "memory_gb", "gpus", "gpu_memory_gb")
        for bad in (-1, math.nan, math.inf, 10**6)
    ),
    (_with_need(named={"ok": 1, "ib_gateway": -1}), "needs[1].named.ib_gateway"),
]


@pytest.mark.parametrize(
    ("spec", "path"), BAD, ids=[f"{i}-{path}" for i, (_, path) in enumerate(BAD)]
)
def test_the_first_field_that_is_wrong_is_named(spec: Spec, path: str) -> None:
    found = problem(spec)
    assert found is not None
    assert found[0] == path
    assert found[1].startswith(("must", "is"))
