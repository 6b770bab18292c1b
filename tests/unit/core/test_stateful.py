"""Random histories: peers that come, go, lie dead and return, and a broker that starts again.

Beside the machine runs a model of what is really so: which process runs what on which card. After
every step the machine's own invariants hold, and by the model: a recorded result never changes, a
token is given once, no card and no core is used twice. At the end the world is healed, and whatever
could run has run.
"""

from __future__ import annotations

from random import Random
from typing import Any

import pytest
from hypothesis import settings
from hypothesis import strategies as st
from hypothesis.stateful import Bundle, RuleBasedStateMachine, consumes, initialize, multiple, rule
from msgspec import Raw

from broker.core.effects import AssignTask, Disconnect
from corral.messages import (
    CancelAttempts,
    DrainWorker,
    Ended,
    Finished,
    Nack,
    Recall,
    ResultAck,
    Submit,
    Welcome,
)
from corral.settings import BrokerSettings
from corral.tasks import TERMINAL, Failure, Retry, State, Variant
from corral.wire import Extended
from tests.unit.core.peers import Client, Native, gpu, kind, packed, spec
from tests.unit.core.story import Story

KINDS = [kind("work"), kind("sum", content=True), kind("turns", strategy="round_robin")]
MACHINES: dict[str, dict[str, Any]] = {
    "w1": {"slots": 2, "cpus": 4.0, "gpus": [gpu("A"), gpu("B")]},
    "w2": {"slots": 3, "cpus": 2.0, "gpus": [gpu("B")]},
    "w3": {"slots": 1, "cpus": 8.0, "memory_gb": 4.0},
}
NEEDS: list[tuple[Variant, ...] | None] = [
    None,
    (Variant(cpus=2.0),),
    (Variant(cpus=0.5, memory_gb=1.0),),
    (Variant(cpus=1.0, gpus=1),),
    (Variant(cpus=1.0, gpus=1), Variant(cpus=1.0)),
    (Variant(cpus=0.5, named={"gate": 1}),),
    (Variant(cpus=0.5, gpus=2),),
    (Variant(cpus=64.0),),
]
OUTCOMES = ["ok", "ok", "ok", "error", "out_of_memory", "killed", "time_limit", "handed_back"]


class Process(Native):
    """A worker that really runs what it is given."""

    def __init__(self, story: Story, name: str) -> None:
        super().__init__(story, name, kinds=KINDS, **MACHINES[name])
        self.runs: dict[bytes, AssignTask] = {}  #: what it holds, until it reports its end
        self.booked: dict[bytes, tuple[float, tuple[str, ...]]] = {}  #: token -> cores, cards
        self.to_stop: list[bytes] = []
        self.up = True

    def live(self) -> None:
        """Read the inbox, and do what it says."""
        while self.inbox:
            said = self.inbox.pop(0)
            if isinstance(said, AssignTask):
                attempt = self.story.state.attempts.get(said.token)
                if attempt is None:
                    continue  # it comes after its worker was given up
                assert said.token not in self.runs
                self.runs[said.token] = said
                need = attempt.booking.amount.need
                self.booked[said.token] = (need.cpus, tuple(attempt.booking.gpus))
            elif isinstance(said, CancelAttempts):
                self.to_stop += [token for token in said.tokens if token in self.runs]
            elif isinstance(said, Recall):
                fresh = [token for token in said.tokens if token in self.runs]
                self.forget(*fresh)
                self.says(Extended(Nack(fresh)))
            elif isinstance(said, Welcome):
                self.forget(*(token for token in self.runs if token not in said.adopted))
            elif isinstance(said, Disconnect):
                self.connected = False
            else:
                assert isinstance(said, DrainWorker | ResultAck), said

    def forget(self, *tokens: bytes) -> None:
        """It holds these no longer."""
        for token in tokens:
            self.runs.pop(token, None)
            self.booked.pop(token, None)

    def report(self, token: bytes, outcome: str, seconds: float = 1.0) -> None:
        """An attempt is over."""
        value = packed(token) if outcome == "ok" else Raw(b"\xc0")
        failure = None if outcome == "ok" else Failure(outcome)
        self.forget(token)
        self.seq += 1
        self.says(Extended(Finished(self.seq, [Ended(token, outcome, seconds, value, failure)])))

    def register(self) -> None:
        """READY over a new connection; what it is told to forget, it has stopped."""
        self.inbox.clear()  # what was on its way over the old one is lost
        self.connect()
        self.connected = True
        before = set(self.runs)
        self.says(self.readies(*self.runs))
        self.live()
        dropped = before - set(self.runs)
        for token in dropped:
            self.says(Extended(Finished(self.seq, [Ended(token, "cancelled")])))
        self.live()

    def die(self) -> None:
        """Its process ends without a word; what it ran is over, what comes is lost."""
        self.inbox.clear()
        self.runs.clear()
        self.booked.clear()
        self.to_stop.clear()
        self.connected = False
        self.silent = True
        self.starts += 1


class Histories(RuleBasedStateMachine):
    """The rules."""

    tasks = Bundle("tasks")

    @initialize(
        data=st.fixed_dictionaries(
            {
                "prefer_gpu_wait": st.sampled_from([5.0, 60.0]),
                "run_queue": st.sampled_from([0, 5.0]),
            }
        )
    )
    def begin(self, data: dict[str, float]) -> None:
        self.story = Story(BrokerSettings(named={"gate": 1}, **data))
        self.client: Client = self.story.client()
        self.processes = {name: Process(self.story, name) for name in MACHINES}
        for process in self.processes.values():
            process.register()
        self.results: dict[str, Raw] = {}
        self.given: set[bytes] = set()
        self.asked = 0

    # --- what happens -------------------------------------------------------------------

    @rule(
        target=tasks,
        parents=st.just([]) | st.lists(tasks, max_size=2),
        needs=st.sampled_from(NEEDS),
        priority=st.sampled_from([0, 0, 0, 3]),
        project=st.sampled_from(["", "p"]),
        name=st.sampled_from(["work", "work", "sum", "turns"]),
        count=st.integers(1, 4),
        retry=st.sampled_from([None, Retry(limit=0, lost_limit=1), Retry(delay=3.0)]),
        limit=st.sampled_from([None, None, 20.0]),
        value=st.integers(0, 3),
    )
    def submit(
        self, parents: list[str], needs: tuple[Variant, ...] | None, priority: int, project: str,
        name: str, count: int, retry: Retry | None, limit: float | None, value: int,
    ) -> Any:  # fmt: skip
        after = {f"p{index}": id for index, id in enumerate(dict.fromkeys(parents))}
        specs = [
            spec(
                name, {"v": value + index}, needs=needs, priority=priority, project=project,
                after=after, retry=retry, queue_limit=limit,
            )
            for index in range(count)
        ]  # fmt: skip
        self.asked += 1
        request = b"%d" % self.asked
        self.client.calls(Submit(request, specs))
        ids, _, _ = self.client.is_accepted(request, count)
        self.after_step()
        return multiple(*ids)

    @rule(name=st.sampled_from(list(MACHINES)), data=st.data(), outcome=st.sampled_from(OUTCOMES))
    def an_attempt_ends(self, name: str, data: st.DataObject, outcome: str) -> None:
        process = self.processes[name]
        if process.runs and process.connected:
            token = data.draw(st.sampled_from(list(process.runs)))
            process.report(token, outcome, data.draw(st.sampled_from([0.001, 1.0, 40.0])))
        self.after_step()

    @rule(rounds=st.integers(1, 4))
    def work_goes_on(self, rounds: int) -> None:
        """Everybody who is there finishes something, again and again."""
        for _ in range(rounds):
            for process in self.processes.values():
                if process.runs and process.connected and not process.silent:
                    process.report(next(iter(process.runs)), "ok", 0.2)
            self.after_step()

    @rule(name=st.sampled_from(list(MACHINES)))
    def what_was_asked_to_stop_stops(self, name: str) -> None:
        process = self.processes[name]
        stopping, process.to_stop = process.to_stop, []
        for token in stopping:
            if token in process.runs and process.connected:
                process.report(token, "cancelled")
        self.after_step()

    @rule(name=st.sampled_from(list(MACHINES)))
    def a_worker_falls_silent(self, name: str) -> None:
        self.processes[name].silent = True

    @rule(name=st.sampled_from(list(MACHINES)))
    def a_connection_breaks(self, name: str) -> None:
        process = self.processes[name]
        if process.connected:
            process.vanishes()
        self.after_step()

    @rule(name=st.sampled_from(list(MACHINES)))
    def a_process_dies(self, name: str) -> None:
        self.processes[name].die()

    @rule(name=st.sampled_from(list(MACHINES)))
    def a_worker_comes_back(self, name: str) -> None:
        self.processes[name].silent = False
        self.processes[name].register()
        self.after_step()

    @rule(name=st.sampled_from(list(MACHINES)))
    def a_worker_leaves(self, name: str) -> None:
        process = self.processes[name]
        if process.connected:
            process.runs.clear()
            process.booked.clear()
            process.parts()
            process.die()
        self.after_step()

    @rule(id=tasks, again=st.booleans())
    def a_client_cancels(self, id: str, again: bool) -> None:
        self.client.cancels(id)
        if again:
            self.client.retries(id)
        self.after_step()

    @rule(id=consumes(tasks))
    def a_client_retries(self, id: str) -> None:
        self.client.retries(id)
        self.after_step()

    @rule(
        name=st.sampled_from(list(MACHINES)),
        policy=st.sampled_from(["wait", "requeue", "kill"]),
        deadline=st.sampled_from([None, 5.0]),
    )
    def an_operator_drains(self, name: str, policy: str, deadline: float | None) -> None:
        if name in self.story.state.workers:
            self.client.drains(name, policy=policy, deadline=deadline)
        self.after_step()

    @rule(name=st.sampled_from(list(MACHINES)))
    def an_operator_resumes(self, name: str) -> None:
        if name in self.story.state.workers:
            self.client.resumes(name)
        self.after_step()

    @rule(seconds=st.sampled_from([0.5, 3.0, 15.0, 70.0, 400.0]))
    def time_passes(self, seconds: float) -> None:
        self.story.later(seconds)
        self.after_step()

    @rule(source=st.sampled_from(["reloaded", "restored", "loaded"]))
    def the_broker_starts_again(self, source: str) -> None:
        for process in self.processes.values():
            process.inbox.clear()
        self.story.restart(getattr(self.story, source)())
        self.after_step()

    @rule(id=tasks)
    def a_record_is_kept(self, id: str) -> None:
        self.story.fold(id)

    @rule()
    def everything_is_folded(self) -> None:
        self.story.fold_rest()

    @rule(id=tasks)
    def somebody_asks_why(self, id: str) -> None:
        told = self.story.explain(id)
        assert told.summary

    # --- what must be so ------------------------------------------------------------------

    def after_step(self) -> None:
        for process in self.processes.values():
            if process.connected and not process.silent:
                process.live()
            elif process.silent:
                self.unheard(process)
        self.client.inbox.clear()
        self.story.telemetry.clear()
        self.check_results()
        self.check_use()

    def unheard(self, process: Process) -> None:
        """What is sent to a process that is silent still arrives, unless it is dead."""
        if process.connected:
            process.live()
        else:
            process.inbox.clear()

    def check_results(self) -> None:
        for task in self.story.state.tasks.values():
            if task.state is State.SUCCEEDED:
                assert self.results.setdefault(task.id, task.value) == task.value
        for id in self.results:
            assert self.story.task(id).state is State.SUCCEEDED, f"{id} lost its result"

    def check_use(self) -> None:
        used: dict[str, tuple[str, int]] = {}
        for name, process in self.processes.items():
            record = self.story.state.workers.get(name)
            if record is None or not (record.incarnation or record.bookings):
                continue  # gone: nobody knows what it does
            cores: dict[int, float] = {}
            for token, (cpus, cards) in process.booked.items():
                booking = process.runs[token].booking
                cores[booking] = cpus
                for card in cards:
                    assert used.setdefault(card, (name, booking)) == (name, booking), card
            assert sum(cores.values()) <= process.fields["cpus"]
            assert len(cores) <= process.fields["slots"]

    def teardown(self) -> None:
        if not hasattr(self, "story"):
            return
        self.heal()
        self.story.end()

    def heal(self) -> None:
        """Everybody is well, and every attempt succeeds: what can run, has run."""
        for name, process in self.processes.items():
            process.silent = False
            process.register()
            self.client.resumes(name)
        for _ in range(400):
            self.after_step()
            busy = [p for p in self.processes.values() if p.runs]
            for process in busy:
                process.report(next(iter(process.runs)), "ok")
            if not busy:
                if not any(task.retry_at for task in self.story.state.tasks.values()):
                    break
                self.story.later(300.0)
        for task in self.story.state.tasks.values():
            assert task.state in TERMINAL | {State.QUEUED, State.WAITING}, task.state
            if task.state is State.QUEUED:
                cure = self.story.explain(task.id).cure
                assert any(part.action == "add" for part in cure), (task.spec.needs, cure)
        for process in self.processes.values():
            process.inbox.clear()
        self.client.inbox.clear()


Histories.TestCase.settings = settings(stateful_step_count=40)
TestHistories = Histories.TestCase


@pytest.mark.parametrize("seed", range(12))
def test_long_histories(seed: int) -> None:
    """The same rules, much longer than a search for the shortest history would make them."""
    chance = Random(seed)
    story = Histories()
    story.begin(
        {"prefer_gpu_wait": chance.choice([5.0, 60.0]), "run_queue": 0.0 if seed % 2 else 5}
    )
    ids: list[str] = []
    for _ in range(250):
        name = chance.choice(list(MACHINES))
        what = chance.choices(list(_STEPS), list(_STEPS.values()))[0]
        if what == "submit":
            ids += story.submit(
                parents=chance.sample(ids, min(len(ids), chance.choice([0, 0, 1, 2]))),
                needs=chance.choice(NEEDS), priority=chance.choice([0, 0, 3]),
                project=chance.choice(["", "p"]), name=chance.choice(["work", "sum", "turns"]),
                count=chance.randrange(1, 5), retry=chance.choice([None, Retry(limit=0)]),
                limit=chance.choice([None, None, 20.0]), value=chance.randrange(4),
            ).values  # fmt: skip
        elif what == "time_passes":
            story.time_passes(chance.choice([0.5, 3.0, 15.0, 70.0, 400.0]))
        elif what == "work_goes_on":
            story.work_goes_on(3)
        elif what == "an_attempt_ends":
            process = story.processes[name]
            if process.runs and process.connected:
                process.report(chance.choice(list(process.runs)), chance.choice(OUTCOMES))
            story.after_step()
        elif what == "the_broker_starts_again":
            story.the_broker_starts_again(chance.choice(["reloaded", "restored", "loaded"]))
        elif what == "an_operator_drains":
            policy = chance.choice(["wait", "requeue", "kill"])
            story.an_operator_drains(name, policy, chance.choice([None, 5.0]))
        elif what == "everything_is_folded":
            story.everything_is_folded()
        elif what in ("a_client_cancels", "a_record_is_kept", "somebody_asks_why"):
            if ids:
                again = {"again": chance.random() < 0.5} if what == "a_client_cancels" else {}
                getattr(story, what)(id=chance.choice(ids), **again)
        else:
            getattr(story, what)(name=name)
    story.teardown()
    assert story.results


#: what happens in a long history, and how often
_STEPS = {
    "submit": 20, "work_goes_on": 20, "an_attempt_ends": 20, "time_passes": 10,
    "what_was_asked_to_stop_stops": 5, "a_worker_falls_silent": 2, "a_connection_breaks": 3,
    "a_process_dies": 2, "a_worker_comes_back": 10, "a_worker_leaves": 1, "a_client_cancels": 5,
    "an_operator_drains": 2, "an_operator_resumes": 4, "the_broker_starts_again": 3,
    "a_record_is_kept": 4, "everything_is_folded": 1, "somebody_asks_why": 5,
}  # fmt: skip
