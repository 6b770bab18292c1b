"""Why a task does not run: every worker, every need, every cause beside them, and the cure."""

from __future__ import annotations

import gc
import time
from collections.abc import Callable

import pytest

from broker.core.explain import explain
from corral.errors import NotFound
from corral.messages import Explanation, Submit
from corral.tasks import Retry, State, Variant, force_gpu, needs, prefer_gpu
from corral.wire import Dialect
from tests.evidence import Evidence
from tests.unit.core.peers import Client, Native, gpu, kind, spec
from tests.unit.core.story import Story


@pytest.fixture
def client(story: Story) -> Client:
    return story.client()


def parts(explanation: Explanation) -> list[tuple[str, str, str, float]]:
    """The cure for programs."""
    return [(part.action, part.subject, part.need, part.amount) for part in explanation.cure]


def texts(explanation: Explanation) -> list[str]:
    """The cure for people."""
    return [part.text for part in explanation.cure]


# --- tasks that need no cure --------------------------------------------------------------


def test_a_task_nobody_knows(story: Story) -> None:
    with pytest.raises(NotFound, match="no task nobody"):
        story.explain("nobody")


def test_a_running_task_says_where_and_why(story: Story, client: Client) -> None:
    worker = story.worker()
    id = client.submit()
    worker.gets(id)
    story.later(12.0)
    told = story.explain(id)
    assert told.summary == "It is with w1 as attempt 1, since 12.0 s."
    assert (told.decision, told.reasons, told.workers, told.cure) == (
        "its first choice was free", [], [], [],
    )  # fmt: skip


def test_a_running_task_keeps_the_decision_that_was_made(story: Story, client: Client) -> None:
    worker = story.worker()
    id = client.submit(needs=prefer_gpu())
    worker.gets(id)
    assert story.explain(id).decision == "no open worker has such a GPU"


def test_a_task_with_a_silent_worker_says_so(story: Story, client: Client) -> None:
    worker = story.worker()
    id = client.submit()
    worker.gets(id)
    worker.silent = True
    story.later(8.0)
    [reason] = story.explain(id).reasons
    assert reason.startswith("w1 is suspect, last heard 8.0 s ago: if it stays silent")


def test_a_task_in_a_run_queue_may_not_have_begun(story: Story, client: Client) -> None:
    worker = story.worker(slots=1)
    for _ in range(5):
        id = client.submit()
        worker.gets(id)
        worker.ends(id, seconds=0.001)
    ids = client.submits(spec(), spec(), spec())
    worker.gets(*ids)
    assert story.explain(ids[2]).reasons == [
        "it may not have begun: 3 attempts follow each other there"
    ]
    worker.begins(ids[2])
    assert story.explain(ids[2]).reasons == []


@pytest.mark.parametrize(
    ("end", "said"),
    [
        ("succeed", "It succeeded. `corral task result {id}` prints what it returned."),
        ("fail", "It failed: error: boom. `corral task logs {id}` shows its output, "
                 "`corral task retry {id}` runs it again."),
        ("cancel", "It is cancelled: enough. `corral task retry {id}` opens a new run."),
        ("expire", "It is expired: waited 5 s, its limit. "
                   "`corral task retry {id}` opens a new run."),
        ("abort", "It is aborted: its parent a ({parent}) is cancelled. "
                  "`corral task retry {id}` opens a new run."),
    ],
)  # fmt: skip
def test_what_is_over_says_how_and_what_to_type(
    story: Story, client: Client, end: str, said: str
) -> None:
    worker = story.worker(slots=1)
    hold = client.submit()
    worker.gets(hold)
    after = {"a": hold} if end == "abort" else {}
    limit = 5.0 if end == "expire" else None
    id = client.submit(after=after, queue_limit=limit, retry=Retry(limit=0))
    if end in ("succeed", "fail"):
        worker.ends(hold)
        worker.gets(id)
        worker.ends(id) if end == "succeed" else worker.fails(id, message="boom")
    elif end == "abort":
        client.cancels(hold)
        worker.is_asked_to_stop(hold)
    elif end == "cancel":
        client.cancels(id, reason="enough")
    else:
        story.later(6.0)
    told = story.explain(id)
    assert told.summary == said.format(id=id, parent=hold)
    assert (told.workers, told.cure) == ([], [])


# --- every worker and every need ----------------------------------------------------------


def test_every_worker_and_every_need_is_named(story: Story, client: Client) -> None:
    busy = story.worker("busy", slots=1)
    busy.gets(client.submit())
    story.worker("other", kinds=[kind("other")], slots=4)
    story.worker("cordoned")
    client.drains("cordoned")
    story.peers[b"cordoned#1"].inbox.clear()
    wanted = (
        Variant(cpus=2.0, memory_gb=1.5, gpus=1, labels={"zone": "a"}, named={"gate": 1}),
        Variant(cpus=1.0),
    )
    id = client.submit(needs=wanted)
    client.inbox.clear()
    told = story.explain(id)
    assert {(one.worker, one.variant) for one in told.workers} == {
        (name, variant) for name in ("busy", "other", "cordoned") for variant in (0, 1)
    }
    first = next(one for one in told.workers if (one.worker, one.variant) == ("busy", 0))
    assert [(v.need, v.wanted, v.has, v.met) for v in first.verdicts] == [
        ("kind", "work", "work", True),
        ("health", "live", "live", True),
        ("admission", "open", "open", True),
        ("slots", "1", "0", False),
        ("cpus", "2", "7", True),
        ("memory_gb", "1.5", "32", True),
        ("gpus", "1", "0", False),
        ("label.zone", "a", "", False),
        ("named.gate", "1", "0", False),
    ]
    assert not first.fits
    lacking = [sum(not v.met for v in one.verdicts) for one in told.workers]
    assert lacking == sorted(lacking)


def test_a_worker_that_fits_says_so(story: Story, client: Client) -> None:
    worker = story.worker()
    with story.together():
        [id] = client.submits(spec())
        told = story.explain(id)
    assert [one.fits for one in told.workers] == [True]
    assert told.cure == []
    assert told.summary == "It is queued; the next round of placing starts it."
    worker.gets(id)


# --- the cure, part by part ---------------------------------------------------------------


def test_a_slot_must_be_let_go(story: Story, client: Client) -> None:
    worker = story.worker(slots=1)
    running = client.submit()
    worker.gets(running)
    told = story.explain(client.submit())
    assert parts(told) == [("free", "w1", "slots", 1)]
    assert texts(told) == [f"w1 lets go of 1 slot (held by {running})"]
    assert told.summary == f"It is queued; it starts when w1 lets go of 1 slot (held by {running})."


def test_cores_and_memory_must_be_let_go_in_the_amount_that_is_short(
    story: Story, client: Client
) -> None:
    worker = story.worker(slots=9, cpus=4.0, memory_gb=8.0)
    ids = client.submits(*(spec(needs=needs(cpus=0.7, memory_gb=1.5)) for _ in range(5)))
    worker.gets(*ids)
    told = story.explain(client.submit(needs=needs(cpus=2.0, memory_gb=4.0)))
    assert parts(told) == [("free", "w1", "cpus", 1.5), ("free", "w1", "memory_gb", 3.5)]
    assert texts(told)[0] == (
        f"w1 lets go of 1.5 cores (held by {ids[0]}, {ids[1]}, {ids[2]} and 2 more)"
    )


def test_a_machine_must_have_more_than_it_has(story: Story, client: Client) -> None:
    worker = story.worker(cpus=4.0, memory_gb=8.0, slots=3)
    worker.gets(client.submit(needs=needs(cpus=3.0)))
    told = story.explain(client.submit(needs=(Variant(cpus=6.0, memory_gb=1.0),)))
    assert parts(told) == [("add", "w1", "cpus", 2.0), ("free", "w1", "cpus", 3.0)]
    assert texts(told)[0] == "w1 has 2 cores more than it has"


def test_a_machine_without_slots_must_have_one(story: Story, client: Client) -> None:
    story.worker(slots=0)
    told = story.explain(client.submit())
    assert parts(told) == [("add", "w1", "slots", 1)]


def test_the_least_that_is_asked_of_people_comes_first(story: Story, client: Client) -> None:
    story.worker("tiny", cpus=1.0)
    story.worker("cordoned", cpus=8.0)
    client.drains("cordoned")
    story.peers[b"cordoned#1"].inbox.clear()
    told = story.explain(client.submit(needs=needs(cpus=8.0)))
    assert parts(told) == [("resume", "cordoned", "admission", 0)]
    assert texts(told) == ["cordoned is open again (`corral worker resume cordoned`)"]


def test_a_silent_worker_must_be_heard_of(story: Story, client: Client) -> None:
    worker = story.worker()
    worker.vanishes()
    told = story.explain(client.submit())
    assert parts(told) == [("revive", "w1", "health", 0)]
    assert texts(told) == ["w1 is heard of again"]


def test_a_handler_must_be_installed(story: Story, client: Client) -> None:
    story.announces(kind())
    story.worker(kinds=[kind("other")])
    told = story.explain(client.submit())
    assert parts(told) == [("install", "w1", "kind", 0)]
    assert texts(told)[0].startswith("w1 serves work")
    assert "no worker that is there now serves work" in told.reasons


def test_a_label_must_be_carried(story: Story, client: Client) -> None:
    story.worker(labels={"zone": "b"})
    told = story.explain(client.submit(needs=(Variant(labels={"zone": "a"}),)))
    assert parts(told) == [("label", "w1", "label.zone", 0)]
    assert texts(told) == ["w1 carries zone=a"]
    assert told.reasons == ["no worker can meet the needs of work: label.zone a"]


def test_a_named_resource_must_be_had(stories: Callable[..., Story]) -> None:
    story = stories(named={"gate": 2})
    client = story.client()
    worker = story.worker(slots=9)
    [holder] = client.submits(spec(needs=needs(named={"gate": 1})))
    worker.gets(holder)
    told = story.explain(client.submit(needs=needs(named={"gate": 2})))
    assert parts(told) == [("named", "gate", "named.gate", 1)]
    assert texts(told) == ["1 more of gate can be had"]
    assert told.reasons == [
        f"of gate, which the whole fleet shares, 1 of 2 are free (held by {holder})"
    ]


def test_a_named_resource_may_be_kept_for_who_comes_first(stories: Callable[..., Story]) -> None:
    story = stories(named={"gate": 2})
    client = story.client()
    worker = story.worker(slots=9)
    [holder] = client.submits(spec(needs=needs(named={"gate": 1})))
    worker.gets(holder)
    much = client.submit(needs=needs(named={"gate": 2}), priority=1)
    told = story.explain(client.submit(needs=needs(named={"gate": 1})))
    assert parts(told) == [("ahead", "w1", "", 1)]
    assert f"2 gate are kept for {much}, which comes first" in told.reasons


def test_who_would_take_a_named_resource_elsewhere_must_be_gone_too(
    stories: Callable[..., Story],
) -> None:
    story = stories(named={"gate": 1})
    client = story.client()
    one = story.worker("one", labels={"zone": "x"}, slots=9)
    story.worker("two", labels={"zone": "y"}, slots=9)
    here = (Variant(named={"gate": 1}, labels={"zone": "x"}),)
    there = (Variant(named={"gate": 1}, labels={"zone": "y"}),)
    [holder] = client.submits(spec(needs=here))
    one.gets(holder)
    client.submits(spec(needs=there, priority=1), spec(needs=needs(cpus=99.0), priority=1))
    told = story.explain(client.submit(needs=here))
    assert parts(told) == [("named", "gate", "named.gate", 1), ("ahead", "", "", 2)]
    assert texts(told)[1] == "2 tasks ahead of it are gone"


def test_who_comes_later_is_not_in_the_way(story: Story, client: Client) -> None:
    worker = story.worker(slots=1)
    worker.gets(client.submit())
    client.submits(*(spec(needs=needs(cpus=2.0), priority=-1) for _ in range(3)))
    told = story.explain(client.submit())
    assert parts(told) == [("free", "w1", "slots", 1)]
    assert told.reasons == []


def test_nobody_at_all_is_there(story: Story, client: Client) -> None:
    story.announces(kind(needs=(Variant(),)))
    told = story.explain(client.submit())
    assert parts(told) == [("add_worker", "work", "", 1)]
    assert texts(told) == ["one more worker serves work, with a free slot"]
    wanted = (Variant(cpus=2.0, memory_gb=1.5, gpus=2, gpu_memory_gb=24.0, labels={"zone": "a"}),)
    assert texts(story.explain(client.submit(needs=wanted)))[0] == (
        "one more worker serves work, with 2 cores, 1.5 GiB of memory, 2 GPUs, 24 GiB on each GPU, "
        "zone=a"
    )


def test_a_new_worker_need_not_bring_what_the_fleet_has(stories: Callable[..., Story]) -> None:
    story = stories(named={"gate": 1, "tape": 0})
    story.announces(kind())
    id = story.client().submit(needs=needs(named={"gate": 1, "tape": 2}))
    assert parts(story.explain(id)) == [
        ("add_worker", "work", "", 1), ("named", "tape", "named.tape", 2),
    ]  # fmt: skip


def test_who_is_ahead_must_be_gone(story: Story, client: Client) -> None:
    worker = story.worker(slots=1)
    running, *ahead, last = client.submits(*(spec() for _ in range(6)))
    worker.gets(running)
    told = story.explain(last)
    assert parts(told) == [("free", "w1", "slots", 1), ("ahead", "w1", "", 4)]
    assert texts(told)[1] == "4 tasks ahead of it that w1 could run are gone"
    assert told.reasons == [
        f"4 tasks ahead of it in the queue: {ahead[0]}, {ahead[1]}, {ahead[2]} and 1 more",
        f"without that, {ahead[0]} would start first",
    ]


def test_only_who_could_use_the_worker_must_be_gone(story: Story, client: Client) -> None:
    worker = story.worker(slots=1, cpus=2.0)
    running, *_ = client.submits(*(spec(needs=needs(cpus=1.0)) for _ in range(2)))
    worker.gets(running)
    client.submits(*(spec(needs=needs(cpus=64.0), priority=5) for _ in range(7)))
    told = story.explain(client.submit(needs=needs(cpus=2.0)))
    assert ("ahead", "w1", "", 1) in parts(told)
    assert "8 tasks ahead of it in the queue" in told.reasons[0]


def test_a_machine_may_be_kept_for_another(story: Story, client: Client) -> None:
    worker = story.worker(cpus=4.0, slots=9)
    [running] = client.submits(spec(needs=needs(cpus=2.0)))
    worker.gets(running)
    wide = client.submit(needs=needs(cpus=4.0), priority=1)
    told = story.explain(client.submit(needs=needs(cpus=1.0)))
    assert parts(told) == [("ahead", "w1", "", 1)]
    assert f"w1 is kept for {wide}, which comes first and does not fit yet" in told.reasons
    assert told.workers[0].verdicts[-1].need == "reserved"
    assert (told.workers[0].verdicts[-1].has, told.workers[0].fits) == (f"for {wide}", False)


def test_the_machine_that_is_expected_to_free_first_is_named(story: Story, client: Client) -> None:
    worker = story.worker(slots=1)
    for _ in range(5):
        id = client.submit()
        worker.gets(id)
        worker.ends(id, seconds=300.0)
    worker.gets(client.submit())
    story.later(60.0)
    assert "w1 is expected to have room in 4 min" in story.explain(client.submit()).reasons


# --- parents and waiting ------------------------------------------------------------------


def test_parents_must_succeed_and_say_what_they_wait_for(story: Story, client: Client) -> None:
    worker = story.worker(slots=1)
    a, b, c, d, child = client.submits(
        spec(), spec(), spec(after={"x": "#0"}), spec(after={"x": "#0"}),
        spec(after={"one": "#0", "two": "#1", "three": "#2", "four": "#3"}),
    )  # fmt: skip
    worker.gets(a)
    told = story.explain(child)
    assert told.state is State.WAITING
    assert told.summary.startswith("It waits for 4 parents; it starts when one (")
    assert told.reasons[:4] == [
        f"it comes after one ({a}), which runs on w1",
        f"it comes after two ({b}), which is queued",
        f"it comes after three ({c}), which is waiting",
        "it comes after 1 more parent",
    ]
    assert [(part.action, part.subject) for part in told.cure] == [
        ("finish", id) for id in (a, b, c, d)
    ]
    assert texts(told)[0] == f"one ({a}), which runs on w1, has succeeded"


def test_a_parent_that_ends_frees_what_it_held(story: Story, client: Client) -> None:
    worker = story.worker(slots=1)
    parent, child = client.submits(spec(), spec(after={"a": "#0"}))
    worker.gets(parent)
    assert parts(story.explain(child)) == [("finish", parent, "", 0)]


def test_a_parent_in_a_run_queue_frees_nothing_yet(story: Story, client: Client) -> None:
    worker = story.worker(slots=1)
    for _ in range(5):
        id = client.submit()
        worker.gets(id)
        worker.ends(id, seconds=0.005)
    one, two, child = client.submits(spec(), spec(), spec(needs=needs(cpus=2.0), after={"a": "#0"}))
    worker.gets(one, two)
    told = story.explain(child)
    assert parts(told)[0] == ("finish", one, "", 0)
    assert ("free", "w1", "slots", 1) in parts(told)


def test_a_parent_of_another_kind_frees_what_it_held(story: Story, client: Client) -> None:
    worker = story.worker(slots=1, kinds=[kind(), kind("other")])
    parent, child = client.submits(spec("other"), spec(after={"a": "#0"}))
    worker.gets(parent)
    assert parts(story.explain(child)) == [("finish", parent, "", 0)]


def test_brothers_may_come_first(story: Story, client: Client) -> None:
    worker = story.worker(slots=1)
    parent, *_, child = client.submits(
        spec(), *(spec(after={"a": "#0"}) for _ in range(3)),
        spec(after={"a": "#0"}, priority=-1), spec(after={"a": "#0"}),
    )  # fmt: skip
    worker.gets(parent)
    told = story.explain(child)
    assert parts(told) == [("finish", parent, "", 0), ("ahead", "w1", "", 3)]


def test_a_back_off_must_be_over(story: Story, client: Client) -> None:
    worker = story.worker(slots=1)
    id = client.submit(retry=Retry(delay=100.0))
    worker.gets(id)
    worker.fails(id, message="flaky")
    due = story.task(id).retry_at - story.now
    told = story.explain(id)
    assert told.summary.startswith("It backs off after attempt 1; it starts when its back-off is")
    [(action, subject, need, amount)] = parts(told)
    assert (action, subject, need) == ("wait", id, "back_off")
    assert amount == pytest.approx(due, abs=0.002)
    assert told.reasons[0].startswith("attempt 1 ended (error: flaky); the next is due in ")


def test_the_wait_for_a_gpu_must_be_over_or_a_card_be_free(story: Story, client: Client) -> None:
    fast = story.worker("fast", gpus=[gpu("A")], slots=9)
    fast.gets(client.submit(needs=force_gpu()))
    id = client.submit(needs=prefer_gpu())
    story.later(20.0)
    told = story.explain(id)
    assert parts(told) == [("wait", id, "gpus", pytest.approx(40.0, abs=0.002))]
    assert texts(told) == ["its wait for a GPU is over, in 40.0 s"]
    assert "it prefers a GPU, and waits 40.0 s more for one" in told.reasons


def test_who_expires_before_the_wait_is_over_must_get_a_card(story: Story, client: Client) -> None:
    fast = story.worker("fast", gpus=[gpu("A"), gpu("B", 4.0)], slots=9)
    holder = client.submit(needs=force_gpu(gpu_memory_gb=8.0))
    fast.gets(holder)
    id = client.submit(needs=prefer_gpu(gpu_memory_gb=8.0), queue_limit=30.0)
    told = story.explain(id)
    assert parts(told) == [("free", "fast", "gpus", 1)]
    assert texts(told) == [f"fast lets go of 1 GPU (held by {holder})"]
    assert "it expires in 30.0 s" in told.reasons


def test_a_card_that_no_machine_has_must_be_added(story: Story, client: Client) -> None:
    story.worker(gpus=[gpu("A", 8.0)], slots=9)
    told = story.explain(client.submit(needs=(Variant(gpus=2, gpu_memory_gb=16.0),)))
    assert parts(told) == [("add", "w1", "gpus", 2)]


def test_a_card_that_another_machine_uses_must_be_let_go(story: Story, client: Client) -> None:
    one = story.worker("one", gpus=[gpu("A")], labels={"zone": "x"}, slots=9)
    story.worker("two", gpus=[gpu("A")], labels={"zone": "y"}, slots=9)
    one.gets(client.submit(needs=force_gpu()))
    told = story.explain(client.submit(needs=(Variant(gpus=1, labels={"zone": "y"}),)))
    assert parts(told) == [("free", "two", "gpus", 1)]


def test_after_a_restart_the_silence_of_workers_is_a_reason(story: Story, client: Client) -> None:
    worker = story.worker(slots=1)
    first, second = client.submits(spec(), spec())
    worker.gets(first)
    story.restart()
    told = story.explain(second)
    assert parts(told) == [("add_worker", "work", "", 1)]
    assert told.reasons[-1].startswith("w1 did not come back yet since the broker started")
    running = story.explain(first)
    assert running.reasons[0].startswith("w1 is unavailable")


def test_a_plain_worker_is_named_like_any_other(story: Story, client: Client) -> None:
    old = story.plain("old", Dialect.MDP01)
    old.serves("work")
    running = client.submit()
    old.gets(running)
    told = story.explain(client.submit())
    [(action, subject, need, amount)] = parts(told)
    assert (action, need, amount) == ("free", "slots", 1)
    assert subject.startswith("work@")


def test_explaining_twice_says_the_same(story: Story, client: Client) -> None:
    worker: Native = story.worker(slots=1)
    ids = client.submits(*(spec() for _ in range(4)))
    worker.gets(ids[0])
    assert story.explain(ids[3]) == story.explain(ids[3])


def test_a_brother_that_was_cancelled_is_not_in_the_way(story: Story, client: Client) -> None:
    worker = story.worker(slots=1)
    parent, brother, child = client.submits(
        spec(), spec(after={"a": "#0"}), spec(after={"a": "#0"})
    )
    worker.gets(parent)
    client.cancels(brother)
    assert parts(story.explain(child)) == [("finish", parent, "", 0)]


def test_a_slot_that_runs_low_will_take_it(story: Story, client: Client) -> None:
    worker = story.worker(slots=1)
    for _ in range(5):
        id = client.submit()
        worker.gets(id)
        worker.ends(id, seconds=0.005)
    running = client.submit()
    worker.gets(running)
    with story.together():
        [id] = client.submits(spec())
        told = story.explain(id)
    assert told.cure == []
    worker.gets(id)


def test_a_plain_worker_that_is_free_will_take_it(story: Story, client: Client) -> None:
    old = story.plain("old", Dialect.MDP01)
    old.serves("work")
    with story.together():
        [id] = client.submits(spec())
        assert story.explain(id).cure == []
    old.gets(id)


# --- a large fleet ------------------------------------------------------------------------


def crowd(workers: int, tasks: int) -> tuple[Story, list[str]]:
    """A saturated fleet with a long queue of 20 classes, 3 priorities and 5 projects."""
    story = Story()
    story.announces(kind())
    with story.together():
        for number in range(workers):
            story.worker(f"w{number:04}", slots=8, cpus=8.0, memory_gb=32.0)
    client = story.client()
    sizes = [needs(cpus=cpus, memory_gb=gb) for cpus in (1, 2, 4, 8) for gb in (0.5, 2, 8, 16, 32)]
    with story.together():
        for first in range(0, tasks, 1000):
            specs = [
                spec(needs=sizes[n * 7 % 20], priority=n % 3, project=f"p{n % 5}")
                for n in range(first, first + 1000)
            ]
            client.calls(Submit(b"%d" % first, specs))
    for peer in story.peers.values():
        peer.inbox.clear()
    return story, [task.id for task in story.state.tasks.values() if task.lane is not None]


def test_a_long_queue_and_a_large_fleet_are_explained_at_once(
    evidence: Evidence, pytestconfig: pytest.Config
) -> None:
    tasks = 100_000 if pytestconfig.getoption("long") else 20_000
    story, queued = crowd(workers=1_000, tasks=tasks)
    gc.collect()
    gc.freeze()
    gc.disable()
    try:
        taken = []
        for id in queued[:: len(queued) // 12]:
            started = time.process_time()
            told = explain(story.state, id, story.now)
            taken.append(time.process_time() - started)
            assert len(told.workers) == 1_000
            assert told.cure
        assert gc.collect() == 0, "the broker runs without the collector of cycles"
    finally:
        gc.enable()
        gc.unfreeze()
    middle = sorted(taken)[len(taken) // 2]
    evidence.record(
        f"explain, {tasks:,} queued, 1,000 workers",
        median_ms=middle * 1000,
        worst_ms=max(taken) * 1000,
    )
    assert middle < 0.1
