"""The history checker: judges what happened against the promises P1 to P13 (DESIGN, section 5).

It shares no code with the broker. It reads three logs, merged in the order in which things
happened: what clients asked and were told, what workers really ran, and the rows of the journal as
they became durable. From the rows it keeps books of its own (`books`) and compares them with what
was seen outside (`outside`), in linear time.

P1   what is acknowledged, given to a worker or told has its row already; nothing comes from nowhere
P2   each run goes by the table to one terminal state, for a reason; in the end nothing is open
P3   results, checkpoints and outcomes are those that were recorded, in the end and after restarts
P4   the recorded result is what the attempt's own worker said, and who asked is sent it; no attempt
     starts twice
P5   only a current token moves its task or its checkpoint, an open one frees, and each token is new
P6   what is freed does not run; nothing is booked, or really used, beyond what there is; a worker
     has what is asked of it
P7   no attempt is made, nor starts, before all parents succeeded
P8   equal content is one task, and a task is the one that was submitted; who submits it again
     after it failed gets a new run
P9   an acknowledged cancel is durable, and nothing leaves `cancelled` unless somebody asks
P10  nothing is `running` that no worker holds, or whose worker is silent; nothing waits beside room
P11  nothing that fits is passed over for what is worth less or came later; drains are fences
P12  nobody is given up who could be heard, nor before the time to come back is over, and nothing
     that is current is stopped
P13  (in part) no question meets a defect, and an exception of the broker ends the simulation
"""

from __future__ import annotations

from collections.abc import Callable

from tests.sim.books import (
    NEVER,
    OVER,
    PLAIN,
    WORK,
    Attempt,
    Entry,
    Machine,
    Task,
    Violation,
    way,
)
from tests.sim.outside import Outside

SLACK = 6.0  # seconds: beats, a sweep and a write lie between a cause and its row
SETTLE = 36.0  # seconds within which what no worker holds is no longer said to run
IDLE = 16.0  # seconds that a task may wait beside a worker that has room for it
JUMP = 45.0  # seconds that the broker's clock may be wrong


class Checker(Outside):
    """Feed it every entry, in order; it raises `Violation` at the first that cannot be."""

    def __init__(self) -> None:
        super().__init__()
        self.by_content: dict[str, str] = {}
        self.contacts: Entry = {}  #: worker -> when the broker heard it last
        self.broker_up = self.stood_at = 0.0

    def feed(self, entry: Entry) -> None:
        """Take in what happened next."""
        self.now = entry["at"]
        try:
            if entry["what"] in _ENTRIES:
                _ENTRIES[entry["what"]](self, entry)
        except KeyError as unknown:
            raise Violation("P1", f"{unknown} has no row", *unknown.args) from unknown

    def _settings(self, e: Entry) -> None:
        self.settings = e
        self.kinds = {name: [needs] for name, needs in e["kinds"].items()}

    # --- what becomes durable -------------------------------------------------------------

    def _commit(self, e: Entry) -> None:
        self.contacts = e["contacts"]
        for fact in e["facts"]:
            _FACTS[fact["fact"]](self, fact)

    def _fact_accepted(self, f: Entry) -> None:
        id, spec = f["id"], f["spec"]
        if id in self.tasks:
            raise Violation("P8", f"{id} is accepted twice", id)
        task = self.tasks[id] = Task(id, spec, self.now)
        task.identified = f["content"]
        plain = isinstance(spec["params"], list) and spec["params"][0] in self.bodies
        if f["content"] and id not in self.wanted:
            body = sorted(spec["params"].items()), sorted(spec["after"].items())
            known = self.by_content.setdefault(repr((spec["kind"], body)), id)
            if known != id:
                raise Violation("P8", f"{known} and {id} have the same content", id, known)
        elif id not in self.wanted and not plain:
            raise Violation("P1", f"nobody submitted {id}", id)
        if f["content"]:
            self._retry({"ids": [id]})  # whoever sends the same once more
        waits = any(state != "succeeded" for state in self.parents(task))
        if waits != f["waiting"]:
            raise Violation("P7", f"{id} is accepted as {f['waiting']=}", id)
        self.enter(task, "waiting" if waits else "queued")

    def _move(self, task: Task, cause: str) -> None:
        """A transition that takes the task's token away, if it has one."""
        if task.token is not None:
            attempt = self.attempts[task.token]
            del self.machines[attempt.worker].current[task.token]
            task.token = None
            idle = self.quiet_time(max(attempt.unheld, self.broker_up), self.stalls + self.delays)
            back = self.contacts.get(attempt.worker, 0.0) > self.broker_up
            if idle > SETTLE + (0.0 if back else self.settings["adoption_window"]):
                raise Violation("P10", f"{task.id} ran for {idle:.0f} s on nothing", task.id)
        self.move(task, cause)

    def _fact_assigned(self, f: Entry) -> None:
        worker, first = f["worker"], self.tasks[f["ids"][0]]
        plain = Machine({**PLAIN, "kinds": [first.spec["kind"]]})
        machine = self.machines.setdefault(worker, plain)
        if machine.admission != "open":
            raise Violation("P11", f"{first.id} goes to {worker}: {machine.admission}", first.id)
        self._in_turn(f, first, machine)
        need, gpus = f["need"], f["gpus"]
        for index, id in enumerate(f["ids"]):
            task = self.tasks[id]
            token = f["prefix"] + (f["first"] + index).to_bytes(8, "big")
            if token in self.attempts:
                raise Violation("P5", f"the token of {id} is not new", id)
            if any(state != "succeeded" for state in self.parents(task)):
                raise Violation("P7", f"{id} is assigned before its parents succeeded", id)
            if need not in self.asks(task) or len(gpus) != need["gpus"]:
                raise Violation("P6", f"{id} does not ask for {need}, {gpus}", id)
            self.move(task, "assign")
            task.begun, task.token = True, token
            attempt = Attempt(task, token, worker, f["booking"], self.now)
            self.attempts[token] = machine.current[token] = attempt
            self.book(attempt, need, gpus)

    def _in_turn(self, f: Entry, first: Task, machine: Machine) -> None:
        """Nothing that is worth more and fits here is passed over, nor what came before it."""
        lane = first.lane
        if lane is None:
            return  # it is not queued, which `move` will say
        for key, queued in self.lanes.items():
            if key[0] > lane[0]:
                other = next(iter(queued.values()))
                if self.fits(other, machine) and not self._fills_gap(f, other, machine):
                    why = f"{other.id} ({key[0]}) is passed over for {first.id} ({lane[0]})"
                    raise Violation("P11", f"{why} on {f['worker']}", first.id, other.id)
        if not first.begun and len(self.needs(first)) == 1:
            head = next(task for task in self.lanes[lane].values() if not task.begun)
            if head.opened < first.opened and head.queued_at < first.queued_at:
                raise Violation("P11", f"{head.id} came before {first.id}", head.id, first.id)

    def _fills_gap(self, f: Entry, other: Task, machine: Machine) -> bool:
        """Whether the row says so: the worker is kept for one that is worth as much as `other`."""
        kept = self.tasks.get(f["decision"].partition("fills a gap before ")[2].split(";")[0])
        return (
            kept is not None
            and kept.lane is not None
            and kept.lane[0] >= other.spec["priority"]
            and not self.fits(kept, machine)
        )

    def _fact_closed(self, f: Entry) -> None:
        attempt, cause, outcome = self.attempts.get(f["token"]), f["cause"], f["outcome"]
        if attempt is None or attempt.task.id != f["id"] or not attempt.open:
            raise Violation("P5", f"{f['id']}: an attempt ends that is not open", f["id"])
        task = attempt.task
        if (cause is not None) != (task.token == attempt.token):
            raise Violation("P5", f"{task.id}: {cause} by a token that is not its", task.id)
        if self.machines[attempt.worker].native:
            self._over(attempt, cause, outcome)
        if cause == "succeed":
            if attempt.outcome != "ok" or attempt.value != f["value"]:
                raise Violation("P4", f"{task.id}: its worker did not say that", task.id)
            task.value, task.saved = f["value"], None
            if isinstance(task.spec["params"], list):
                self.plain_values[f["value"]] = task.spec["params"][0]
        elif cause is not None:
            self._fault(task, cause, outcome, (f["failure"] or {}).get("type"))
            task.memory = f["memory_gb"] or task.memory
        if cause is not None:
            self._move(task, cause)
        self.free(attempt)

    def _over(self, attempt: Attempt, cause: str | None, outcome: str) -> None:
        """What is said of an attempt that is over is true of its worker."""
        id = attempt.task.id
        if outcome == "gone":
            self._was_silent(attempt, self.settings["gone_after"], "P6")
            self.release(attempt)
            attempt.excused = True
        held = attempt.got and not (attempt.let_go or attempt.dead or attempt.outcome)
        if held and not attempt.excused:
            raise Violation("P6", f"{id} is freed as {outcome} and its worker holds it", id)
        if outcome == "lost" and attempt.got and not (attempt.dead or attempt.let_go):
            raise Violation("P12", f"{id} is given up, and {attempt.worker} did not restart", id)
        said = attempt.outcome in (outcome, None) or attempt.parted
        if cause is not None and outcome == "cancelled":
            raise Violation("P12", f"{id} is current, and {attempt.worker} was told to stop it", id)
        if cause is not None and outcome not in ("lost", "recalled") and not said:
            raise Violation("P5", f"{id} ended as {attempt.outcome}, not {outcome}", id)

    def _leased(self, heard: float, limit: float) -> tuple[float, float]:
        """Since when silence counts, and how long it may last; longer just after a restart."""
        if heard <= self.broker_up:  # at that very moment: the turn that heard it was undone
            return self.broker_up, max(limit, self.settings["adoption_window"])
        return heard, limit

    def _was_silent(self, attempt: Attempt, limit: float, promise: str = "P12") -> None:
        """Nobody is given up who could be heard, nor before the time to come back is over."""
        since, limit = self._leased(self.contacts.get(attempt.worker, 0.0), limit)
        silent = self.quiet_time(since, self.stalls)
        native = self.machines[attempt.worker].native
        if silent < limit - SLACK and native and not attempt.dead:
            why = f"{attempt.worker} is given up after {silent:.1f} s of silence"
            raise Violation(promise, f"{why}, with {attempt.task.id}", attempt.task.id)

    def _fault(self, task: Task, cause: str, outcome: str, kind: str | None) -> None:
        """A task fails when its budget is used up, and not before."""
        left = self.blame(task, outcome, kind)
        if (cause == "fail") != (left < 0):
            why = f"{task.id}: {cause} after {outcome}, {left} more were allowed"
            raise Violation("P2", why, task.id)

    def _fact_moved(self, f: Entry) -> None:
        task, cause, lost = self.tasks[f["id"]], f["cause"], f["outcome"] == "lost"
        attempt = self.attempts[task.token] if task.token else None
        if attempt is not None and lost:
            self._was_silent(attempt, self.settings["unavailable_after"])
            self._fault(task, cause, "lost", None)
        policies = self.drained.get(attempt.worker, set()) if attempt else set()
        plain = attempt is not None and not self.machines[attempt.worker].native
        parents = self.parents(task)
        ready = all(state == "succeeded" for state in parents)
        limit = (task.spec["queue_limit"] or NEVER) - JUMP
        reasons = {
            "parents_done": ready,
            "parent_lost": any(state in OVER - {"succeeded"} for state in parents),
            "cancel": task.may_cancel or "kill" in policies,
            "requeue": lost or "requeue" in policies,
            "fail": lost or plain,
            "expire": not task.begun and self.now - task.opened >= limit,
            "due": True,
            "reopen": task.may_reopen and ready,
            "reopen_waiting": task.may_reopen and not ready,
        }
        if not reasons[cause]:
            promise = "P7" if cause == "parents_done" else "P2"
            raise Violation(promise, f"{task.id}: {cause} without a reason ({f['why']})", task.id)
        if cause in ("reopen", "reopen_waiting"):
            task.faults.clear()
            task.begun, task.memory, task.opened = False, 0.0, self.now
        if f["spec"] is not None:
            self._run_as(task, f["spec"])
        self._move(task, cause)

    def _run_as(self, task: Task, spec: Entry) -> None:
        """A new run is run in another way."""
        if any(spec[name] != task.spec[name] for name in WORK):
            raise Violation("P8", f"{task.id} becomes another task", task.id)
        if (spec["kind"], repr(spec["params"]), way(spec)) not in self.asked:
            raise Violation("P8", f"nobody asked to run {task.id} in this way", task.id)
        task.spec = spec
        task.ways.add(way(spec))

    def _fact_saved(self, f: Entry) -> None:
        task = self.tasks[f["id"]]
        if task.token is None or self.attempts[task.token].saves != f["value"]:
            raise Violation("P5", f"{task.id}: no current attempt sent that checkpoint", task.id)
        task.saved = f["value"]

    def _fact_announced(self, f: Entry) -> None:
        versions = self.kinds.setdefault(f["kind"]["kind"], [])
        if f["kind"]["needs"] not in versions:
            versions.append(f["kind"]["needs"])

    def _fact_admitted(self, f: Entry) -> None:
        machine = self.machines[f["worker"]]
        if f["admission"] == "drained" and machine.bookings:
            raise Violation("P11", f"{f['worker']} is called drained and still runs something")
        machine.admission, machine.changed_at = f["admission"], self.now

    def _fact_aliased(self, f: Entry) -> None:
        if f["id"]:
            self.aliases[f["alias"]] = f["id"]

    # --- the broker's life, and time ------------------------------------------------------

    def _broker(self, e: Entry) -> None:
        if e["what"] == "broker_down":
            self.stalls = [(begin, min(end, self.now)) for begin, end in self.stalls[-60:]]
        else:
            self.broker_up = self.now
        if e["what"] == "broker_up":
            self.delays.append((self.stood_at, self.now))
        self.stood_at = self.now

    def _stalled(self, e: Entry) -> None:
        (self.stalls if e["what"] == "stalled" else self.delays).append((self.now, e["until"]))
        self.stood_at = max(self.stood_at, e["until"])

    def _contact(self, e: Entry) -> None:
        """A worker is heard again: after a lease without a word, nothing of it may be current."""
        since, limit = self._leased(e["since"], self.settings["unavailable_after"])
        silent = self.quiet_time(since, self.stalls + self.delays)
        machine = self.machines.get(e["worker"])
        if machine is not None and silent > limit + SLACK:
            for attempt in machine.current.values():
                why = f"{attempt.task.id} is current, {e['worker']} was silent for {silent:.0f} s"
                raise Violation("P10", why, attempt.task.id)

    def _sample(self, e: Entry) -> None:
        """Nothing stays booked that nobody runs, and the first of all does not wait beside room."""
        since = self.now - IDLE
        for name, machine in self.machines.items():
            fine = name in e["healthy"]
            machine.fine_since = min(machine.fine_since, self.now) if fine else NEVER
            for attempt in machine.open.values():
                idle = self.now - max(attempt.unheld, machine.fine_since, self.stood_at)
                if idle > SETTLE:
                    why = f"{name} holds nothing of {attempt.task.id}, which is still booked"
                    raise Violation("P10", why, attempt.task.id)
        most = max((lane[0] for lane in self.lanes), default=0)
        first = {lane[1:5]: lane for lane in self.lanes if lane[0] == most}
        if len(first) != 1 or self.stood_at > since:
            return
        task = next(task for lane in first.values() for task in self.lanes[lane].values())
        need = self.needs(task)[0][0]
        scarce = need["gpus"] or need["named"]
        if task.queued_at > since or (scarce and self.shared_at > since):
            return
        for name, machine in self.machines.items():
            steady = max(machine.fine_since, machine.changed_at) <= since
            if steady and machine.admission == "open" and self.fits(task, machine):
                raise Violation("P10", f"{task.id} waits beside {name}, which has room", task.id)

    def _stop(self, e: Entry) -> None:
        """Nothing has failed for a long time: what can run has run, and is known to its client."""
        for task in self.tasks.values():
            if task.state == "waiting" and any(state not in OVER for state in self.parents(task)):
                continue  # its parents are judged themselves
            if task.state not in OVER and (task.state != "queued" or self._possible(task)):
                raise Violation("P2", f"{task.id} is {task.state} in the end", task.id)
        for id in self.acknowledged:
            if self.tasks[id].state in OVER and not self.tasks[id].told:
                raise Violation("P3", f"nobody was told how {id} ended", id)
        for booking in self.bookings.values():
            if self.machines[booking.worker].native:
                raise Violation("P10", f"{booking.worker} has booked what nobody runs")

    def _possible(self, task: Task) -> bool:
        """Whether some worker could run it if all were idle."""
        return any(
            machine.up and self.fits(task, machine, variant, whole=True)
            for machine in self.machines.values()
            for variant in range(len(self.needs(task)[0]))
        )


_ENTRIES: dict[str, Callable[[Checker, Entry], None]] = {
    "settings": Checker._settings,
    "submit": Checker._submit, "accepted": Checker._accepted, "refused": Checker._refused,
    "outcome": Checker._outcome, "cancel": Checker._cancel, "cancelled": Checker._done,
    "retry": Checker._retry, "retried": Checker._done, "drain": Checker._drain,
    "asked": Checker._asked, "replied": Checker._replied,
    "alias": Checker._alias, "titanic": Checker._titanic,
    "closing": lambda self, e: self._cancel({"ids": [self.aliases.get(e["alias"], "")]}),
    "up": Checker._up, "down": Checker._down, "parted": Checker._parted, "got": Checker._got,
    "start": Checker._start, "saved": Checker._saved, "end": Checker._end,
    "nacked": Checker._let_go, "dropped": Checker._let_go,
    "commit": Checker._commit, "broker_up": Checker._broker, "broker_down": Checker._broker,
    "reloaded": Checker._broker, "stalled": Checker._stalled, "full": Checker._stalled,
    "contact": Checker._contact, "sample": Checker._sample, "stop": Checker._stop,
    "audit": lambda self, e: setattr(self, "auditing", True),
}  # fmt: skip
_FACTS: dict[str, Callable[[Checker, Entry], None]] = {
    "Accepted": Checker._fact_accepted, "Assigned": Checker._fact_assigned,
    "Closed": Checker._fact_closed, "Moved": Checker._fact_moved,
    "Announced": Checker._fact_announced, "Admitted": Checker._fact_admitted,
    "Aliased": Checker._fact_aliased, "Saved": Checker._fact_saved,
}  # fmt: skip
