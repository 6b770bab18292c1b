"""GPU first: a bounded wait, learned estimates, never the CPU for who insists."""

from __future__ import annotations

import pytest

from corral.tasks import State, Variant, force_gpu, prefer_gpu
from tests.unit.core.peers import Client, Native, gpu, spec
from tests.unit.core.story import Story

BOTH = prefer_gpu(cpus=1.0)


def teach(
    client: Client, gpu_worker: Native, cpu_worker: Native, on_gpu: float, on_cpu: float
) -> None:
    """Let the broker learn the run times of BOTH, on either."""
    for _ in range(5):
        [id] = client.submits(spec(needs=BOTH))
        gpu_worker.gets(id)
        gpu_worker.ends(id, seconds=on_gpu)
    [hold] = client.submits(spec(needs=force_gpu(cpus=0.0)))
    gpu_worker.gets(hold)
    for _ in range(5):
        [id] = client.submits(spec(needs=BOTH))
        gpu_worker.story.later(60.0)
        cpu_worker.gets(id)
        cpu_worker.ends(id, seconds=on_cpu)
    gpu_worker.ends(hold)


@pytest.fixture
def fast(story: Story) -> Native:
    """A worker with one card."""
    return story.worker("fast", gpus=[gpu("A")], slots=4)


@pytest.fixture
def plain(story: Story) -> Native:
    """A worker without."""
    return story.worker("plain", slots=4)


@pytest.fixture
def client(story: Story) -> Client:
    return story.client()


def test_the_gpu_is_taken_when_one_is_free(
    story: Story, fast: Native, plain: Native, client: Client
) -> None:
    id = client.submit(needs=BOTH)
    fast.gets(id)
    attempt = story.task(id).attempt
    assert (attempt.booking.variant, attempt.booking.gpus, attempt.decision) == (0, ["A"], "")


def test_without_any_gpu_the_cpu_is_taken_at_once(
    story: Story, plain: Native, client: Client
) -> None:
    id = client.submit(needs=BOTH)
    plain.gets(id)
    assert story.task(id).attempt.decision == "no open worker has such a GPU"


def test_a_card_that_is_too_small_is_no_gpu(
    story: Story, fast: Native, plain: Native, client: Client
) -> None:
    plain.gets(client.submit(needs=prefer_gpu(cpus=1.0, gpu_memory_gb=80.0)))


def test_the_wait_for_a_gpu_is_bounded(
    story: Story, fast: Native, plain: Native, client: Client
) -> None:
    fast.gets(client.submit(needs=force_gpu()))
    id = client.submit(needs=BOTH)
    story.later(59.9)
    plain.hears_nothing()
    story.later(0.2)
    plain.gets(id)
    assert story.task(id).attempt.decision == "waited 60 s for a GPU, the bound is 60 s"


def test_a_gpu_that_frees_in_time_is_taken(
    story: Story, fast: Native, plain: Native, client: Client
) -> None:
    first = client.submit(needs=force_gpu())
    fast.gets(first)
    id = client.submit(needs=BOTH)
    story.later(30.0)
    fast.ends(first)
    fast.gets(id)
    story.later(60.0)
    plain.hears_nothing()


def test_who_insists_on_a_gpu_never_gets_the_cpu(
    story: Story, fast: Native, plain: Native, client: Client
) -> None:
    first, second = client.submits(*(spec(needs=force_gpu()) for _ in range(2)))
    fast.gets(first)
    story.later(3600.0)
    plain.hears_nothing()
    fast.parts()  # hands the first back
    story.later(3600.0)
    story.is_(first, State.QUEUED)
    story.is_(second, State.QUEUED)


def test_the_cpu_is_taken_when_it_would_finish_earlier(
    story: Story, fast: Native, plain: Native, client: Client
) -> None:
    teach(client, fast, plain, on_gpu=100.0, on_cpu=120.0)
    [busy] = client.submits(spec(needs=BOTH))
    fast.gets(busy)
    id = client.submit(needs=BOTH)
    plain.gets(id)  # 120 s beat 100 s of waiting and 100 s of work
    decision = story.task(id).attempt.decision
    assert decision == "CPU takes 120.0 s, a GPU 100.0 s after 100.0 s of waiting"


def test_the_gpu_is_waited_for_when_it_would_finish_earlier(
    story: Story, fast: Native, plain: Native, client: Client
) -> None:
    teach(client, fast, plain, on_gpu=10.0, on_cpu=120.0)
    [busy] = client.submits(spec(needs=BOTH))
    fast.gets(busy)
    id = client.submit(needs=BOTH)
    plain.hears_nothing()
    story.later(30.0)
    plain.hears_nothing()
    fast.ends(busy)
    fast.gets(id)


def test_a_gpu_that_nobody_can_foresee_is_waited_for_up_to_the_bound(
    story: Story, fast: Native, plain: Native, client: Client
) -> None:
    teach(client, fast, plain, on_gpu=10.0, on_cpu=120.0)
    [unknown] = client.submits(spec(needs=force_gpu(memory_gb=1.0)))
    fast.gets(unknown)
    id = client.submit(needs=BOTH)
    plain.hears_nothing()
    story.later(60.0)
    plain.gets(id)


def test_gpu_variants_of_different_size_are_tried_in_order(story: Story, client: Client) -> None:
    small = story.worker("small", gpus=[gpu("S", 8.0)], slots=4)
    id = client.submit(
        needs=(Variant(gpus=1, gpu_memory_gb=40.0), Variant(gpus=1, gpu_memory_gb=4.0))
    )
    small.gets(id)
    assert story.task(id).attempt.booking.variant == 1


def test_who_waits_for_a_gpu_keeps_no_cores_from_others(
    story: Story, fast: Native, client: Client
) -> None:
    fast.gets(client.submit(needs=force_gpu(cpus=6.0)))
    client.submits(spec(needs=prefer_gpu(cpus=2.0), priority=5))
    other = story.worker("other", cpus=2.0)
    other.gets(client.submit())


def test_who_may_do_without_a_gpu_is_not_starved_of_cores(story: Story, client: Client) -> None:
    worker = story.worker("plain", cpus=4.0, slots=9)
    [running] = client.submits(spec())
    worker.gets(running)
    wide = client.submit(needs=prefer_gpu(cpus=4.0), priority=1)
    narrow = client.submit()
    worker.hears_nothing()  # it would keep the wide one waiting for ever
    worker.ends(running)
    worker.gets(wide)
    worker.ends(wide)
    worker.gets(narrow)


def test_cpu_work_does_not_take_the_card_s_machine_while_others_will_do(
    story: Story, fast: Native, plain: Native, client: Client
) -> None:
    ids = client.submits(*(spec() for _ in range(4)))
    plain.gets(*ids)
    fast.gets(client.submit(needs=BOTH))


def test_the_wait_begins_anew_with_each_attempt(
    story: Story, fast: Native, plain: Native, client: Client
) -> None:
    fast.gets(client.submit(needs=force_gpu()))
    id = client.submit(needs=BOTH)
    story.later(61.0)
    plain.gets(id)
    plain.fails(id)
    story.later(30.0)
    plain.hears_nothing()
    story.later(40.0)
    plain.gets(id)


def test_foreign_memory_is_seen_and_respected(story: Story, client: Client) -> None:
    story.worker("w1", gpus=[gpu("A", 24.0, foreign_gb=20.0)])
    id = client.submit(needs=force_gpu(gpu_memory_gb=8.0))
    story.is_(id, State.QUEUED)
    [part] = story.explain(id).cure
    assert (part.action, part.subject, part.need, part.amount) == ("free", "w1", "gpus", 1)
