"""The checker itself, on small histories written by hand: one that is right, and what is not.

Each wrong history is the right one with a single thing changed, so that what is found is that.
"""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import pytest

from tests.sim.books import Violation
from tests.sim.checker import Checker

History = list[dict[str, Any]]
ONE = {"cpus": 1.0, "memory_gb": 2.0, "gpus": 1, "gpu_memory_gb": 0.0, "named": {}, "labels": {}}
SETTINGS = {
    "named": {"gate": 1},
    "unavailable_after": 10.0,
    "gone_after": 120.0,
    "adoption_window": 30.0,
    "kinds": {"k": [ONE]},
}
TOKENS = [bytes(12) + index.to_bytes(8, "big") for index in range(9)]


def spec(**fields: Any) -> dict[str, Any]:
    plain = {"kind": "k", "params": {"n": 1}, "after": {}, "needs": None, "priority": 0}
    return plain | {"project": "", "retry": None, "queue_limit": None, "caches": []} | fields


def up(worker: str, *gpus: str) -> dict[str, Any]:
    doc = {"slots": 2, "cpus": 2.0, "memory_gb": 8.0, "labels": {}, "kinds": ["k"], "native": True}
    cards = dict.fromkeys(gpus, 24.0)
    return {"what": "up", "worker": worker, "incarnation": "1", "gpus": cards, **doc}


def submit(*ids: str, **fields: Any) -> History:
    """What a client asks, what becomes durable, and what it is told."""
    task = spec(**fields)
    request = ids[0].encode()
    told = {"client": "c", "request": request, "ids": list(ids)}
    waits = {"waiting": bool(task["after"]), "content": False, "queue_limit": None}
    rows = [{"fact": "Accepted", "id": id, "spec": task, **waits} for id in ids]
    return [
        {"what": "submit", "tasks": [task] * len(ids), **told},
        commit(*rows),
        {"what": "accepted", "known": [], **told},
    ]


def commit(*facts: dict[str, Any], **contacts: float) -> dict[str, Any]:
    return {"what": "commit", "facts": list(facts), "contacts": contacts}


def assigned(index: int, id: str, worker: str, booking: int, *gpus: str) -> dict[str, Any]:
    fact = {"fact": "Assigned", "worker": worker, "booking": booking, "variant": 0, "need": ONE}
    rest = {"gpus": list(gpus), "prefix": bytes(12), "first": index, "ids": [id], "decision": ""}
    return fact | rest


def start(index: int, id: str, worker: str, *gpus: str, **parents: bytes) -> dict[str, Any]:
    token = {"token": TOKENS[index], "id": id, "worker": worker}
    uses = {"cpus": 1.0, "memory_gb": 2.0, "gpus": list(gpus), "named": {}}
    return {"what": "start", **token, **uses, "parents": parents, "checkpoint": None}


def end(index: int, id: str, worker: str, value: bytes, outcome: str = "ok") -> dict[str, Any]:
    token = {"token": TOKENS[index], "id": id, "worker": worker}
    return {"what": "end", **token, "outcome": outcome, "value": value}


def closed(index: int, id: str, value: bytes = b"", **fields: Any) -> dict[str, Any]:
    fact = {"fact": "Closed", "token": TOKENS[index], "id": id, "cause": "succeed"}
    rest = {"outcome": "ok", "value": value, "failure": None, "memory_gb": None}
    return fact | rest | fields


def moved(
    id: str, cause: str, outcome: str = "", spec: dict[str, Any] | None = None
) -> dict[str, Any]:
    fact = {"fact": "Moved", "id": id, "cause": cause, "outcome": outcome, "why": ""}
    return fact | {"spec": spec}


def told(id: str, state: str, value: bytes = b"") -> dict[str, Any]:
    return {"what": "outcome", "client": "c", "id": id, "state": state, "value": value}


def saved(index: int, id: str, worker: str, value: bytes) -> dict[str, Any]:
    token = {"token": TOKENS[index], "id": id, "worker": worker}
    return {"what": "saved", **token, "value": value}


def life() -> History:
    """Two workers that see one card; a task, its child, and one that is cancelled."""
    return [
        {"what": "settings", **SETTINGS},
        {"what": "broker_up"},
        up("w1", "G"),
        up("w2", "G"),
        *submit("a"),
        *submit("b", after={"parent": "a"}),
        *submit("c", priority=-1),
        commit(assigned(0, "a", "w1", 1, "G")),
        start(0, "a", "w1", "G"),
        end(0, "a", "w1", b"A"),
        commit(
            closed(0, "a", b"A"),
            moved("b", "parents_done"),
            assigned(1, "b", "w2", 2, "G"),
        ),
        told("a", "succeeded", b"A"),
        start(1, "b", "w2", "G", parent=b"A"),
        saved(1, "b", "w2", b"half"),
        commit({"fact": "Saved", "id": "b", "value": b"half"}),
        {"what": "cancel", "ids": ["c"]},
        commit(moved("c", "cancel")),
        {"what": "cancelled", "client": "c", "request": b"x", "ids": ["c"]},
        end(1, "b", "w2", b"B"),
        commit(closed(1, "b", b"B")),
        {"what": "audit"},
        told("a", "succeeded", b"A"),
        told("b", "succeeded", b"B"),
        told("c", "cancelled"),
        {"what": "stop"},
    ]


def judge(history: History) -> None:
    """Feed a history, an entry a second unless it says when."""
    checker = Checker()
    for second, entry in enumerate(history):
        checker.feed({"at": float(second)} | entry)


def find(history: History, what: str, **fields: Any) -> int:
    """Where the first entry of that kind is."""
    return next(
        index
        for index, entry in enumerate(history)
        if entry["what"] == what and all(entry.get(name) == fields[name] for name in fields)
    )


def row(history: History, fact: str, id: str) -> dict[str, Any]:
    """The first fact of that kind about a task."""
    facts = [f for entry in history for f in entry.get("facts", ())]
    return next(f for f in facts if f["fact"] == fact and id in (f.get("id"), *f.get("ids", ())))


def without_row(history: History, fact: str, id: str) -> None:
    wrong = row(history, fact, id)
    for entry in history:
        if wrong in entry.get("facts", ()):
            entry["facts"].remove(wrong)


def swap(history: History, one: int, other: int) -> None:
    history[one], history[other] = history[other], history[one]


def told_before_durable(history: History) -> None:
    at = find(history, "accepted")
    swap(history, at, at - 1)


def outcome_before_durable(history: History) -> None:
    at = find(history, "outcome")
    swap(history, at, at - 1)


def nobody_asked(history: History) -> None:
    del history[find(history, "submit", request=b"c")]
    del history[find(history, "accepted", request=b"c")]


def never_ends(history: History) -> None:
    without_row(history, "Moved", "c")
    del history[find(history, "cancelled")]
    del history[find(history, "outcome", id="c")]


def cancel_lost(history: History) -> None:
    without_row(history, "Moved", "c")


def cancelled_and_run(history: History) -> None:
    history.insert(find(history, "cancelled"), commit(assigned(2, "c", "w1", 3, "G")))


def other_result(history: History) -> None:
    history[find(history, "outcome", id="b")]["value"] = b"?"


def forged(history: History) -> None:
    row(history, "Closed", "b")["value"] = b"?"


def closed_twice(history: History) -> None:
    history.insert(find(history, "audit"), commit(closed(1, "b", b"B")))


def revoked_token_wins(history: History) -> None:
    at = find(history, "end", id="b")
    lost = moved("b", "requeue", "lost")
    history[at:at] = [{"what": "down", "worker": "w2", "spooled": []}, commit(lost)]


def token_again(history: History) -> None:
    row(history, "Assigned", "b")["first"] = 0


def starts_twice(history: History) -> None:
    at = find(history, "start", id="b")
    history.insert(at, history[at])


def child_too_early(history: History) -> None:
    at = find(history, "start", id="a")
    history.insert(at, commit(moved("b", "parents_done")))


def freed_while_it_runs(history: History) -> None:
    at = find(history, "end", id="b")
    history[at:at] = [
        {"what": "cancel", "ids": ["b"]},
        commit(moved("b", "cancel"), closed(1, "b", cause=None, outcome="cancelled")),
    ]


def checkpoint_of_a_revoked_attempt(history: History) -> None:
    at = find(history, "saved")
    del history[at + 2 :]  # what comes later is wrong anyhow
    history[at:at] = [{"what": "cancel", "ids": ["b"]}, commit(moved("b", "cancel"))]


def stopped_while_current(history: History) -> None:
    history[find(history, "end", id="b")]["outcome"] = "cancelled"
    row(history, "Closed", "b").update(cause="requeue", outcome="cancelled")


def card_twice(history: History) -> None:
    at = find(history, "end", id="a")
    history[at:at] = [*submit("d"), commit(assigned(3, "d", "w2", 4, "G"))]


def asks_for(history: History, **more: Any) -> None:
    row(history, "Accepted", "a")["spec"]["needs"] = [ONE | more]
    row(history, "Assigned", "a")["need"] = ONE | more


def card_too_small(history: History) -> None:
    asks_for(history, gpu_memory_gb=40.0)


def label_missing(history: History) -> None:
    asks_for(history, labels={"zone": "b"})


def kind_not_served(history: History) -> None:
    history[find(history, "up", worker="w1")]["kinds"] = ["other"]


def reply_to_somebody_else(history: History) -> None:
    """A plain request is answered; the answer goes to who asked for something else."""
    need = ONE | {"gpus": 0}
    rows = submit("d", params=[b"one"], needs=[need])[1]
    asked = [{"what": "asked", "client": name, "body": name.encode()} for name in ("one", "two")]
    at = find(history, "audit")
    del history[at:]
    history += [*asked, rows, commit(assigned(3, "d", "plain@1", 3) | {"need": need})]
    history += [start(3, "d", "plain@1"), end(3, "d", "plain@1", b"D")]
    history += [commit(closed(3, "d", b"D")), {"what": "replied", "client": "one", "value": b"D"}]
    judge(history)
    history[-1]["client"] = "two"


def plain_worker_twice(history: History) -> None:
    need = ONE | {"gpus": 0}
    given = [assigned(n, id, "plain@1", n) | {"need": need} for n, id in ((3, "d"), (4, "e"))]
    at = find(history, "audit")
    history[at:at] = [*submit("d", "e", needs=[need]), commit(*given)]


def beyond_the_machine(history: History) -> None:
    history[2]["slots"] = 0


def passed_over(history: History) -> None:
    row(history, "Accepted", "c")["spec"]["priority"] = 5
    row(history, "Accepted", "c")["spec"]["needs"] = [ONE | {"gpus": 0}]


def given_up_too_early(history: History) -> None:
    at = find(history, "end", id="b")
    history.insert(at, commit(moved("b", "requeue", "lost"), w2=float(at - 1)))


def silent_and_current(history: History) -> None:
    at = find(history, "end", id="b")
    history.insert(at, {"what": "contact", "worker": "w2", "since": 40.0, "at": 90.0})
    for second, entry in enumerate(history[at + 1 :]):
        entry["at"] = 91.0 + second


def restarted(history: History, back: float) -> None:
    """The broker restarts while `b` runs, and hears its worker so many seconds later."""
    at = find(history, "end", id="b")
    history[at:at] = [
        {"what": "broker_down", "at": float(at)},
        {"what": "broker_up", "at": float(at + 1)},
        {"what": "contact", "worker": "w2", "since": float(at - 1), "at": at + 1 + back},
    ]
    for second, entry in enumerate(history[at + 3 :]):
        entry["at"] = at + 2.0 + back + second


def reloaded(history: History, silent: float) -> None:
    """The broker could not write, and read its journal again; then w2 is silent."""
    at = find(history, "start", id="b")
    moment = history[at].get("at", float(at)) + 1.0
    history[at + 1 : at + 1] = [
        {"what": "reloaded", "at": moment},
        {"what": "contact", "worker": "w2", "since": moment, "at": moment + silent},
    ]
    for second, entry in enumerate(history[at + 3 :]):
        entry["at"] = moment + silent + 1.0 + second


def silent_after_a_reload(history: History) -> None:
    reloaded(history, silent=40.0)


def given_up_while_the_broker_stood_still(history: History) -> None:
    """31 s after a restart, 12 s of which the broker heard nobody."""
    at = find(history, "end", id="b")
    del history[at:]
    history += [{"what": "broker_down"}, {"what": "broker_up"}]
    history.append({"what": "stalled", "at": at + 2.0, "until": at + 14.0})
    history.append(commit(moved("b", "requeue", "lost")) | {"at": at + 32.0})


def silent_since_a_restart(history: History) -> None:
    restarted(history, 30.0 + 7.0)


def equal_content(history: History) -> None:
    for id in ("a", "c"):
        row(history, "Accepted", id)["content"] = True
        history[find(history, "submit", request=id.encode())]["ids"] = [None]


def cancelled_and_not_run_again(history: History) -> None:
    row(history, "Accepted", "c")["content"] = True
    again = [dict(history[find(history, what, request=b"c")]) for what in ("submit", "accepted")]
    at = find(history, "end", id="b")
    history[at:at] = [entry | {"request": b"again"} for entry in again]


def run_again(history: History, asked: dict[str, Any], row: dict[str, Any] | None) -> None:
    """`c` was cancelled, and is submitted again to be run as `asked`; the row says `row`."""
    del history[find(history, "audit") :]
    fact = next(f for e in history for f in e.get("facts", ()) if f["id"] == "c")
    fact["content"] = True
    history += submit("c", **asked)
    history[-2] = commit(moved("c", "reopen", spec=row))
    history[-3]["request"] = history[-1]["request"] = b"again"


def run_in_the_old_way(history: History) -> None:
    run_again(history, {"priority": 3}, None)


def run_in_a_way_of_its_own(history: History) -> None:
    run_again(history, {"priority": 3}, spec(priority=4))


def run_as_another_task(history: History) -> None:
    run_again(history, {"priority": 3}, spec(params={"n": 2}))


def drained_and_given_more(history: History) -> None:
    fact = {"fact": "Admitted", "worker": "w1", "admission": "drained"}
    history.insert(find(history, "submit"), commit(fact))


def defect(history: History) -> None:
    said = {"code": "error", "call": "Explain", "why": "boom", "ids": []}
    history.insert(5, {"what": "refused", "client": "c", **said})


WRONG: list[tuple[str, Callable[[History], None]]] = [
    ("P1", told_before_durable),
    ("P1", outcome_before_durable),
    ("P1", nobody_asked),
    ("P2", never_ends),
    ("P9", cancel_lost),
    ("P9", cancelled_and_run),
    ("P3", other_result),
    ("P4", forged),
    ("P4", starts_twice),
    ("P4", reply_to_somebody_else),
    ("P5", closed_twice),
    ("P5", revoked_token_wins),
    ("P5", token_again),
    ("P5", checkpoint_of_a_revoked_attempt),
    ("P6", freed_while_it_runs),
    ("P6", card_twice),
    ("P6", plain_worker_twice),
    ("P6", card_too_small),
    ("P6", label_missing),
    ("P6", kind_not_served),
    ("P6", beyond_the_machine),
    ("P7", child_too_early),
    ("P8", equal_content),
    ("P8", cancelled_and_not_run_again),
    ("P10", silent_and_current),
    ("P10", silent_since_a_restart),
    ("P11", passed_over),
    ("P8", run_in_the_old_way),
    ("P8", run_in_a_way_of_its_own),
    ("P8", run_as_another_task),
    ("P11", drained_and_given_more),
    ("P10", silent_after_a_reload),
    ("P12", given_up_too_early),
    ("P12", given_up_while_the_broker_stood_still),
    ("P12", stopped_while_current),
    ("P13", defect),
]


def test_a_right_history_is_right() -> None:
    judge(life())


def test_the_time_to_come_back_is_longer_by_what_the_broker_stood_still() -> None:
    history = life()
    restarted(history, 25.0 + 30.0 + 5.0)
    at = find(history, "contact")
    stood = history[at - 1]["at"] + 1.0
    history.insert(at, {"what": "stalled", "at": stood, "until": stood + 25.0})
    judge(history)


def test_who_was_heard_in_the_turn_that_was_undone_has_the_time_to_come_back() -> None:
    history = life()
    reloaded(history, silent=28.0)
    judge(history)


def test_a_new_run_may_be_run_in_another_way() -> None:
    history = life()
    run_again(history, {"priority": 3}, spec(priority=3))
    judge(history)


@pytest.mark.parametrize(
    ("promise", "change"), WRONG, ids=lambda one: getattr(one, "__name__", one)
)
def test_a_wrong_history_is_wrong(promise: str, change: Callable[[History], None]) -> None:
    history = life()
    change(history)
    with pytest.raises(Violation) as found:
        judge(history)
    assert found.value.promise == promise, found.value
