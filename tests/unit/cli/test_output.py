"""Output: the same data in four formats, and units as people write them."""

from __future__ import annotations

import ast
import json
from pathlib import Path

import click
import pytest
from msgspec import Struct, msgpack

from corral.cli import output
from corral.cli.options import DURATION, GIB, MAYBE_PAIR, PAIR, span
from corral.cli.output import FORMATS, Output, line, lines, talk, value_text


class Thing(Struct):
    name: str
    size: int
    note: str = ""


THINGS = [Thing("first", 5), Thing("second", 12345)]
COLUMNS = {
    "name": lambda one: one.name,
    "size": lambda one: one.size,
    "note": lambda one: one.note,
}


def printed(capsys: pytest.CaptureFixture[str], format: str, things: list[Thing]) -> str:
    Output(format).listing(things, COLUMNS, lambda one: one.name, empty="There is nothing.")
    captured = capsys.readouterr()
    return captured.out


def test_a_table_has_heads_and_no_empty_column(capsys: pytest.CaptureFixture[str]) -> None:
    head, first, second = printed(capsys, "table", THINGS).splitlines()
    assert head.split() == ["NAME", "SIZE"]
    assert first.split() == ["first", "5"]
    assert second.split() == ["second", "12345"]
    assert first.index("5") == second.index("5")  # numbers stand right


def test_json_is_the_structs_whole(capsys: pytest.CaptureFixture[str]) -> None:
    expected = [
        {"name": "first", "size": 5, "note": ""},
        {"name": "second", "size": 12345, "note": ""},
    ]
    assert json.loads(printed(capsys, "json", THINGS)) == expected
    lines = printed(capsys, "jsonl", THINGS).splitlines()
    assert [json.loads(line) for line in lines] == expected


def test_names_alone(capsys: pytest.CaptureFixture[str]) -> None:
    assert printed(capsys, "name", THINGS) == "first\nsecond\n"


@pytest.mark.parametrize(("format", "out"), [("json", "[]\n"), ("jsonl", ""), ("name", "")])
def test_an_empty_list(capsys: pytest.CaptureFixture[str], format: str, out: str) -> None:
    assert printed(capsys, format, []) == out


def test_an_empty_table_is_told_on_stderr(capsys: pytest.CaptureFixture[str]) -> None:
    Output("table").listing([], COLUMNS, str, empty="There is nothing.")
    assert capsys.readouterr() == ("", "There is nothing.\n")


def test_nothing_is_cut_off_without_a_terminal(capsys: pytest.CaptureFixture[str]) -> None:
    long = Thing("x" * 300, 1)
    assert "x" * 300 in printed(capsys, "table", [long])


def test_markup_in_data_is_data(capsys: pytest.CaptureFixture[str]) -> None:
    assert "[red]boom[/red]" in printed(capsys, "table", [Thing("[red]boom[/red]", 1)])


@pytest.mark.parametrize("format", FORMATS)
def test_one_thing(capsys: pytest.CaptureFixture[str], format: str) -> None:
    Output(format).one(THINGS[0], lambda one: f"It is {one.name}.", lambda one: one.name)
    out = capsys.readouterr().out
    assert {
        "table": out == "It is first.\n",
        "json": out.startswith("{\n"),
        "jsonl": out == '{"name":"first","size":5,"note":""}\n',
        "name": out == "first\n",
    }[format]


def test_a_result_that_is_text_stands_as_it_is() -> None:
    assert value_text("two\nlines") == "two\nlines"
    assert json.loads(value_text({"a": [1]})) == {"a": [1]}
    assert value_text(None) == "null"


def rules() -> list[tuple[str, str]]:
    """The table of docs/reference/results.md: Python, and the same as JSON."""
    page = Path(__file__).parents[3] / "docs" / "reference" / "results.md"
    rows = page.read_text(encoding="utf-8").partition("| in Python |")[2].splitlines()[2:]
    cells = [row.split("|")[1:3] for row in rows if row.startswith("|")]
    return [(value.strip(" `"), text.strip(" `")) for value, text in cells]


@pytest.mark.parametrize(("python", "text"), rules())
def test_what_json_has_not_is_written_by_the_documented_rule(python: str, text: str) -> None:
    value = eval(python, {"msgpack": msgpack})
    travelled = msgpack.decode(msgpack.encode(value), strict=False)
    assert json.loads(value_text(travelled)) == json.loads(text)


def test_the_rules_hold_at_any_depth() -> None:
    value = {(1, "b"): 1, 2: [{(3,): 4}]}
    told = value_text(msgpack.decode(msgpack.encode(value)))
    assert json.loads(told) == {'[1,"b"]': 1, "2": [{"[3]": 4}]}


@pytest.mark.parametrize(("text", "value"), [("10m", 600.0), ("1h 30m", 5400.0), ("5", 5.0)])
def test_durations(text: str, value: float) -> None:
    assert DURATION.convert(text, None, None) == value


@pytest.mark.parametrize(("text", "value"), [("8GB", 8.0), ("512MB", 0.5), ("3", 3.0)])
def test_sizes_count_gib(text: str, value: float) -> None:
    assert GIB.convert(text, None, None) == value


@pytest.mark.parametrize("kind", [DURATION, GIB])
def test_what_has_no_unit_is_usage(kind: click.ParamType[float]) -> None:
    with pytest.raises(click.BadParameter, match="much"):
        kind.convert("much", None, None)


def test_pairs() -> None:
    assert PAIR.convert("a=b=c", None, None) == ("a", "b=c")
    assert MAYBE_PAIR.convert("id", None, None) == ("", "id")
    for bad in ("a", "=b"):
        with pytest.raises(click.BadParameter, match="NAME=VALUE"):
            PAIR.convert(bad, None, None)


@pytest.mark.parametrize(
    ("seconds", "text"),
    [(0.04, "0.0 s"), (9.99, "10.0 s"), (61, "61 s"), (125, "2 m 5 s"), (7260, "2 h 1 m"),
     (200_000, "2 d 7 h")],
)  # fmt: skip
def test_spans_for_people(seconds: float, text: str) -> None:
    assert span(seconds) == text


# --- what a terminal would obey ---------------------------------------------------------

EVIL = "a\x1b[2Jb\r\nc\x9b31m\u202ed\x07"
SEEN = r"a\x1b[2Jb\r\nc\x9b31m\u202ed\x07"


def test_a_person_sees_every_sign_and_a_terminal_obeys_none(
    capsys: pytest.CaptureFixture[str],
) -> None:
    assert printed(capsys, "table", [Thing(EVIL, 1)]).splitlines()[1].split() == [SEEN, "1"]
    Output("table").one(EVIL, str, str)
    talk(EVIL)
    assert capsys.readouterr() == (f"{SEEN}\n", f"{SEEN}\n")


def test_what_can_be_seen_stays_as_it_is() -> None:
    assert line("é 日本 ✔ — “quoted”").plain == "é 日本 ✔ — “quoted”"
    assert lines("one\n\ttwo\x1b").plain == "one\n        two\\x1b"


@pytest.mark.parametrize("format", ["json", "jsonl"])
def test_json_is_exact(capsys: pytest.CaptureFixture[str], format: str) -> None:
    Output(format).one(Thing(EVIL, 1), str, str)
    assert json.loads(capsys.readouterr().out)["name"] == EVIL


def test_rich_gets_its_text_from_one_place() -> None:
    """Text of another making, or markup in a string, could hold anything."""
    folder = Path(output.__file__).parent
    makers = {
        path.name
        for path in folder.glob("*.py")
        for node in ast.walk(ast.parse(path.read_text(encoding="utf-8")))
        if isinstance(node, ast.Call) and ast.unparse(node.func).split(".")[0] in ("Text", "print")
    }
    assert makers == {"output.py"}
