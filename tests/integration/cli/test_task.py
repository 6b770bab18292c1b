"""`corral task`: what it prints in each format, and the exit status that scripts rely on."""

from __future__ import annotations

import signal
import time
from collections.abc import Callable

import pytest

from corral.messages import Explanation, TaskView, Update, WorkerView
from corral.tasks import State, Variant
from tests.integration.cli.conftest import Cli, Ended, Started
from tests.support.told import told


def state_of(corral: Cli, id: str) -> State:
    view: TaskView = corral("task", "show", id, "-o", "json").json(TaskView)
    return view.state


def wait_for(corral: Cli, id: str, state: State) -> None:
    deadline = time.monotonic() + 30
    while state_of(corral, id) is not state:
        assert time.monotonic() < deadline, f"{id} is {state_of(corral, id)}"


def submitted(ended: Ended) -> str:
    assert ended.status in (0, 6), ended
    return ended.out.strip()


# --- submit -----------------------------------------------------------------------------


def test_submit_prints_the_id_alone(corral: Cli) -> None:
    ended = corral("task", "submit", "echo", "greeting=hello")
    assert ended.status == 0
    assert len(ended.out.splitlines()) == 1
    assert corral("task", "show", ended.out.strip()).status == 0


def test_values_are_json_when_they_parse_and_dotted_keys_nest(corral: Cli) -> None:
    ended = corral(
        "task", "submit", "echo", "number=7", "text=hello world", "list=[1, 2]", "none=null",
        "quoted=\"7\"", "empty=", "equals=a=b", "model.depth=3", "model.name=ridge", "--wait",
    )  # fmt: skip
    assert ended.status == 0, ended
    assert ended.json() == {
        "number": 7,
        "text": "hello world",
        "list": [1, 2],
        "none": None,
        "quoted": "7",
        "empty": "",
        "equals": "a=b",
        "model": {"depth": 3, "name": "ridge"},
    }
    assert ended.err == ""  # no terminal, no progress bar


@pytest.mark.parametrize("pair", ["nothing", "=x", "a.=1", ".a=1"])
def test_a_pair_that_is_none_is_usage(corral: Cli, pair: str) -> None:
    ended = corral("task", "submit", "echo", pair)
    assert ended.status == 2
    assert pair in ended.err


def test_keys_that_contradict_each_other_are_usage(corral: Cli) -> None:
    ended = corral("task", "submit", "echo", "a=1", "a.b=2")
    assert ended.status == 2
    assert "a.b" in ended.err


def test_every_option_reaches_the_task(corral: Cli) -> None:
    parent = submitted(corral("task", "submit", "echo", "a=1"))
    id = submitted(
        corral(
            "task", "submit", "echo", "--cpus", "0.5", "--memory", "1GB", "--priority", "7",
            "--project", "alpha", "--name", "mine", "--retries", "2", "--time-limit", "10m",
            "--queue-limit", "1h", "--id", "chosen", "--after", f"first={parent}",
        )
    )  # fmt: skip
    assert id == "chosen"
    view = corral("task", "show", id, "-o", "json").json(TaskView)
    assert (view.priority, view.project, view.name) == (7, "alpha", "mine")
    assert view.needs == (Variant(cpus=0.5, memory_gb=1.0),)
    assert view.after == {"first": parent}


@pytest.mark.parametrize(
    ("options", "variants"),
    [
        (["--gpus", "2", "--cpus", "4"], (Variant(cpus=4, gpus=2),)),
        (["--force-gpu"], (Variant(cpus=1, gpus=1),)),
        (["--force-gpu", "--memory", "512MB"], (Variant(cpus=1, gpus=1, memory_gb=0.5),)),
    ],
)
def test_needs_that_no_worker_could_meet_end_with_6_and_are_named(
    corral: Cli, options: list[str], variants: tuple[Variant, ...]
) -> None:
    ended = corral("task", "submit", "echo", *options)
    assert ended.status == 6
    assert "gpus" in ended.err
    assert f"corral task explain {ended.out.strip()}" in ended.err
    view = corral("task", "show", ended.out.strip(), "-o", "json").json(TaskView)
    assert view.needs == variants
    assert corral("task", "cancel", view.id).status == 0


def test_prefer_gpu_runs_without_one(corral: Cli) -> None:
    ended = corral("task", "submit", "echo", "--prefer-gpu", "-o", "json")
    assert ended.status == 0, ended
    view = corral("task", "show", ended.json()["id"], "-o", "json").json(TaskView)
    assert [variant.gpus for variant in view.needs] == [1, 0]


@pytest.mark.parametrize(
    "options",
    [
        ["--force-gpu", "--prefer-gpu"],
        ["--force-gpu", "--gpus", "1"],
        ["--timeout", "1s"],
        ["--memory", "much"],
        ["--time-limit", "soon"],
        ["--retries", "-1"],
    ],
)
def test_options_that_make_no_sense_are_usage(corral: Cli, options: list[str]) -> None:
    ended = corral("task", "submit", "echo", *options)
    assert (ended.status, ended.out) == (2, "")


def test_the_same_id_and_content_is_the_same_task(corral: Cli) -> None:
    first = corral("task", "submit", "echo", "a=1", "--id", "again", "-o", "json")
    second = corral("task", "submit", "echo", "a=1", "--id", "again", "-o", "json")
    assert (first.json()["known"], second.json()["known"]) == (False, True)
    assert second.status == 0


# --- waiting ----------------------------------------------------------------------------


def test_wait_ends_as_the_task_did(corral: Cli) -> None:
    failed = corral("task", "submit", "fail", "message=no luck", "--retries", "0", "--wait")
    assert (failed.status, failed.out) == (1, "")
    assert "no luck" in failed.err
    assert "corral task show" in failed.err
    late = corral("task", "submit", "sleep", "seconds=60", "--wait", "--timeout", "200ms")
    assert late.status == 7
    assert "corral task watch" in late.err
    id = submitted(corral("task", "list", "--state", "running", "--kind", "sleep", "-o", "name"))
    assert corral("task", "cancel", id, "--reason", "enough").out.split()[0] != ""
    cancelled = corral("task", "result", id)
    assert cancelled.status == 8
    assert "enough" in cancelled.err


def test_ctrl_c_detaches_and_the_task_goes_on(
    corral: Cli, started: Callable[[Started], Started]
) -> None:
    waiting = started(
        corral.start("task", "submit", "sleep", "seconds=60", "--id", "long", "--wait")
    )
    waiting.until(lambda: corral("task", "show", "long").status == 0)
    wait_for(corral, "long", State.RUNNING)
    ended = waiting.end(signal.SIGINT)
    assert ended.status == 130
    assert "corral task watch long" in ended.err
    assert state_of(corral, "long") is State.RUNNING
    assert corral("task", "cancel", "long").status == 0


def test_a_wait_for_what_nothing_can_run_says_why(
    corral: Cli, started: Callable[[Started], Started]
) -> None:
    waited = corral("task", "submit", "echo", "--gpus", "7", "--wait", "--timeout", "1s")
    assert waited.status == 7
    assert waited.err.count("no worker can meet the needs of echo: gpus 7") == 1
    id = corral("task", "list", "--state", "queued", "-o", "name").out.split()[0]
    result = corral("task", "result", id, "--timeout", "1s")
    assert result.status == 7
    watching = started(corral.start("task", "watch", id))
    watching.until(lambda: "corral task explain" in watching.err)
    for said in (result.err, watching.err):
        assert said.count("no worker can meet the needs of echo: gpus 7") == 1
        assert f"corral task explain {id}" in said
    assert corral("task", "cancel", id).status == 0
    assert watching.wait().status == 8


def test_watch_tells_every_state_until_the_end(corral: Cli) -> None:
    id = submitted(corral("task", "submit", "sleep", "seconds=0.5"))
    ended = corral("task", "watch", id, "-o", "jsonl")
    assert ended.status == 0
    updates = [told(line, Update) for line in ended.out.splitlines()]
    assert {update.id for update in updates} == {id}
    assert updates[-1].state is State.SUCCEEDED
    assert "succeeded" in corral("task", "watch", id).out  # one that has ended says so at once
    failed = submitted(corral("task", "submit", "fail", "--retries", "0"))
    assert corral("task", "watch", failed).status == 1


def test_result_waits_and_prints_the_value(corral: Cli) -> None:
    id = submitted(corral("task", "submit", "echo", "text=hello"))
    assert corral("task", "result", id).json() == {"text": "hello"}
    told = corral("task", "result", id, "-o", "json").json()
    assert (told["id"], told["state"], told["value"]) == (id, "succeeded", {"text": "hello"})


def test_logs_are_what_the_attempt_wrote(corral: Cli) -> None:
    id = submitted(corral("task", "submit", "chatter", "words=hello", "--wait", "-o", "name"))
    followed = corral("task", "logs", "-f", id)
    assert followed.status == 0, followed
    assert "hello by print" in followed.out
    assert corral("task", "logs", id).out == followed.out


# --- looking ----------------------------------------------------------------------------


def test_list_in_every_format(corral: Cli) -> None:
    ids = [submitted(corral("task", "submit", "echo", f"i={i}", "--project", "lst", "--wait",
                            "-o", "name")) for i in range(2)]  # fmt: skip
    query = ("task", "list", "--project", "lst", "--all")
    views = corral(*query, "-o", "json").json(list[TaskView])
    assert [view.id for view in views] == ids[::-1]  # newest first
    lines = corral(*query, "-o", "jsonl").out.splitlines()
    assert [told(line, TaskView).id for line in lines] == ids[::-1]
    assert corral(*query, "-o", "name").out.split() == ids[::-1]
    table = corral(*query).out
    assert all(id in table for id in ids)
    assert corral(*query, CORRAL_OUTPUT="name").out.split() == ids[::-1]
    assert "\x1b" not in table


def test_an_empty_list_is_an_empty_list(corral: Cli) -> None:
    query = ("task", "list", "--project", "no-such-project")
    assert corral(*query, "-o", "json").out == "[]\n"
    assert corral(*query, "-o", "jsonl").out == ""
    table = corral(*query)
    assert (table.status, table.out) == (0, "")
    assert table.err != ""


def test_list_says_what_it_hides(corral: Cli) -> None:
    for number in range(3):
        assert corral("task", "submit", "echo", f"i={number}", "--project", "hid").status == 0
    query = ("task", "list", "--project", "hid", "-o", "name")
    cut = corral(*query, "--limit", "2")
    assert len(cut.out.split()) == 2
    assert "hidden, use --all" in cut.err
    for whole in (corral(*query), corral(*query, "--limit", "2", "--all")):
        assert len(whole.out.split()) == 3
        assert whole.err == ""


def test_ids_by_prefix_and_last(corral: Cli) -> None:
    ids = [submitted(corral("task", "submit", "echo", "--id", f"prefix-{c}")) for c in "ab"]
    assert corral("task", "show", "last", "-o", "name").out.strip() == ids[1]
    assert corral("task", "show", "prefix-a", "-o", "name").out.strip() == ids[0]
    several = corral("task", "show", "prefix-")
    assert several.status == 3
    assert all(id in several.err for id in ids)
    nothing = corral("task", "show", "no-such-task")
    assert nothing.status == 3
    assert "corral task list" in nothing.err


def test_show_tells_the_story(corral: Cli) -> None:
    id = submitted(
        corral("task", "submit", "fail", "message=boom", "times=1", "--wait", "-o", "name")
    )
    page = corral("task", "show", id).out
    for word in (id, "fail", "succeeded", "retrying", "boom", "assign", "back_off"):
        assert word in page, page
    assert (
        corral("task", "status", id, "-o", "json").out
        == corral("task", "show", id, "-o", "json").out
    )
    view = corral("task", "show", id, "-o", "json").json(TaskView)
    assert [attempt.number for attempt in view.attempts] == [1, 2]


def test_explain_names_workers_needs_and_a_cure(corral: Cli) -> None:
    id = submitted(corral("task", "submit", "echo", "--force-gpu"))
    page = corral("task", "explain", id).out
    for word in ("w1", "w2", "gpus", "queued"):
        assert word in page, page
    told = corral("task", "explain", id, "-o", "json").json(Explanation)
    assert {verdict.worker for verdict in told.workers} == {"w1", "w2"}
    assert told.cure
    assert all(part.text in page for part in told.cure)
    assert corral("task", "cancel", id).status == 0


# --- changing ---------------------------------------------------------------------------


def test_cancel_and_retry_say_what_they_changed(corral: Cli) -> None:
    failed = submitted(corral("task", "submit", "fail", "--retries", "0"))
    assert corral("task", "watch", failed).status == 1
    again = corral("task", "retry", failed, "-o", "name")
    assert (again.status, again.out.strip()) == (0, failed)
    assert corral("task", "watch", failed).status == 1
    done = submitted(corral("task", "submit", "echo", "--wait", "-o", "name"))
    refused = corral("task", "cancel", done)
    assert refused.status == 2
    assert "succeeded" in refused.err
    again = corral("task", "retry", done)
    assert again.status == 2
    assert again.err.count("succeeded") == 1
    assert corral("worker", "drain", "w1", "--deadline", "1e300").status == 2
    assert corral("task", "cancel", "no-such-task").status == 3


def test_a_filter_stands_for_all_that_match_and_asks_first(corral: Cli) -> None:
    ids = {
        submitted(corral("task", "submit", "echo", "--force-gpu", "--project", "bulk"))
        for _ in range(3)
    }
    unsure = corral("task", "cancel", "--project", "bulk")
    assert unsure.status == 2
    assert "3 tasks" in unsure.err
    done = corral("task", "cancel", "--project", "bulk", "--yes", "-o", "name")
    assert set(done.out.split()) == ids
    assert corral("task", "cancel", "--project", "bulk", "--yes").status == 0


def test_a_known_task_keeps_its_settings_until_it_is_cancelled(corral: Cli) -> None:
    submit = ("task", "submit", "echo", "--id", "settled", "--force-gpu")
    assert corral(*submit, "--time-limit", "1m").status == 6  # it waits: there is no GPU
    other = (*submit, "--priority", "5", "--retries", "0")
    told = corral(*other)
    assert told.out == "settled\n"
    warning, cure, *_ = told.err.splitlines()
    assert warning.endswith(
        "settled is there already and keeps its own priority, retries, time limit"
    )
    assert "corral task cancel settled" in cure
    as_json = corral(*other, "-o", "json")
    assert as_json.json()["known"] is True
    assert as_json.json()["kept"] == ["priority", "retry", "run_limit"]
    assert as_json.err == told.err
    waited = corral(*other, "--wait", "--timeout", "0.1")
    assert warning in waited.err
    assert corral("task", "show", "settled", "-o", "json").json(TaskView).priority == 0

    assert corral("task", "cancel", "settled").status == 0
    anew = corral(*other, "-o", "json").json()
    assert (anew["known"], anew["kept"]) == (False, [])
    assert corral("task", "show", "settled", "-o", "json").json(TaskView).priority == 5
    assert corral("task", "cancel", "settled").status == 0


# --- files ------------------------------------------------------------------------------


def test_a_file_holds_a_graph(corral: Cli) -> None:
    lines = [
        '{"kind": "echo", "params": {"a": 1}, "name": "root"}',
        "",
        '{"after": {"root": "#0"}, "params": {"b": 2}, "needs": [{"cpus": 0.5}], "retry": 0}',
    ]
    (corral.folder / "tasks.jsonl").write_text("\n".join(lines))
    ended = corral("task", "submit", "echo", "c=3", "--file", "tasks.jsonl", "--wait", "-o", "json")
    assert ended.status == 0, ended
    assert [item["value"] for item in ended.json()] == [{"a": 1, "c": 3}, {"b": 2, "c": 3}]
    piped = corral("task", "submit", "--file", "-", "-o", "name", input=lines[0])
    assert piped.status == 0
    view = corral("task", "show", piped.out.strip(), "-o", "json").json(TaskView)
    assert view.name == "root"


def test_workers_in_every_format(corral: Cli) -> None:
    workers = corral("worker", "list", "-o", "json").json(list[WorkerView])
    assert [worker.name for worker in workers] == ["w1", "w2"]
    assert corral("worker", "list", "-o", "name").out.split() == ["w1", "w2"]
    assert "available" in corral("worker", "list").out
    one = corral("worker", "status", "w1", "-o", "json").json(WorkerView)
    assert (one.name, one.slots) == ("w1", 2)
    assert corral("worker", "status", "nobody").status == 3
