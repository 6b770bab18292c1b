"""Requests against the API's own schema: which calls there are, and which parameters they take.

schema.json is what Proxmox VE 9.2 declares about its calls, without the prose; `unlisted` in it are
calls that its dump left out. Every bad parameter of a request is told at once, and nothing that is
not declared passes.
"""

from __future__ import annotations

import functools
import json
import re
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from importlib import resources
from typing import Any

from corral.lab.answers import invalid
from corral.lab.formats import check_format, parse_properties

MISSING = "property is missing and it is not optional"
UNDEFINED = "property is not defined in schema and the schema does not allow additional properties"
NUMBERED = {"net[n]": 32, "mp[n]": 256, "unused[n]": 256, "dev[n]": 256}


@dataclass(frozen=True)
class Declared:
    """One call of the API as it is declared."""

    method: str
    template: str  # /nodes/{node}/lxc
    properties: Mapping[str, Mapping[str, Any]]
    permissions: Mapping[str, Any] | None
    proxied: bool  # whether the node in the path answers


class Schema:
    """All calls, and the way to them from a path."""

    def __init__(self, document: Mapping[str, Any]) -> None:
        self.formats: Mapping[str, Any] = document["formats"]
        self._tree: dict[str, Any] = {}
        self.calls: dict[tuple[str, str], Declared] = {}
        for template, methods in {**document["paths"], **document["unlisted"]}.items():
            self._plant(template)
            for method, call in methods.items():
                self.calls[method, template] = Declared(
                    method,
                    template,
                    dict(_numbered(call["properties"])),
                    call.get("permissions"),
                    "proxyto" in call,
                )

    def _plant(self, template: str) -> None:
        branch = self._tree
        for part in template.strip("/").split("/"):
            branch = branch.setdefault(part, {})
        branch[""] = template

    def find(self, path: str) -> tuple[str, dict[str, str]] | None:
        """The template that a path fits, and the parameters in it."""
        branch, found = self._tree, {}
        parts = path.strip("/").split("/")
        for position, part in enumerate(parts):
            if part in branch:
                branch = branch[part]
                continue
            name = next((key for key in branch if key.startswith("{")), None)
            if name is None or not part or re.search(r"\s", part):
                return None
            if name == "{volume}":  # the only one that holds slashes
                part = "/".join(parts[position:])
            found[name[1:-1]] = part
            branch = branch[name]
            if name == "{volume}":
                break
        return (branch[""], found) if "" in branch else None

    def check(self, call: Declared, given: Mapping[str, Any]) -> dict[str, Any]:
        """The parameters in their types.

        Raises:
            Refused: 400, with the reason for each bad one.
        """
        errors: dict[str, str] = {}
        taken: dict[str, Any] = {}
        for name in given:
            if name not in call.properties:
                errors[name] = UNDEFINED
        for name, rule in call.properties.items():
            if name not in given:
                if not rule.get("optional"):
                    errors[name] = MISSING
                continue
            wanted = rule.get("requires")
            if wanted and wanted not in given:
                errors[wanted] = f"missing property - '{name}' requires this property"
            taken[name] = self._value(name, rule, given[name], errors)
        if errors:
            raise invalid(errors)
        return taken

    def _value(
        self, name: str, rule: Mapping[str, Any], given: object, errors: dict[str, str]
    ) -> Any:
        if rule.get("type") == "array":
            items = given if isinstance(given, list) else [given]
            return [
                self._value(f"{name}[{number}]", rule["items"], item, errors)
                for number, item in enumerate(items)
            ]
        text = "\0".join(map(str, given)) if isinstance(given, list) else _text(given)
        try:
            value = _typed(rule.get("type", "string"), text)
            self._formatted(name, rule.get("format"), text)
            _bounded(rule, value)
        except ValueError as error:
            errors[name] = str(error)
            return None
        return value

    def _formatted(self, name: str, format: str | Mapping[str, Any] | None, text: str) -> None:
        if format is None:
            return
        inner = self.formats.get(format) if isinstance(format, str) else format
        if inner is None:
            assert isinstance(format, str)
            check_format(format, text)
            return
        problems = self._properties(name, inner, text)
        if problems:
            lines = "".join(f"{where}: {problem}\n" for where, problem in problems.items())
            raise ValueError(f"invalid format - format error\n{lines}")

    def _properties(self, name: str, rules: Mapping[str, Any], text: str) -> dict[str, str]:
        default = next((key for key, rule in rules.items() if rule.get("default_key")), None)
        errors: dict[str, str] = {}
        try:
            found = parse_properties(text, default)
        except ValueError as error:
            return {name: str(error)}
        for key in found:
            if key not in rules:
                errors[f"{name}.{key}"] = UNDEFINED
        for key, rule in rules.items():
            if key in found:
                self._value(f"{name}.{key}", rule, found[key], errors)
            elif not rule.get("optional"):
                errors[f"{name}.{key}"] = MISSING
        return errors


@functools.cache
def load() -> Schema:
    """The schema that the package carries."""
    text = resources.files("corral.lab").joinpath("schema.json").read_text(encoding="utf-8")
    return Schema(json.loads(text))


def _numbered(properties: Mapping[str, Any]) -> Iterator[tuple[str, Any]]:
    """`net[n]` as net0 to net31."""
    for name, rule in properties.items():
        for number in range(NUMBERED.get(name, 0)):
            yield name.replace("[n]", str(number)), rule
        if name not in NUMBERED:
            yield name, rule


@functools.cache
def _python(pattern: str) -> re.Pattern[str]:
    """A regular expression of Perl's, whose groups may begin with `(?^:`."""
    return re.compile(re.sub(r"\(\?\^([a-z]*):", r"(?\1:", pattern))


def _text(given: object) -> str:
    if isinstance(given, bool):
        return "1" if given else "0"
    return str(given)


def _typed(kind: str, text: str) -> str | int | float:
    patterns = {"integer": r"[+-]?\d+", "boolean": r"[01]", "number": r"[+-]?(\d+(\.\d*)?|\.\d+)"}
    if kind in patterns and not re.fullmatch(patterns[kind], text):
        raise ValueError(f"type check ('{kind}') failed - got '{text}'")
    if kind == "number":
        number = float(text)
        return int(number) if number.is_integer() else number
    return text if kind not in patterns else int(text)


def _bounded(rule: Mapping[str, Any], value: str | int | float) -> None:
    if isinstance(value, str):
        if len(value) > rule.get("maxLength", len(value)):
            raise ValueError(f"value may only be {rule['maxLength']} characters long")
        if len(value) < rule.get("minLength", 0):
            raise ValueError(f"value must be at least {rule['minLength']} characters long")
    elif value < rule.get("minimum", value):
        raise ValueError(f"value must have a minimum value of {rule['minimum']}")
    elif value > rule.get("maximum", value):
        raise ValueError(f"value must have a maximum value of {rule['maximum']}")
    choices: Sequence[object] | None = rule.get("enum")
    if choices is not None and str(value) not in map(str, choices):
        listed = ", ".join(map(str, choices))
        raise ValueError(f"value '{value}' does not have a value in the enumeration '{listed}'")
    pattern = rule.get("pattern")
    if pattern is not None and not re.fullmatch(_python(pattern), str(value)):
        raise ValueError("value does not match the regex pattern")
