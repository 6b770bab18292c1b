"""What is seen from outside the broker, judged: clients' answers, and what workers really do.

Shares no code with the broker. `checker` adds what becomes durable and what time asks for, and says
what each promise means here.
"""

from __future__ import annotations

from collections import Counter

from tests.sim.books import NEVER, OVER, Attempt, Books, Entry, Machine, Violation, way


class Outside(Books):
    """Takes in what clients and workers say, and compares it with the rows so far."""

    def __init__(self) -> None:
        super().__init__()
        self.submits: dict[bytes, Entry] = {}
        self.wanted: set[str] = set()  #: ids of tasks that clients asked for
        self.asked: set[tuple[str, str, str]] = set()  #: kinds, params, and how to run them
        self.bodies: dict[bytes, str] = {}  #: of plain requests -> who asked
        self.plain_values: dict[bytes, bytes] = {}  #: results -> the body that asked for it
        self.aliases: dict[str, str] = {}  #: Titanic's
        self.acknowledged: dict[str, None] = {}
        self.answers: Counter[tuple[str, str]] = Counter()
        self.drained: dict[str, set[str]] = {}  #: worker -> policies it was drained with
        self.auditing = False

    # --- what clients ask and are told ----------------------------------------------------

    def _submit(self, e: Entry) -> None:
        self.submits[e["request"]] = e
        self.wanted.update(id for id in e["ids"] if id is not None)
        self.asked.update((one["kind"], repr(one["params"]), way(one)) for one in e["tasks"])

    def _accepted(self, e: Entry) -> None:
        submit = self.submits[e["request"]]
        told = zip(e["ids"], submit["ids"], submit["tasks"], strict=True)
        for index, (id, own, spec) in enumerate(told):
            task = self.tasks.get(id)
            if task is None:
                raise Violation("P1", f"{id} is acknowledged and not durable", id)
            self.acknowledged[id] = None
            after = {
                name: e["ids"][int(ref[1:])] if ref[0] == "#" else ref
                for name, ref in spec["after"].items()
            }
            asked = {"kind": spec["kind"], "params": spec["params"], "after": after}
            if (own or id) != id or any(task.spec[key] != asked[key] for key in asked):
                raise Violation("P8", f"{id} is not the task that was submitted", id)
            if index not in e["known"] and way(spec) not in task.ways:
                raise Violation("P8", f"{id} is not run as this submission asks", id)
            lost = task.state in OVER - {"succeeded"}
            if lost and task.identified and task.since < submit["at"]:
                raise Violation("P8", f"{id} is {task.state} and submitting it opens no run", id)

    def _refused(self, e: Entry) -> None:
        if e["code"] == "error":
            raise Violation("P13", f"{e['call']} meets a defect: {e['why']}", *e["ids"])
        known = all(id in self.tasks for id in e["ids"])
        if e["code"] == "not_found" and e["call"] in ("Results", "Cancel", "Retry") and known:
            raise Violation("P3", f"{e['call']}: the broker knows no such task", *e["ids"])

    def _outcome(self, e: Entry) -> None:
        task = self.tasks.get(e["id"])
        if task is None or e["state"] not in task.ended:
            raise Violation("P1", f"{e['id']} is told to be {e['state']}: not durable", e["id"])
        if e["state"] == "succeeded" and e["value"] != task.value:
            raise Violation("P3", f"the result of {e['id']} is not what was recorded", e["id"])
        task.told |= self.auditing and e["state"] == task.state

    def _cancel(self, e: Entry) -> None:
        for id in e["ids"]:
            if id in self.tasks:
                self.tasks[id].may_cancel = True

    def _retry(self, e: Entry) -> None:
        """Somebody asks for new runs; those of lost parents follow."""
        ids = list(e["ids"])
        while ids:
            task = self.tasks.get(ids.pop())
            if task is not None and not task.may_reopen:
                task.may_reopen = True
                ids += task.spec["after"].values()

    def _done(self, e: Entry) -> None:
        cancels = e["what"] == "cancelled"
        for id in e["ids"]:
            self.answers[e["what"], id] += 1
            causes = self.tasks[id].causes
            durable = causes["cancel"] if cancels else causes["reopen"] + causes["reopen_waiting"]
            if self.answers[e["what"], id] > durable:
                why = f"{id}: {e['what']} is answered and not durable"
                raise Violation("P9" if cancels else "P1", why, id)

    def _asked(self, e: Entry) -> None:
        self.bodies[e["body"]] = e["client"]

    def _replied(self, e: Entry) -> None:
        body = self.plain_values.get(e["value"])  # a plain reply names no task
        if body is None:
            raise Violation("P4", f"{e['client']} was sent what is nobody's recorded result")
        if self.bodies[body] != e["client"]:
            raise Violation("P4", f"{e['client']} was sent the result of {body!r}", body)

    def _alias(self, e: Entry) -> None:
        if e["alias"] not in self.aliases:
            raise Violation("P1", f"Titanic gave {e['alias']}, which is not durable", e["alias"])

    def _titanic(self, e: Entry) -> None:
        task = self.tasks[self.aliases[e["alias"]]]
        right = {"200": task.state == "succeeded", "400": task.state in OVER - {"succeeded"}}
        if not right.get(e["status"]) or (e["status"] == "200" and e["value"] != task.value):
            raise Violation("P3", f"Titanic says {e['status']}, {task.id} {task.state}", task.id)

    def _drain(self, e: Entry) -> None:
        self.drained.setdefault(e["worker"], set()).add(e["policy"])

    # --- what workers do ------------------------------------------------------------------

    def _up(self, e: Entry) -> None:
        machine = self.machines.setdefault(e["worker"], Machine(e))
        machine.doc, machine.up = e, True

    def _down(self, e: Entry) -> None:
        machine = self.machines[e["worker"]]
        machine.up, machine.fine_since = False, NEVER
        for attempt in [*machine.running.values(), *machine.open.values()]:
            self.release(attempt)
            if attempt.got and attempt.token not in e["spooled"]:
                attempt.dead = True
                attempt.unheld = min(attempt.unheld, self.now)

    def _parted(self, e: Entry) -> None:
        for attempt in self.machines[e["worker"]].current.values():
            attempt.parted = True

    def _own(self, e: Entry) -> Attempt:
        """The attempt that a worker speaks of."""
        attempt = self.attempts.get(e["token"])
        if attempt is None or attempt.worker != e["worker"]:
            raise Violation("P1", f"{e['worker']} has what no durable row gave it", e["token"])
        if e["id"] is not None and attempt.task.id != e["id"]:
            raise Violation("P5", f"{e['id']} and {attempt.task.id}: one token", e["id"])
        return attempt

    def _got(self, e: Entry) -> None:
        attempt = self._own(e)
        attempt.got, attempt.unheld = True, NEVER

    def _start(self, e: Entry) -> None:
        attempt = self._own(e)
        task, machine = attempt.task, self.machines[e["worker"]]
        if attempt.started:
            raise Violation("P4", f"an attempt of {task.id} starts twice", task.id)
        if not attempt.open and not attempt.excused:
            raise Violation("P6", f"{task.id} starts on what is booked no longer", task.id)
        for name, id in task.spec["after"].items():
            parent = self.tasks[id]
            if parent.state != "succeeded" or parent.value != e["parents"].get(name):
                why = f"{task.id} starts, its parent {id} is {parent.state}"
                raise Violation("P7", why, task.id, id)
        if e["checkpoint"] != task.saved and task.token == attempt.token:
            raise Violation("P3", f"{task.id} does not begin with its checkpoint", task.id)
        attempt.got = attempt.started = attempt.running = True
        attempt.unheld = NEVER
        machine.running[attempt.token] = attempt
        if machine.native and not attempt.excused:
            booking = self.bookings[attempt.booking]
            uses = [1.0, e["cpus"], e["memory_gb"]]
            if uses != booking.amount or e["gpus"] != booking.gpus:
                raise Violation("P6", f"{task.id} was given {uses}, {e['gpus']}", task.id)
            self.use(attempt, uses, e["gpus"], e["named"])

    def _saved(self, e: Entry) -> None:
        self._own(e).saves = e["value"]

    def _end(self, e: Entry) -> None:
        attempt = self._own(e)
        attempt.outcome, attempt.value, attempt.unheld = e["outcome"], e["value"], self.now
        self.release(attempt)

    def _let_go(self, e: Entry) -> None:
        for token in e["tokens"]:
            attempt = self.attempts[token]
            attempt.let_go, attempt.unheld = True, min(attempt.unheld, self.now)
