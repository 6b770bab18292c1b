"""Submissions are accepted whole or refused whole; ids, parents, params and their errors."""

from __future__ import annotations

import json
import tracemalloc
from collections.abc import Callable
from unittest.mock import patch

import msgspec
import pytest
from msgspec import structs

from broker.core import admission, catalog
from corral import messages
from corral.messages import Accepted, Outcomes, Raw
from corral.tasks import Retry, State, Variant, content_id, needs, request_id
from tests.unit.core.peers import kind, packed, spec
from tests.unit.core.story import Story

TRAIN = kind(
    "train",
    schema=json.dumps(
        {
            "type": "object",
            "properties": {"epochs": {"type": "integer"}, "net": {"$ref": "#/$defs/Net"}},
            "required": ["epochs"],
            "$defs": {"Net": {"properties": {"layers": {"minimum": 1}}}},
        }
    ),
    content=True,
    code_version="c1",
    data_snapshot="d1",
)
NO_TEXT = Raw(b"\xa1\xff")  # well-formed msgpack, whose text is none


# --- accepted ---------------------------------------------------------------------------


def test_a_submission_gets_ids_that_its_client_knows_already(story: Story) -> None:
    story.announces(kind())
    client = story.client()
    ids = client.submits(spec(), spec(), request=b"r1")
    assert ids == [request_id(b"r1", 0), request_id(b"r1", 1)]
    assert story.state.counts[State.QUEUED] == 2


def test_a_resent_submission_makes_nothing_new(story: Story) -> None:
    story.announces(kind())
    client = story.client()
    client.submits(spec(), spec(), request=b"r1")
    client.calls(messages.Submit(b"r1", [spec(), spec()], resend=True))
    assert client.is_accepted(b"r1", 2)[1] == [0, 1]
    assert len(story.state.tasks) == 2


def test_a_class_that_no_worker_meets_is_accepted_with_one_warning_that_names_the_need(
    story: Story,
) -> None:
    story.worker("w1", cpus=4.0)
    client = story.client()
    big = spec(needs=(Variant(cpus=64.0), Variant(cpus=1.0, gpus=1)))
    client.calls(messages.Submit(b"r", [big, big, spec()]))
    _, known, warnings = client.is_accepted(b"r", 3)
    assert known == []
    assert warnings == ["no worker can meet the needs of work: cpus 64.0, gpus 1"]
    story.peers[b"w1#1"].inbox.clear()  # the third one started


def test_a_kind_that_nobody_serves_now_is_accepted_with_a_warning(story: Story) -> None:
    story.announces(kind(), kind("other"))
    client = story.client()
    client.calls(messages.Submit(b"r", [spec(), spec("other"), spec()]))
    assert client.is_accepted(b"r", 3)[2] == [
        "no worker that is there now serves work",
        "no worker that is there now serves other",
    ]


def test_a_kind_whose_extra_is_missing_everywhere_names_the_pip_command(story: Story) -> None:
    story.worker("w1", kinds=[kind(), kind("learn", extra="corral[research]")])
    client = story.client()
    client.calls(messages.Submit(b"r", [spec("learn")]))
    [id], _, [warning] = client.is_accepted(b"r", 1)
    assert "serves learn" in warning
    assert "pip install 'corral[research]'" in warning
    assert "pip install 'corral[research]'" in story.explain(id).cure[0].text


def test_a_worker_that_lacks_the_extra_does_not_loosen_the_kind(story: Story) -> None:
    able = kind("learn", schema='{"type": "object", "required": ["depth"]}')
    story.worker("w1", kinds=[kind("learn", extra="corral[research]")])
    story.worker("w2", kinds=[able])
    story.worker("w3", kinds=[kind(), kind("learn", extra="corral[research]")])
    assert story.client().is_refused(spec("learn")).code == "bad_params"


def test_what_a_worker_lacks_is_told_though_others_once_had_it(story: Story) -> None:
    story.announces(kind("learn"))
    story.worker("w1", kinds=[kind(), kind("learn", extra="nope")])
    told = story.explain(story.client().submit("learn"))
    assert "pip install 'nope'" in told.cure[0].text
    [on_w1] = told.workers
    assert [fact.has for fact in on_w1.verdicts if fact.need == "kind"] == ["lacks nope"]


def test_a_suspect_worker_still_counts_against_the_warning(story: Story) -> None:
    worker = story.worker("w1")
    worker.vanishes()
    client = story.client()
    client.calls(messages.Submit(b"r", [spec()]))
    assert client.is_accepted(b"r", 1)[2] == []


# --- refused: nothing of it is stored -----------------------------------------------------


@pytest.mark.parametrize(
    ("bad", "path"),
    [
        ({"id": "x" * 65}, "id"),
        ({"project": "p" * 201}, "project"),
        ({"name": "n" * 201}, "name"),
        ({"priority": 2_000_000}, "priority"),
        ({"run_limit": 0.0}, "run_limit"),
        ({"queue_limit": float("nan")}, "queue_limit"),
        ({"retry": Retry(limit=-1)}, "retry.limit"),
        ({"needs": ()}, "needs"),
        ({"needs": (Variant(cpus=float("inf")),)}, "needs[0].cpus"),
        ({"needs": (Variant(), Variant(named={"gate": -1}))}, "needs[1].named.gate"),
    ],
)
def test_a_bad_field_is_named_with_its_task(
    story: Story, bad: dict[str, object], path: str
) -> None:
    story.announces(kind())
    refused = story.client().is_refused(spec(), spec(**bad))
    assert refused.code == "bad_task"
    assert refused.fields["path"] == f"tasks[1].{path}"


def test_an_unknown_kind_is_refused_with_those_that_are_known(story: Story) -> None:
    story.announces(kind("echo"), kind("sleep"))
    refused = story.client().is_refused(spec("echo"), spec("dance"))
    assert (refused.code, refused.fields) == (
        "unknown_kind",
        {"kind": "dance", "known": "echo, sleep", "index": 1},
    )
    assert story.broker.refused == {"unknown_kind": 1}


def test_an_unknown_kind_before_any_worker_came(story: Story) -> None:
    assert story.client().is_refused(spec("dance")).fields["known"] == "none"


def test_what_cannot_be_a_kind_is_a_bad_field(story: Story) -> None:
    refused = story.client().is_refused(spec("two words"))
    assert (refused.code, refused.fields["path"]) == ("bad_task", "tasks[0].kind")


@pytest.mark.parametrize(
    ("params", "path"),
    [
        ({"epochs": "many"}, "epochs"),
        ({}, "params"),
        ({"epochs": 1e9}, "epochs"),
        ({"epochs": True}, "epochs"),
        ({"epochs": 1, "net": {"layers": 0}}, "net.layers"),
    ],
)
def test_bad_params_are_named_by_their_path(
    story: Story, params: dict[str, object], path: str
) -> None:
    story.announces(TRAIN)
    refused = story.client().is_refused(spec("train", params))
    assert (refused.code, refused.fields["path"]) == ("bad_params", path)
    assert refused.fields["why"].endswith("; it takes epochs, net")


@pytest.mark.parametrize(
    ("schema", "takes"),
    [
        (
            {"type": "object", "required": ["b"], "properties": {"a": {"default": 1}, "b": {}}},
            "a=1, b",
        ),
        ({"required": ["b"], "properties": {"a": True}}, "a"),
        (
            {"$ref": "#/$defs/It", "$defs": {"It": {"required": ["b"], "properties": {"b": {}}}}},
            "b",
        ),
        ({"$ref": "#/$defs/It", "$defs": {"It": False}}, ""),
        ({"required": ["b"]}, ""),
        (False, ""),
    ],
)
def test_a_refusal_tells_what_a_kind_takes(story: Story, schema: object, takes: str) -> None:
    story.announces(kind("a", schema=json.dumps(schema)))
    why = story.client().is_refused(spec("a", {})).fields["why"]
    assert why.partition("; it takes ")[2] == takes


def test_params_that_are_no_msgpack_are_refused(story: Story) -> None:
    story.announces(TRAIN)
    broken = messages.Spec("train", NO_TEXT)
    assert story.client().is_refused(broken).fields["path"] == "params"


def test_params_are_refused_that_are_nested_deeper_than_the_journal_could_be_read(
    story: Story,
) -> None:
    story.announces(kind())
    client = story.client()
    deep = messages.Spec("work", Raw(b"\x91" * 900 + b"\x00"))
    refused = client.is_refused(deep)
    assert (refused.code, refused.fields["path"]) == ("bad_params", "params")
    [id] = client.submits(messages.Spec("work", Raw(b"\x91" * 300 + packed("x" * 300))))
    assert story.replayed().tasks[id].spec.params == story.task(id).spec.params


def test_a_broken_schema_means_that_anything_goes(story: Story) -> None:
    story.announces(kind("a", schema="{"), kind("b", schema='{"type": 5}'))
    client = story.client()
    assert len(client.submits(spec("a", {"x": 1}), spec("b", [2]))) == 2


def test_a_schema_that_fails_refuses_the_params(story: Story) -> None:
    story.announces(kind("a", schema='{"$ref": "http://localhost/nowhere"}'))
    refused = story.client().is_refused(spec("a", {"x": 1}))
    assert refused.code == "bad_params"
    assert "schema of the kind fails" in refused.fields["why"]


def test_params_that_no_content_id_can_say_are_refused(story: Story) -> None:
    story.announces(kind("a", content=True))
    refused = story.client().is_refused(spec("a", {(1, 2): 3}))
    assert refused.code == "bad_params"


def test_oversized_params_are_refused(story: Story) -> None:
    story.announces(kind())
    refused = story.client().is_refused(spec(params=b"x" * (16 << 20)))
    assert (refused.code, refused.fields["limit"]) == ("too_large", 16 << 20)


def test_a_submission_of_too_many_is_refused(story: Story) -> None:
    story.announces(kind())
    with patch.object(admission, "MAX_BATCH", 2):
        refused = story.client().is_refused(spec(), spec(), spec())
    assert (refused.code, refused.fields["size"]) == ("too_large", 3)


def test_too_many_parents_are_refused(story: Story) -> None:
    story.announces(kind())
    with patch.object(admission, "MAX_PARENTS", 1):
        refused = story.client().is_refused(spec(), spec(), spec(after={"a": "#0", "b": "#1"}))
    assert refused.code == "too_large"


def test_a_full_broker_is_busy(stories: Callable[..., Story]) -> None:
    story = stories(max_tasks=3)
    worker = story.worker()
    client = story.client()
    ids = client.submits(spec(), spec())
    refused = client.is_refused(spec(), spec())
    assert (refused.code, refused.fields) == ("busy", {"queued": 2, "bytes": 4})
    worker.gets(ids[0])
    worker.ends(ids[0])
    worker.gets(ids[1])
    client.submits(spec(), spec())


def test_unfinished_tasks_carry_so_many_bytes(stories: Callable[..., Story]) -> None:
    story = stories(max_task_bytes=1000)
    worker, client = story.worker(slots=1), story.client()
    large = {"data": b"x" * 400}
    first, second = client.submits(spec(params=large), spec(params=large))
    worker.gets(first)
    refused = client.is_refused(spec(params=large))
    assert (refused.code, refused.fields["queued"]) == ("busy", 2)
    assert 800 < refused.fields["bytes"] < 900
    small = client.submit()  # there is room for that
    worker.fails(first, message="y" * 200)  # why it failed is carried, too, until it is over
    worker.gets(second)
    refused = client.is_refused(spec())
    assert 1000 < refused.fields["bytes"] < 1100
    assert client.cancels(first).changed == [first]
    third = client.submit(params=large)
    refused = client.is_refused_a_retry(first)
    assert (refused.code, refused.fields["queued"]) == ("busy", 3)
    client.cancels(second, third)
    worker.is_asked_to_stop(second)
    worker.lets_go(second)
    worker.gets(small)
    assert client.retries(first).changed == [first]


def test_a_retry_opens_no_more_than_there_is_room_for(stories: Callable[..., Story]) -> None:
    story = stories(max_tasks=3)
    story.announces(kind())
    client = story.client()
    parent, child = client.submits(spec(), spec(after={"a": "#0"}))
    client.cancels(parent)
    story.is_(child, State.ABORTED)
    others = client.submits(spec(), spec())
    refused = client.is_refused_a_retry(child)  # and its parent: two
    assert (refused.code, refused.fields["queued"]) == ("busy", 2)
    done = client.retries(parent, child, others[0])
    assert done.changed == [parent]
    assert done.unchanged == {child: "the broker is full", others[0]: "it is queued"}


def test_a_full_store_takes_no_retry(story: Story) -> None:
    story.announces(kind())
    client = story.client()
    lost, queued = client.submits(spec(), spec())
    client.cancels(lost)
    story.broker.full = "no room"
    refused = client.is_refused_a_retry(lost, queued)
    assert (refused.code, refused.fields) == ("store_full", {"why": "no room"})
    story.is_(lost, State.CANCELLED)
    assert client.retries(queued).unchanged == {queued: "it is queued"}
    story.broker.full = ""
    assert client.retries(lost).changed == [lost]


def test_a_queued_task_does_not_hold_the_message_it_came_in() -> None:
    story = Story()  # the journal would go on knowing what is forgotten here
    story.announces(kind())
    client = story.client()
    large = messages.Submit(b"r", [spec(priority=1), spec(priority=2, params=b"x" * 1_000_000)])
    tracemalloc.start()
    try:
        client.calls(msgspec.msgpack.decode(msgspec.msgpack.encode(large), type=messages.Submit))
        ids, _, _ = client.is_accepted(b"r", 2)
        client.cancels(ids[1])
        story.state.forget(story.task(ids[1]))
        story.journal.clear()
        assert tracemalloc.get_traced_memory()[0] < 500_000
    finally:
        tracemalloc.stop()


def test_what_is_there_already_needs_no_room(stories: Callable[..., Story]) -> None:
    story = stories(max_tasks=3)
    story.announces(kind())
    client = story.client()
    sent = spec(), spec()
    client.submits(*sent, request=b"r1")
    resent = messages.Submit(b"r1", list(sent), resend=True)
    client.calls(resent)
    assert client.is_accepted(b"r1", 2)[1] == [0, 1]
    mine = client.submit(id="mine")
    assert client.is_refused(spec(id=mine), spec()).code == "busy"
    story.broker.full = "no room"
    client.calls(resent)
    assert client.is_accepted(b"r1", 2)[1] == [0, 1]
    refused = client.is_refused(spec(id=mine), spec())
    assert (refused.code, refused.fields) == ("store_full", {"why": "no room"})


def test_a_refusal_stores_nothing_of_what_was_good(story: Story) -> None:
    story.announces(kind(), TRAIN)
    client = story.client()
    before = len(story.journal)
    client.is_refused(spec(), spec("train", {"epochs": 1}), spec("dance"))
    assert len(story.journal) == before


# --- identity -----------------------------------------------------------------------------


def test_content_identifies_a_task(story: Story) -> None:
    story.announces(TRAIN)
    client = story.client()
    [id] = client.submits(spec("train", {"epochs": 1}))
    assert id == content_id("train", {"epochs": 1}, {}, "c1", "d1")
    client.calls(
        messages.Submit(b"r", [spec("train", {"epochs": 2}), spec("train", {"epochs": 1})])
    )
    ids, known, _ = client.is_accepted(b"r", 2)
    assert ids[1] == id
    assert known == [1]


def test_equal_tasks_of_one_submission_are_one_task(story: Story) -> None:
    story.announces(TRAIN)
    client = story.client()
    same = spec("train", {"epochs": 1, "net": {}}), spec("train", {"net": {}, "epochs": 1})
    client.calls(messages.Submit(b"r", list(same)))
    ids, known, _ = client.is_accepted(b"r", 2)
    assert ids[0] == ids[1]
    assert known == [1]
    assert len(story.state.tasks) == 1


def test_the_ids_of_parents_are_part_of_the_content(story: Story) -> None:
    story.announces(TRAIN)
    client = story.client()
    ids = client.submits(
        spec("train", {"epochs": 1}),
        spec("train", {"epochs": 2}),
        spec("train", {"epochs": 3}, after={"base": "#0"}),
        spec("train", {"epochs": 3}, after={"base": "#1"}),
    )
    assert len(set(ids)) == 4
    assert ids[2] == content_id("train", {"epochs": 3}, {"base": ids[0]}, "c1", "d1")


def test_newer_code_makes_another_task(story: Story) -> None:
    story.announces(TRAIN)
    client = story.client()
    first = client.submit("train", {"epochs": 1})
    story.announces(structs.replace(TRAIN, code_version="c2"))
    assert client.submit("train", {"epochs": 1}) != first


def test_an_id_of_ones_own_is_kept_and_folds_equal_tasks(story: Story) -> None:
    story.announces(kind())
    client = story.client()
    assert client.submits(spec(params={"a": 1}, id="mine")) == ["mine"]
    client.calls(messages.Submit(b"r", [spec(params={"a": 1}, id="mine", priority=3)]))
    assert client.is_accepted(b"r", 1)[1] == [0]


OTHERWISE = {
    "needs": needs(cpus=2.0),
    "priority": 3,
    "retry": Retry(limit=0),
    "run_limit": 60.0,
    "queue_limit": 60.0,
    "caches": ("prices",),
}


def test_a_task_that_goes_on_keeps_its_settings_and_says_which(story: Story) -> None:
    story.announces(kind(needs=needs(cpus=1.0)))
    client = story.client()
    client.submits(spec(id="mine"), spec(id="other"))
    asked = [spec(id="mine", **OTHERWISE), spec(id="new"), spec(id="mine", priority=1)]
    client.calls(messages.Submit(b"r", asked))
    accepted = client.takes(Accepted)
    assert accepted.known == [0, 2]
    assert accepted.kept == {0: list(OTHERWISE), 2: ["priority"]}
    assert story.task("mine").spec == spec(id="mine")


def test_settings_that_come_to_the_same_do_not_differ(story: Story) -> None:
    story.announces(kind(needs=needs(cpus=1.0)))
    client = story.client()
    client.submits(spec(id="mine"))
    named = spec(id="mine", needs=needs(cpus=1.0), retry=Retry(), name="for people", project="p")
    client.calls(messages.Submit(b"r", [named]))
    assert client.takes(Accepted).kept is None


def test_settings_of_what_is_done_are_no_matter(story: Story) -> None:
    worker = story.worker()
    client = story.client()
    client.submits(spec(id="mine"))
    worker.gets("mine")
    worker.ends("mine")
    client.calls(messages.Submit(b"r", [spec(id="mine", priority=3)]))
    assert client.takes(Accepted) == Accepted(b"r", ["mine"], known=[0])


@pytest.mark.parametrize("change", [{}, {"needs": needs(cpus=8.0)}, OTHERWISE])
def test_a_new_run_is_run_as_its_submission_says(story: Story, change: dict[str, object]) -> None:
    story.announces(kind())
    client = story.client()
    client.submits(spec("work", id="p"), spec(id="mine", after={"p": "p"}, **OTHERWISE))
    client.cancels("mine", "p")
    asked = spec(id="mine", after={"p": "p"}, name="again", **change)
    client.calls(messages.Submit(b"r", [asked]))
    accepted = client.takes(Accepted)
    assert (accepted.known, accepted.kept) == ([], None)
    assert story.task("mine").spec == asked
    assert story.task("mine").queue_limit == asked.queue_limit
    assert story.task("p").spec == spec(id="p")  # its new run is nobody's submission
    story.later(100.0)
    story.is_("mine", State.EXPIRED if asked.queue_limit else State.WAITING)


@pytest.mark.parametrize("other", [{"params": {"a": 2}}, {"kind": "other"}, {"after": {"x": "p"}}])
def test_an_id_that_has_other_content_is_refused(story: Story, other: dict[str, object]) -> None:
    story.announces(kind(), kind("other"))
    client = story.client()
    client.submits(spec(id="p"), spec(params={"a": 1}, id="mine"))
    changed = {"params": {"a": 1}, **other}
    refused = client.is_refused(spec(**changed, id="mine"))
    assert (refused.code, refused.fields) == ("duplicate_id", {"id": "mine"})


def test_one_id_twice_in_a_submission_with_other_content_is_refused(story: Story) -> None:
    story.announces(kind())
    refused = story.client().is_refused(spec(params=1, id="x"), spec(params=2, id="x"))
    assert (refused.code, refused.fields) == ("duplicate_id", {"id": "x", "index": 1})


def test_params_that_cannot_be_read_equal_only_themselves(story: Story) -> None:
    story.announces(kind())
    client = story.client()
    broken = messages.Spec("work", NO_TEXT, id="x")
    client.submits(broken)
    client.calls(messages.Submit(b"again", [broken]))
    assert client.is_accepted(b"again", 1)[1] == [0]
    other = messages.Spec("work", Raw(b"\xa1\xfe"), id="x")
    assert client.is_refused(other).code == "duplicate_id"


def test_a_task_of_equal_content_that_did_not_succeed_gets_a_new_run(story: Story) -> None:
    worker = story.worker("w1", kinds=[TRAIN])
    client = story.client()
    once = spec("train", {"epochs": 1}, retry=Retry(limit=0))
    [id] = client.submits(once)
    worker.gets(id)
    worker.fails(id)
    story.is_(id, State.FAILED)
    client.calls(messages.Submit(b"again", [once, once]))
    ids, known, _ = client.is_accepted(b"again", 2)
    assert (ids, known) == ([id, id], [1])
    assert story.task(id).run == 2
    worker.gets(id)
    worker.ends(id)
    client.calls(messages.Submit(b"once more", [once]))
    assert client.is_accepted(b"once more", 1)[1] == [0]
    story.is_(id, State.SUCCEEDED)


def test_a_known_result_is_handed_to_who_collects(story: Story) -> None:
    worker = story.worker("w1", kinds=[TRAIN])
    client = story.client()
    id = client.submit("train", {"epochs": 1})
    worker.gets(id)
    worker.ends(id, value=packed(7))
    client.calls(messages.Submit(b"r", [spec("train", {"epochs": 1})], collect=True))
    assert client.takes(Accepted).known == [0]
    outcomes = client.takes(Outcomes)
    assert outcomes.request == b""
    assert [(one.id, one.value) for one in outcomes.items] == [(id, packed(7))]


# --- parents ------------------------------------------------------------------------------


def test_parents_may_come_later_in_the_same_submission(story: Story) -> None:
    worker = story.worker("w1")
    client = story.client()
    ids = client.submits(spec(after={"a": "#2", "b": "#1"}), spec(after={"c": "#2"}), spec())
    assert story.task(ids[0]).spec.after == {"a": ids[2], "b": ids[1]}
    worker.gets(ids[2])
    worker.ends(ids[2])
    worker.gets(ids[1])
    worker.ends(ids[1])
    worker.gets(ids[0])


def test_parents_may_be_named_by_the_ids_of_the_submission(story: Story) -> None:
    story.announces(kind())
    client = story.client()
    ids = client.submits(spec(after={"a": "p"}), spec(id="p"))
    assert story.task(ids[0]).spec.after == {"a": "p"}


def test_a_parent_may_be_an_older_task(story: Story) -> None:
    story.announces(kind())
    client = story.client()
    parent = client.submit()
    child = client.submit(after={"a": parent})
    story.is_(child, State.WAITING)


@pytest.mark.parametrize("reference", ["nobody", "#7", "#x", "#", "#99999999999999999999", "#-1"])
def test_a_missing_parent_is_named(story: Story, reference: str) -> None:
    story.announces(kind())
    refused = story.client().is_refused(spec(), spec(name="child", after={"a": reference}))
    assert refused.code == "missing_parent"
    assert (refused.fields["task"], refused.fields["parent"]) == ("child", reference)


def test_a_task_without_a_name_is_named_by_its_place(story: Story) -> None:
    story.announces(kind())
    refused = story.client().is_refused(spec(after={"a": "nobody"}))
    assert refused.fields == {"task": "tasks[0]", "parent": "nobody"}
    assert story.client("c2").is_refused(spec(after={"a": "#3"})).fields["task"] == "tasks[0]"


@pytest.mark.parametrize(
    ("specs", "circle"),
    [
        ([spec(after={"a": "#0"})], "tasks[0] after tasks[0]"),
        (
            [spec(name="x", after={"a": "#1"}), spec(id="y", after={"a": "#2"}),
             spec(after={"a": "#0"})],
            "x after y after tasks[2] after x",
        ),
        ([spec(), spec(after={"a": "#2"}), spec(after={"a": "#1", "b": "#0"})],
         "tasks[1] after tasks[2] after tasks[1]"),
    ],
)  # fmt: skip
def test_a_circle_is_named(story: Story, specs: list[messages.Spec], circle: str) -> None:
    story.announces(kind())
    refused = story.client().is_refused(*specs)
    assert (refused.code, refused.fields) == ("cyclic_parents", {"circle": circle})


def test_a_diamond_is_no_circle(story: Story) -> None:
    story.announces(kind())
    client = story.client()
    ids = client.submits(
        spec(after={"l": "#1", "r": "#2"}), spec(after={"t": "#3"}), spec(after={"t": "#3"}), spec()
    )
    assert [story.task(id).state for id in ids] == [State.WAITING] * 3 + [State.QUEUED]


def test_a_parent_that_succeeded_already_holds_nobody(story: Story) -> None:
    worker = story.worker("w1")
    client = story.client()
    parent = client.submit()
    worker.gets(parent)
    worker.ends(parent)
    child = client.submit(after={"a": parent})
    worker.gets(child)


def test_a_parent_that_failed_already_aborts_its_child(story: Story) -> None:
    worker = story.worker("w1")
    client = story.client()
    parent = client.submit(retry=Retry(limit=0))
    worker.gets(parent)
    worker.fails(parent)
    client.calls(messages.Submit(b"r", [spec(after={"a": parent})], collect=True))
    [child], _, _ = client.is_accepted(b"r", 1)
    story.is_(child, State.ABORTED)
    assert client.is_told(child).failure.message == f"its parent a ({parent}) is failed"


# --- what the store may have ----------------------------------------------------------------


def test_ids_that_a_submission_may_mean_are_asked_of_the_store(story: Story) -> None:
    story.announces(kind())
    client = story.client()
    there = client.submit()
    call = messages.Submit(
        b"r", [spec(after={"a": "old", "b": "#0", "c": there}), spec(id="mine"), spec()]
    )
    assert admission.ids_wanted(story.state, call) == ["old", "mine"]
    again = messages.Submit(b"r", call.tasks, resend=True)
    assert admission.ids_wanted(story.state, again) == [
        "old", request_id(b"r", 0), "mine", request_id(b"r", 2),
    ]  # fmt: skip


def test_ids_by_content_are_asked_of_the_store(story: Story) -> None:
    story.announces(kind(), TRAIN)
    wanted = admission.content_wanted
    train = spec("train", {"epochs": 1})
    assert wanted(story.state, messages.Submit(b"r", [spec(), spec("dance")])) == []
    assert wanted(story.state, messages.Submit(b"r", [train, spec("dance")])) == []
    id = content_id("train", {"epochs": 1}, {}, "c1", "d1")
    assert wanted(story.state, messages.Submit(b"r", [spec(), train])) == [id]
    story.client().submits(train)
    assert wanted(story.state, messages.Submit(b"r", [train])) == []


# --- the catalog ----------------------------------------------------------------------------


def test_the_catalog_is_bounded(story: Story) -> None:
    with patch.object(catalog, "MAX_KINDS", 2):
        story.announces(kind("a"), kind("b"), kind("c"))
        assert sorted(story.state.catalog.entries) == ["a", "b"]
        story.announces(kind("b", code_version="new"))
    assert story.state.catalog.entries["b"].kind.code_version == "new"


def test_a_kind_announced_anew_is_news_only_when_it_changed(story: Story) -> None:
    story.announces(kind())
    rows = len(story.journal)
    story.announces(kind())
    assert len(story.journal) == rows
    story.announces(kind(needs=needs(cpus=4.0)))
    assert len(story.journal) == rows + 1
    id = story.client().submit()
    assert story.task(id).klass.needs == needs(cpus=4.0)
