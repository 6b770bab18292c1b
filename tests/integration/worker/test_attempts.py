"""Real attempts in real child processes: what they see, say, return, and how they fail."""

from __future__ import annotations

import itertools
import os
import time
from pathlib import Path

import msgspec
import psutil
import pytest

from corral.messages import (
    Checkpoint,
    Ended,
    FetchLog,
    Finished,
    LogChunk,
    Nack,
    Progress,
    Raw,
)
from tests.integration.worker.conftest import Starter, Worker, alive, eventually, value
from tests.support.scripted_broker import ScriptedBroker, item, token_of

NUMBERS = itertools.count(1_000)


def attempt(broker: ScriptedBroker, kind: str, params: object = None, **more: object) -> Ended:
    """Assign one attempt and wait for its end."""
    number = next(NUMBERS)
    broker.assign(kind, item(number, params), **more)
    return broker.ended(number)[0]


# --- what is announced ----------------------------------------------------------------------


def test_the_capability_document_tells_what_is_here(start: Starter, broker: ScriptedBroker) -> None:
    start(
        "--slots", "3", "--gpu", "GPU-1=24GB", "--cpus", "1.5", "--memory", "4GB",
        "--label", "rack=a", "--label", "zone=b", "--cache", "prices",
    )  # fmt: skip
    document = broker.welcome()
    assert (document.name, document.slots, document.cpus, document.memory_gb) == ("w1", 3, 1.5, 4.0)
    assert [(gpu.uuid, gpu.memory_gb, gpu.declared) for gpu in document.gpus] == [
        ("GPU-1", 24.0, True)
    ]
    assert document.labels == {"rack": "a", "zone": "b"}
    assert document.caches == ["prices"]
    assert document.inflight == []
    assert {"results", "assign", "cancel"} <= set(document.extensions)
    kinds = {kind.kind: kind for kind in document.kinds}
    assert {"echo", "sleep", "mark", "gpu_lock"} <= kinds.keys()
    assert "seconds" in kinds["sleep"].schema
    assert kinds["fail"].never == ("TypeError",)
    assert kinds["gpu_lock"].needs[0].gpus == 1


def test_a_handler_whose_extra_is_missing_is_announced_so(
    start: Starter, broker: ScriptedBroker
) -> None:
    worker = start()
    kinds = {kind.kind: kind for kind in broker.welcome().kinds}
    assert kinds["lacks_extra"].extra == "corral-test-handlers[moon]"
    assert kinds["echo"].extra == ""
    assert "pip install 'corral-test-handlers[moon]'" in worker.log
    broker.assign("lacks_extra", item(1))
    assert broker.wait_for(Nack).tokens == [token_of(1)]


def test_kinds_can_be_chosen(start: Starter, broker: ScriptedBroker) -> None:
    start("--kinds", "echo,mark")
    assert [kind.kind for kind in broker.welcome().kinds] == ["echo", "mark"]


# --- running --------------------------------------------------------------------------------


def test_echo_and_sleep(worker: Worker, broker: ScriptedBroker) -> None:
    params = {"text": "é", "list": [1, 2.5, None, b"\x00"]}
    ended = attempt(broker, "echo", params)
    assert value(ended) == params
    slept = attempt(broker, "sleep", {"seconds": 0.3})
    assert 0.3 <= value(slept) <= slept.seconds < 5
    assert slept.waited > 0


def test_a_thousand_items_of_one_lane_come_back_in_order(
    worker: Worker, broker: ScriptedBroker
) -> None:
    numbers = range(1, 1001)
    broker.assign("echo", *(item(number, {"i": number}) for number in numbers))
    assert [value(ended) for ended in broker.ended(*numbers)] == [{"i": n} for n in numbers]
    order = [
        ended.token
        for message in broker.heard
        if isinstance(message, Finished)
        for ended in message.items
    ]
    assert order == [token_of(number) for number in numbers]
    assert len(worker.children()) == 1


def test_a_finished_result_does_not_wait_behind_a_slow_attempt(
    worker: Worker, broker: ScriptedBroker
) -> None:
    broker.assign("sleep", *(item(number, {"seconds": 0.0}) for number in range(1, 400)))
    broker.ended(*range(1, 400))  # now the kind is known to be fast
    began = time.monotonic()
    broker.assign(
        "sleep",
        item(401, {"seconds": 0.0}),
        item(402, {"seconds": 3.0}),
        item(403, {"seconds": 0.0}),
    )
    broker.ended(401)
    assert time.monotonic() - began < 1.0
    broker.started(402)
    broker.recall(403)
    assert broker.wait_for(Nack).tokens == [token_of(403)]
    assert time.monotonic() - began < 2.0
    broker.ended(402)


def test_children_are_warm_and_reused(worker: Worker, broker: ScriptedBroker) -> None:
    pids = {value(attempt(broker, "surroundings"))["pid"] for _ in range(3)}
    assert len(pids) == 1
    with_gpu = value(attempt(broker, "surroundings", gpus=["GPU-1"]))["pid"]
    assert with_gpu not in pids


def test_what_an_attempt_sees(worker: Worker, broker: ScriptedBroker) -> None:
    parents = {"select": Raw(msgspec.msgpack.encode({"features": [1, 2]}))}
    broker.assign("surroundings", item(1, {}, attempt=3, parents=parents), cpus=1.0, gpus=["GPU-1"])
    seen = value(broker.ended(1)[0])
    variables = seen["environment"]
    assert variables["CUDA_VISIBLE_DEVICES"] == "GPU-1"
    assert variables["CUDA_DEVICE_ORDER"] == "PCI_BUS_ID"
    assert variables["OMP_NUM_THREADS"] == variables["MKL_NUM_THREADS"] == "1"
    assert (seen["gpus"], seen["cpus"], seen["attempt"]) == (["GPU-1"], 1.0, 3)
    assert seen["parents"] == {"select": {"features": [1, 2]}}
    assert len(seen["cores"]) == 1
    assert not Path(seen["workdir"]).exists()
    assert Path(seen["workdir"]).parent == worker.folder / "work"
    without = value(attempt(broker, "surroundings"))
    assert without["environment"]["CUDA_VISIBLE_DEVICES"] == ""
    assert set(without["cores"]) == os.sched_getaffinity(0)


def test_two_lanes_have_cores_of_their_own(worker: Worker, broker: ScriptedBroker) -> None:
    for number in (1, 2):
        broker.assign("surroundings", item(number, {"seconds": 1.0}), cpus=1.0)
    first, second = (value(ended) for ended in broker.ended(1, 2))
    assert first["pid"] != second["pid"]
    if len(os.sched_getaffinity(0)) > 1:
        assert set(first["cores"]).isdisjoint(second["cores"])


# --- progress, checkpoints, logs --------------------------------------------------------------


def test_progress_is_told_but_not_too_often(worker: Worker, broker: ScriptedBroker) -> None:
    broker.assign("slow_checkpoint", item(1, {"to": 100, "seconds": 0.01}))
    ended = broker.ended(1)[0]
    told = [
        one
        for message in broker.heard
        if isinstance(message, Progress)
        for one in message.items
        if not one.started
    ]
    assert 3 <= len(told) <= 2 + 5 * ended.seconds + 1
    assert [one.fraction for one in told] == sorted(one.fraction for one in told)
    assert all(one.metrics == {"reached": pytest.approx(100 * one.fraction)} for one in told)


def test_the_latest_progress_is_told_even_when_nothing_follows(
    worker: Worker, broker: ScriptedBroker
) -> None:
    """Two tellings at once, then a long silence: the second one must not be lost."""
    broker.assign("progress_twice", item(1, {"seconds": 1.5}))
    last = broker.wait_for(
        Progress, lambda message: any(one.fraction == 0.5 for one in message.items), 1.4
    )
    assert last.items[0].metrics == {"loss": 0.25}
    broker.ended(1)


def test_a_checkpoint_goes_to_the_broker_and_comes_back(
    worker: Worker, broker: ScriptedBroker
) -> None:
    broker.assign("slow_checkpoint", item(1, {"to": 20, "seconds": 0.1}), run_limit=1.2)
    saved = broker.wait_for(Checkpoint)
    assert saved.token == token_of(1)
    reached = msgspec.msgpack.decode(saved.data)["reached"]
    assert 5 <= reached <= 12
    assert broker.ended(1)[0].outcome == "time_limit"
    broker.assign(
        "slow_checkpoint",
        item(2, {"to": reached + 1, "seconds": 0.0}, attempt=2, checkpoint=saved.data),
    )
    assert value(broker.ended(2)[0]) == {
        "reached": reached + 1,
        "began_at": reached,
        "warned": False,
    }


def test_each_attempt_has_its_log_with_everything_it_wrote(
    worker: Worker, broker: ScriptedBroker
) -> None:
    for number in (1, 2):
        broker.assign("chatter", item(number, {"words": f"task {number}"}))
        broker.ended(number)
        ways = ("print", "stderr", "descriptor", "process")
        assert broker.log(f"t{number}") == "".join(f"task {number} by {way}\n" for way in ways)


def test_silence_makes_no_file(worker: Worker, broker: ScriptedBroker) -> None:
    broker.assign("echo", *(item(number) for number in range(1, 101)))
    broker.ended(*range(1, 101))
    assert broker.log("t1") is None
    assert [path.name for path in (worker.folder / "logs").iterdir()] == ["child-1.log"]


def test_the_log_of_a_running_attempt_can_be_read(worker: Worker, broker: ScriptedBroker) -> None:
    broker.assign("chatter", item(1, {"words": "hear", "seconds": 2.0, "ways": ["print"]}))
    broker.started(1)
    eventually(lambda: broker.log("t1") == "hear by print\n", "nothing is heard", 1.5)
    broker.say(FetchLog(8, "t1", 1, 2**63, 1))  # no file has that place
    assert not broker.wait_for(LogChunk).found
    assert broker.ended(1)[0].outcome == "ok"
    assert broker.log("t1") == "hear by print\n"


def test_what_a_dying_attempt_wrote_is_its_log(worker: Worker, broker: ScriptedBroker) -> None:
    broker.assign("crash", item(1, {"how": "SIGABRT"}))
    broker.ended(1)
    assert "Fatal Python error" in (broker.log("t1") or "")


def test_a_log_that_the_disk_does_not_take_costs_no_result(
    start: Starter, broker: ScriptedBroker
) -> None:
    """`logging` swallows the error of a full disk, and what it wrote waits in the buffer."""
    worker = start(PYTHONUNBUFFERED="")
    broker.welcome()
    (worker.folder / "logs" / "child-1.log").symlink_to("/dev/full")
    for number in (1, 2):
        broker.assign("chatter", item(number, {"words": "epoch", "ways": ["logging"]}))
        assert broker.ended(number)[0].outcome == "ok"
    assert "t1 attempt 1: the end of its log is lost: [Errno 28]" in worker.log


def test_what_a_full_disk_did_not_take_is_in_no_later_log(
    start: Starter, broker: ScriptedBroker
) -> None:
    worker = start(PYTHONUNBUFFERED="")
    broker.welcome()

    def say(number: int, words: str) -> None:
        broker.assign("chatter", item(number, {"words": words, "ways": ["logging"]}))
        assert broker.ended(number)[0].outcome == "ok"

    say(1, "first")
    (child,) = worker.children()
    no_limit = child.rlimit(psutil.RLIMIT_FSIZE)
    child.rlimit(psutil.RLIMIT_FSIZE, (0, no_limit[1]))  # no file may grow
    say(2, "second")
    child.rlimit(psutil.RLIMIT_FSIZE, no_limit)
    say(3, "third")
    assert [broker.log(f"t{number}") for number in (1, 2, 3)] == [
        "WARNING:root:first by logging\n",
        None,
        "WARNING:root:third by logging\n",
    ]


def test_a_log_without_a_place_is_lost_and_no_other(worker: Worker, broker: ScriptedBroker) -> None:
    (worker.folder / "logs" / "t2").write_text("where its folder should be")
    for number in (1, 2, 3):
        broker.assign("chatter", item(number, {"words": f"task {number}", "ways": ["print"]}))
        assert broker.ended(number)[0].outcome == "ok"
    logs = [broker.log(f"t{number}") for number in (1, 2, 3)]
    assert logs == ["task 1 by print\n", None, "task 3 by print\n"]
    assert "t2 attempt 1: its log is lost: [Errno 17]" in worker.log


def test_a_disk_that_lets_nothing_be_removed_ends_no_agent(
    worker: Worker, broker: ScriptedBroker
) -> None:
    broker.assign("echo", item(1))
    broker.ended(1)
    catch = worker.folder / "logs" / "child-1.log"
    catch.unlink()
    catch.mkdir()  # which no unlink removes
    (child,) = worker.children()
    child.kill()
    broker.assign("echo", item(2))
    assert broker.ended(2)[0].outcome == "ok"
    assert worker.process.poll() is None


def test_a_handler_that_leaves_no_descriptor_keeps_its_result(
    worker: Worker, broker: ScriptedBroker
) -> None:
    assert value(attempt(broker, "leak", memory_gb=1.0)) > 0


# --- failing --------------------------------------------------------------------------------


def test_an_exception_is_a_failure_with_its_traceback(
    worker: Worker, broker: ScriptedBroker
) -> None:
    ended = attempt(broker, "fail", {"error": "KeyError", "message": "gone"})
    assert ended.outcome == "error"
    assert ended.failure is not None
    assert (ended.failure.type, ended.failure.message) == ("KeyError", "'gone'")
    assert "in fail" in ended.failure.traceback
    assert "worker/runner.py" not in ended.failure.traceback


def test_bad_params_name_the_field(worker: Worker, broker: ScriptedBroker) -> None:
    ended = attempt(broker, "sleep", {"seconds": "long"})
    assert ended.failure is not None
    assert ended.failure.type == "bad_params"
    assert "$.seconds" in ended.failure.message
    unknown = attempt(broker, "sleep", {"second": 1.0})
    assert unknown.failure is not None
    assert "second" in unknown.failure.message


@pytest.mark.parametrize(
    ("what", "type", "text"),
    [
        ("object", "bad_result", "builtins.object"),
        ("numpy", "bad_result", "float(x)"),
        ("huge", "bad_result", "packed"),
        (str((32 << 20) + 1), "result_too_large", "the limit is 33554432"),
    ],
)
def test_a_result_that_cannot_travel_says_why(
    worker: Worker, broker: ScriptedBroker, what: str, type: str, text: str
) -> None:
    ended = attempt(broker, "odd_result", {"what": what})
    assert ended.failure is not None
    assert ended.failure.type == type
    assert text in ended.failure.message


def test_a_large_result_travels(worker: Worker, broker: ScriptedBroker) -> None:
    ended = attempt(broker, "odd_result", {"what": str(20 << 20)})
    assert len(value(ended)) == 20 << 20


def test_a_missing_module_names_the_pip_command(worker: Worker, broker: ScriptedBroker) -> None:
    ended = attempt(broker, "lacks_module")
    assert ended.failure is not None
    assert ended.failure.type == "missing_extra"
    assert "pip install 'corral-test-handlers[moon]'" in ended.failure.message


@pytest.mark.parametrize(
    ("how", "words"),
    [
        ("SIGKILL", "SIGKILL"),
        ("SIGSEGV", "SIGSEGV"),
        ("exit", "exit status 3"),
        ("_exit", "exit status 4"),
    ],
)
def test_a_process_that_dies_fails_its_attempt_and_no_other(
    worker: Worker, broker: ScriptedBroker, how: str, words: str
) -> None:
    broker.assign(
        "crash", item(1, {"how": how, "times": 0}), item(2, {"how": how}), item(3, {"times": 0})
    )
    first, second, third = broker.ended(1, 2, 3)
    assert (first.outcome, third.outcome) == ("ok", "ok")
    assert second.outcome == "killed"
    assert second.failure is not None
    assert words in second.failure.message


def test_kill_9_of_a_child_is_noticed_at_once(worker: Worker, broker: ScriptedBroker) -> None:
    broker.assign("stubborn", item(1, {"seconds": 60}))
    broker.started(1)
    (child,) = worker.children()
    began = time.monotonic()
    child.kill()
    (ended,) = broker.ended(1)
    assert ended.outcome == "killed"
    assert time.monotonic() - began < 2.0
    assert not alive(child.pid)


def test_forty_crashes_among_tiny_attempts_lose_none(
    worker: Worker, broker: ScriptedBroker
) -> None:
    """Every tenth attempt kills the process; all others must be told as ok or handed back."""
    broker.assign("crash", *(item(number, {"times": 0}) for number in range(1, 300)))
    broker.ended(*range(1, 300))
    numbers = range(301, 341)
    broker.assign(
        "crash", *(item(number, {"times": 0 if number % 10 else 9}) for number in numbers)
    )
    outcomes = {n: ended.outcome for n, ended in zip(numbers, broker.ended(*numbers), strict=True)}
    assert all(outcome == "killed" for n, outcome in outcomes.items() if n % 10 == 0)
    assert {outcome for n, outcome in outcomes.items() if n % 10} <= {"ok", "handed_back"}
