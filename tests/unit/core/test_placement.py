"""Where a task goes: what fits, best fit and the other strategies, gaps, reservations, sharing."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import pytest

from corral.messages import Resources
from corral.tasks import State, Variant, needs
from corral.wire import Extended
from tests.unit.core.peers import Client, Native, gpu, kind, spec
from tests.unit.core.story import Story

HUGE = {"slots": 100, "cpus": 100.0, "memory_gb": 100.0}


def learn(client: Client, worker: Native, seconds: float, times: int = 5, **fields: Any) -> None:
    """Let the broker learn how long tasks that ask for this run."""
    for _ in range(times):
        [id] = client.submits(spec(**fields))
        worker.gets(id)
        worker.ends(id, seconds=seconds)


# --- what fits ------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("need", "has"),
    [
        (Variant(cpus=4.0), {"cpus": 3.5}),
        (Variant(memory_gb=8.0), {"memory_gb": 7.9}),
        (Variant(gpus=1), {"gpus": []}),
        (Variant(gpus=2), {"gpus": [gpu("A")]}),
        (Variant(gpus=1, gpu_memory_gb=40.0), {"gpus": [gpu("A", 24.0)]}),
        (Variant(gpus=1, gpu_memory_gb=20.0), {"gpus": [gpu("A", 24.0, foreign_gb=8.0)]}),
        (Variant(labels={"zone": "a"}), {"labels": {"zone": "b"}}),
        (Variant(labels={"zone": "a"}), {}),
        (Variant(named={"gate": 1}), {}),
        (Variant(), {"slots": 0}),
        (Variant(), {"kinds": [kind("other")]}),
        (Variant(), {"kinds": [kind(extra="research")]}),
    ],
)
def test_a_task_waits_for_a_worker_that_has_all_it_needs(
    story: Story, need: Variant, has: dict[str, Any]
) -> None:
    story.announces(kind())
    lacking = story.worker("lacking", **has)
    id = story.client().submit(needs=(need,))
    lacking.hears_nothing()
    story.is_(id, State.QUEUED)


def test_a_worker_takes_as_much_as_it_has(story: Story) -> None:
    worker = story.worker(slots=10, cpus=4.0, memory_gb=8.0)
    client = story.client()
    ids = client.submits(*(spec(needs=needs(cpus=1.5, memory_gb=0.1)) for _ in range(3)))
    worker.gets(*ids[:2])
    worker.ends(ids[0])
    worker.gets(ids[2])
    assert (worker.record.slots_used, worker.record.cpus_used) == (2, 3000)
    assert worker.record.memory_used == 204  # 2 x 0.1 GiB in whole MiB


def test_a_task_that_asks_for_no_cores_takes_a_slot_only(story: Story) -> None:
    worker = story.worker(slots=2, cpus=0.0, memory_gb=0.0)
    id = story.client().submit(needs=(Variant(),))
    worker.gets(id)
    assert worker.record.status == "available"


def test_a_full_worker_is_busy(story: Story) -> None:
    worker = story.worker(slots=1)
    worker.gets(story.client().submit())
    assert worker.record.status == "busy"


def test_fractions_of_cores_add_up_exactly(story: Story) -> None:
    worker = story.worker(slots=20, cpus=1.0)
    client = story.client()
    ids = client.submits(*(spec(needs=needs(cpus=0.1)) for _ in range(10)))
    worker.gets(*ids)
    worker.ends(*ids)
    assert worker.record.cpus_used == 0
    worker.gets(client.submit(needs=needs(cpus=1.0)))


def test_a_later_variant_is_taken_when_the_first_fits_nowhere(story: Story) -> None:
    worker = story.worker(cpus=4.0)
    id = story.client().submit(needs=(Variant(cpus=16.0), Variant(cpus=2.0)))
    worker.gets(id)
    attempt = story.task(id).attempt
    assert attempt.booking.variant == 1
    assert attempt.decision == "variant 1: the ones before it fit nowhere"


def test_the_machine_may_grow_and_shrink(story: Story) -> None:
    worker = story.worker(memory_gb=4.0, gpus=[gpu("A")], slots=4)
    client = story.client()
    big = client.submit(needs=needs(memory_gb=8.0))
    worker.says(Extended(Resources(16.0, [], ["prices"])))
    worker.gets(big)
    assert worker.record.caches == {"prices"}
    card = client.submit(needs=(Variant(gpus=1),))
    worker.hears_nothing()
    worker.says(Extended(Resources(-1.0, [gpu("B")], [])))
    worker.gets(card)
    assert worker.record.memory == 0
    story.explain(client.submit(needs=needs(memory_gb=1.0)))


# --- strategies -----------------------------------------------------------------------------


def test_best_fit_leaves_large_machines_for_large_tasks(story: Story) -> None:
    large = story.worker("large", cpus=32.0, memory_gb=128.0, slots=4)
    small = story.worker("small", cpus=4.0, memory_gb=8.0, slots=4)
    client = story.client()
    small.gets(client.submit(needs=needs(cpus=4.0)))
    large.gets(client.submit(needs=needs(cpus=4.0)))


def test_machines_that_have_nothing_but_slots_fit_too(story: Story) -> None:
    for name in "ab":
        story.worker(name, cpus=0.0, memory_gb=0.0, slots=2)
    client = story.client()
    ids = client.submits(*(spec(needs=(Variant(),)) for _ in range(2)))
    assert [story.task(id).attempt.booking.worker.name for id in ids] == ["a", "a"]
    story.peers[b"a#1"].inbox.clear()


def test_the_least_loaded_worker_comes_first(story: Story) -> None:
    spread = kind(strategy="least_loaded")
    one = story.worker("one", kinds=[spread], slots=4)
    two = story.worker("two", kinds=[spread], slots=4)
    client = story.client()
    one.gets(client.submit())
    two.gets(client.submit())
    half = client.submit(needs=needs(cpus=4.0))
    one.gets(half)
    two.gets(client.submit())
    two.gets(client.submit())


def test_round_robin_takes_who_was_used_longest_ago(story: Story) -> None:
    turns = kind(strategy="round_robin")
    workers = [story.worker(name, kinds=[turns], slots=4) for name in "abc"]
    client = story.client()
    for worker in [*workers, *workers]:
        worker.gets(client.submit())
    last = client.submit()
    workers[0].gets(last)
    workers[0].ends(last)
    workers[1].gets(client.submit())


def test_affinity_goes_where_the_data_is(story: Story) -> None:
    near = kind(strategy="affinity")
    story.worker("empty", kinds=[near], slots=4)
    some = story.worker("some", kinds=[near], slots=4, caches=["a"])
    all_ = story.worker("zoo", kinds=[near], slots=2, caches=["a", "b", "c"])
    client = story.client()
    wants = {"caches": ("a", "b")}
    all_.gets(client.submit(**wants))
    all_.gets(client.submit(**wants))
    some.gets(client.submit(**wants))


def test_a_strategy_nobody_knows_is_the_default(story: Story) -> None:
    odd = kind(strategy="astrology")
    story.worker("large", kinds=[odd], cpus=64.0)
    small = story.worker("small", kinds=[odd], cpus=2.0)
    small.gets(story.client().submit())


@pytest.mark.parametrize("strategy", ["resource_aware", "least_loaded", "round_robin", "affinity"])
def test_machines_with_gpus_are_left_to_work_that_wants_them(story: Story, strategy: str) -> None:
    polite = kind(strategy=strategy)
    rich = story.worker("a", kinds=[polite], gpus=[gpu("A")], cpus=2.0, slots=2)
    poor = story.worker("z", kinds=[polite], cpus=2.0, slots=2)
    client = story.client()
    poor.gets(client.submit())
    poor.gets(client.submit())
    rich.gets(client.submit())  # better than to wait


@pytest.mark.parametrize("strategy", ["resource_aware", "least_loaded", "round_robin", "affinity"])
def test_workers_that_are_alike_are_taken_by_name(story: Story, strategy: str) -> None:
    alike = kind(strategy=strategy)
    later = story.worker("w2", kinds=[alike])
    first = story.worker("w1", kinds=[alike])
    client = story.client()
    id = client.submit()
    first.gets(id)
    first.ends(id)
    later.hears_nothing()


# --- fleet-wide resources --------------------------------------------------------------------


def test_a_named_resource_is_counted_over_the_whole_fleet(stories: Callable[..., Story]) -> None:
    story = stories(named={"gate": 2})
    one, two = story.worker("one", slots=1), story.worker("two", slots=1)
    three = story.worker("three", slots=2)
    client = story.client()
    gated = needs(named={"gate": 1})
    ids = client.submits(*(spec(needs=gated) for _ in range(3)), spec())
    one.gets(ids[0])
    two.gets(ids[1])
    three.gets(ids[3])
    story.is_(ids[2], State.QUEUED)
    assert story.state.ledger.named_free("gate") == 0


def test_a_named_resource_that_is_let_go_starts_the_next(stories: Callable[..., Story]) -> None:
    story = stories(named={"gate": 1})
    one = story.worker("one", slots=1)
    two = story.worker("two", slots=1)
    client = story.client()
    first, second = client.submits(*(spec(needs=needs(named={"gate": 1})) for _ in range(2)))
    one.gets(first)
    two.hears_nothing()
    free = client.submit()
    two.gets(free)
    one.ends(first)
    one.gets(second)


def test_a_task_that_wants_much_of_a_named_resource_is_not_starved(
    stories: Callable[..., Story],
) -> None:
    story = stories(named={"gate": 2})
    worker = story.worker(slots=8)
    client = story.client()
    little = needs(named={"gate": 1})
    first, second = client.submits(*(spec(needs=little) for _ in range(2)))
    worker.gets(first, second)
    much = client.submit(needs=needs(named={"gate": 2}), priority=1)
    third = client.submit(needs=little)
    worker.ends(first)
    worker.hears_nothing()  # what is let go is kept for the one that comes first
    other = client.submit()
    worker.gets(other)  # who wants none of it goes on
    worker.ends(second)
    worker.gets(much)
    worker.ends(much)
    worker.gets(third)


@pytest.mark.parametrize("projects", [("one", "one"), ("one", "two")])
def test_a_class_that_cannot_start_is_kept_what_one_of_it_wants(
    stories: Callable[..., Story], projects: tuple[str, str]
) -> None:
    story = stories(named={"licence": 3})
    worker = story.worker(cpus=4.0, slots=8)
    client = story.client()
    running = client.submit(needs=needs(cpus=2.0))
    worker.gets(running)
    wide = needs(cpus=4.0, named={"licence": 2})
    waiting = client.submits(*(spec(needs=wide, priority=1, project=one) for one in projects))
    little = needs(cpus=0.0, named={"licence": 1})
    third, fourth = (client.submit(needs=little) for _ in range(2))
    worker.gets(third)  # two of the three are kept, not four
    story.is_(fourth, State.QUEUED)
    worker.ends(running)
    worker.gets(waiting[0])


def test_a_named_resource_is_not_kept_for_who_could_never_have_it(
    stories: Callable[..., Story],
) -> None:
    story = stories(named={"gate": 2})
    worker = story.worker()
    client = story.client()
    never = client.submit(needs=needs(named={"gate": 3}), priority=1)
    nowhere = client.submit(needs=(Variant(cpus=99.0, named={"gate": 1}),), priority=1)
    for id in (never, nowhere):
        story.is_(id, State.QUEUED)
    client.inbox.clear()
    worker.gets(client.submit(needs=needs(named={"gate": 1})))


def test_one_card_seen_from_two_machines_is_one_card(story: Story) -> None:
    one = story.worker("one", gpus=[gpu("A")])
    two = story.worker("two", gpus=[gpu("A")])
    client = story.client()
    first, second = client.submits(*(spec(needs=(Variant(gpus=1),)) for _ in range(2)))
    one.gets(first)
    two.hears_nothing()
    one.ends(first)
    two.gets(second)  # it was used longer ago
    assert story.state.ledger.gpu_holder == {"A": story.task(second).attempt.booking.number}


def test_a_shared_card_that_is_let_go_helps_the_other_machine(story: Story) -> None:
    one = story.worker("one", gpus=[gpu("A")], slots=1)
    client = story.client()
    [first] = client.submits(spec(needs=(Variant(gpus=1),)))
    one.gets(first)
    two = story.worker("two", gpus=[gpu("A")], labels={"zone": "b"})
    [there] = client.submits(spec(needs=(Variant(gpus=1, labels={"zone": "b"}),)))
    two.hears_nothing()
    one.ends(first)
    two.gets(there)


def test_a_card_leaves_with_its_last_machine(story: Story) -> None:
    one = story.worker("one", gpus=[gpu("A"), gpu("B")])
    two = story.worker("two", gpus=[gpu("A")])
    assert story.state.ledger.gpu_seen_by == {"A": {"one", "two"}, "B": {"one"}}
    one.parts()
    assert story.state.ledger.gpu_seen_by == {"A": {"two"}}
    two.parts()
    assert story.state.ledger.gpu_seen_by == {}


def test_the_smallest_cards_that_do_are_given(story: Story) -> None:
    cards = [gpu("big", 80.0), gpu("b", 24.0), gpu("a", 24.0), gpu("tiny", 4.0)]
    worker = story.worker(gpus=cards, slots=4)
    client = story.client()
    id = client.submit(needs=(Variant(gpus=2, gpu_memory_gb=16.0),))
    worker.gets(id)
    assert story.task(id).attempt.booking.gpus == ["a", "b"]
    last = client.submit(needs=(Variant(gpus=1, gpu_memory_gb=16.0),))
    worker.gets(last)
    assert story.task(last).attempt.booking.gpus == ["big"]


# --- gaps and reservations ---------------------------------------------------------------------


def test_a_blocked_task_does_not_idle_what_it_could_never_use(story: Story) -> None:
    small = story.worker("small", cpus=2.0)
    client = story.client()
    client.submits(spec(needs=needs(cpus=64.0), priority=9))
    small.gets(client.submit())


def test_the_machine_that_frees_first_is_kept_for_a_blocked_task(story: Story) -> None:
    worker = story.worker(cpus=4.0, slots=8)
    client = story.client()
    [running] = client.submits(spec(needs=needs(cpus=2.0)))
    worker.gets(running)
    wide = client.submit(needs=needs(cpus=4.0), priority=1)
    narrow = client.submit(needs=needs(cpus=1.0))
    worker.hears_nothing()  # it would keep the wide one waiting for ever
    worker.ends(running)
    worker.gets(wide)
    worker.ends(wide)
    worker.gets(narrow)


def test_what_fits_beside_a_reservation_fills_the_gap_and_is_told_so(story: Story) -> None:
    worker = story.worker(cpus=4.0, slots=8)
    client = story.client()
    [running] = client.submits(spec(needs=needs(cpus=2.0)))
    worker.gets(running)
    wide = client.submit(needs=needs(cpus=3.0), priority=1)
    gap, no_gap = client.submits(*(spec(needs=needs(cpus=1.0)) for _ in range(2)))
    worker.gets(gap)
    assert story.task(gap).attempt.decision == f"fills a gap before {wide}"
    story.is_(no_gap, State.QUEUED)
    worker.ends(running)
    worker.gets(wide)


def test_what_ends_before_fills_the_gap(story: Story) -> None:
    worker = story.worker(cpus=4.0, slots=8)
    client = story.client()
    learn(client, worker, 60.0, needs=needs(cpus=2.0))
    learn(client, worker, 10.0, needs=needs(cpus=1.0))
    learn(client, worker, 90.0, needs=needs(cpus=0.5))
    [running] = client.submits(spec(needs=needs(cpus=2.0)))
    worker.gets(running)
    client.submits(spec(needs=needs(cpus=4.0), priority=1))
    long, short = client.submits(spec(needs=needs(cpus=0.5)), spec(needs=needs(cpus=1.0)))
    worker.gets(short)
    story.is_(long, State.QUEUED)


def test_gaps_are_filled_until_the_time_that_is_left_is_too_short(story: Story) -> None:
    worker = story.worker(cpus=4.0, slots=8)
    client = story.client()
    learn(client, worker, 60.0, needs=needs(cpus=2.0))
    learn(client, worker, 50.0, needs=needs(cpus=1.0))
    [running] = client.submits(spec(needs=needs(cpus=2.0)))
    worker.gets(running)
    [wide] = client.submits(spec(needs=needs(cpus=4.0), priority=1))
    ids = client.submits(*(spec(needs=needs(cpus=1.0)) for _ in range(3)))
    worker.gets(ids[0], ids[1])
    story.later(50.0)
    worker.ends(ids[0], ids[1], seconds=50.0)
    worker.hears_nothing()  # the third would end after 100 s, and the machine is free after 60
    story.later(10.0)
    worker.ends(running, seconds=60.0)
    worker.gets(wide)


def test_a_task_that_runs_longer_than_it_should_is_expected_to_end_now(story: Story) -> None:
    worker = story.worker(cpus=4.0, slots=8)
    client = story.client()
    learn(client, worker, 5.0, needs=needs(cpus=2.0))
    learn(client, worker, 1.0, needs=needs(cpus=1.0))
    [running] = client.submits(spec(needs=needs(cpus=2.0)))
    worker.gets(running)
    story.later(30.0)
    client.submits(spec(needs=needs(cpus=4.0), priority=1))
    [short] = client.submits(spec(needs=needs(cpus=1.0)))
    worker.hears_nothing()
    story.is_(short, State.QUEUED)


def test_the_choice_of_a_machine_holds_for_some_seconds(story: Story) -> None:
    one, two = story.worker("one", cpus=4.0, slots=9), story.worker("two", cpus=4.0, slots=9)
    client = story.client()
    [a, b] = client.submits(*(spec(needs=needs(cpus=3.0)) for _ in range(2)))
    one.gets(a)
    two.gets(b)
    [wide] = client.submits(spec(needs=needs(cpus=4.0), priority=1))
    [beside] = client.submits(spec(needs=needs(cpus=1.0)))  # one is kept, so the other is filled
    two.gets(beside)
    assert story.task(wide).klass.reserved[:2] == ("one", 0)
    [later] = client.submits(spec(needs=needs(cpus=1.0)))
    two.hears_nothing()
    two.ends(b)  # now two would be free earlier, but the choice holds
    two.gets(later)
    assert story.task(wide).klass.reserved[:2] == ("one", 0)
    one.ends(a)
    one.gets(wide)


def test_a_machine_that_is_drained_is_kept_for_nobody(story: Story) -> None:
    one, two = story.worker("one", cpus=4.0, slots=9), story.worker("two", cpus=4.0, slots=9)
    client = story.client()
    [a, b] = client.submits(*(spec(needs=needs(cpus=3.0)) for _ in range(2)))
    one.gets(a)
    two.gets(b)
    [wide] = client.submits(spec(needs=needs(cpus=4.0), priority=1))
    [beside] = client.submits(spec(needs=needs(cpus=1.0)))
    two.gets(beside)
    client.drains("one")
    one.inbox.clear()
    two.ends(beside)
    assert story.task(wide).lane is not None
    [narrow] = client.submits(spec(needs=needs(cpus=1.0)))
    story.is_(narrow, State.QUEUED)  # two is kept now
    assert story.task(wide).klass.reserved[:2] == ("two", 0)


def test_a_gpu_task_does_not_slip_in_beside_a_reservation(story: Story) -> None:
    worker = story.worker(cpus=8.0, slots=9, gpus=[gpu("A"), gpu("B")])
    client = story.client()
    [running] = client.submits(spec(needs=(Variant(cpus=1.0, gpus=1),)))
    worker.gets(running)
    client.submits(spec(needs=(Variant(cpus=1.0, gpus=2),), priority=1))
    [late] = client.submits(spec(needs=(Variant(cpus=1.0, gpus=1),)))
    worker.hears_nothing()
    story.is_(late, State.QUEUED)


def test_a_blocked_class_may_be_kept_a_machine_for_a_later_variant(story: Story) -> None:
    worker = story.worker(cpus=4.0, slots=9)
    client = story.client()
    [running] = client.submits(spec(needs=needs(cpus=2.0)))
    worker.gets(running)
    client.submits(spec(needs=(Variant(cpus=16.0), Variant(cpus=4.0)), priority=1))
    [narrow] = client.submits(spec(needs=needs(cpus=1.0)))
    worker.hears_nothing()
    story.is_(narrow, State.QUEUED)


def test_the_last_in_the_queue_keeps_nothing_from_anybody(story: Story) -> None:
    worker = story.worker(cpus=4.0, slots=9)
    client = story.client()
    [running] = client.submits(spec(needs=needs(cpus=2.0)))
    worker.gets(running)
    [wide] = client.submits(spec(needs=needs(cpus=4.0)))
    assert story.task(wide).klass.reserved is None


@pytest.mark.parametrize("how", ["cancel", "expire"])
def test_what_was_kept_for_a_task_that_leaves_the_queue_is_given_at_once(
    story: Story, how: str
) -> None:
    worker = story.worker(cpus=4.0, slots=9)
    client = story.client()
    [running] = client.submits(spec(needs=needs(cpus=2.0)))
    worker.gets(running)
    limit = 30.0 if how == "expire" else None
    [wide] = client.submits(spec(needs=needs(cpus=4.0), priority=1, queue_limit=limit))
    [narrow] = client.submits(spec(needs=needs(cpus=1.0)))
    worker.hears_nothing()
    if how == "cancel":
        client.cancels(wide)
    else:
        story.later(31.0)
    worker.gets(narrow)


def test_a_choice_that_no_longer_helps_is_made_anew(story: Story) -> None:
    one = story.worker("one", gpus=[gpu("A")], slots=9)
    two = story.worker("two", gpus=[gpu("A")], slots=9, labels={"zone": "x"})
    client = story.client()
    first = client.submit(needs=(Variant(gpus=1),))
    one.gets(first)
    waiting = client.submit(needs=(Variant(gpus=1, cpus=1.0),))
    one.gets(client.submit())  # looked for room: one is kept for who waits
    assert story.task(waiting).klass.reserved[0] == "one"
    there = client.submit(needs=(Variant(gpus=1, labels={"zone": "x"}),), priority=1)
    one.ends(first)
    two.gets(there)
    one.gets(client.submit())
    assert story.task(waiting).klass.reserved[0] == "two"
