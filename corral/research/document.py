"""A YAML file that knows the line of every key, so that an error can name it.

Used by `pipeline` alone; what the keys mean is told there.
"""

from __future__ import annotations

import re
from collections.abc import Sequence
from typing import Any, TypeVar

import msgspec
import yaml

from corral.errors import CorralError
from corral.yamls import Loader

MOST = 10_000  # values, with what anchors repeat

T = TypeVar("T")
Key = tuple[str | int, ...]  #: names of mappings and numbers of list items, from the top


class BadPipeline(CorralError):
    """{file}, line {line}: {key}: {why}

    Correct that key and run the command again; nothing was submitted.
    """

    code = "bad_pipeline"
    exit_status = 2


class Document:
    """A parsed file.

    Raises:
        BadPipeline: it is no YAML, or YAML that means something else than it seems to.
    """

    def __init__(self, text: str, file: str) -> None:
        self.file = file
        try:
            self.root = yaml.compose(text, Loader=Loader)
            self._check(self.root, (), {})
            self.value: Any = yaml.load(text, Loader)
        except yaml.MarkedYAMLError as error:
            mark = error.problem_mark or error.context_mark
            why = " ".join(filter(None, (error.context, error.problem)))
            raise self._bad(mark.line + 1 if mark else 1, "YAML", why) from error
        except yaml.YAMLError as error:
            raise self._bad(1, "YAML", " ".join(str(error).split())) from error
        except RecursionError as error:
            raise self._bad(1, "YAML", "is nested too deeply") from error

    def _bad(self, line: int, key: str, why: str) -> BadPipeline:
        return BadPipeline(file=self.file, line=line, key=key, why=why)

    def _check(
        self, node: yaml.Node | None, around: tuple[yaml.Node, ...], sizes: dict[int, int]
    ) -> int:
        """Refuse what the loader would take without a word: equal keys, of which it keeps the last,
        what contains itself, and anchors that make much of little. Returns the number of values
        in `node`; `sizes` knows those of nodes that were looked at."""
        if node is None:
            return 0
        line = node.start_mark.line + 1
        if node in around:
            raise self._bad(line, "YAML", "an anchor contains itself")
        if id(node) in sizes:
            return sizes[id(node)]
        inside: list[yaml.Node] = []
        if isinstance(node, yaml.MappingNode):
            inside = [value for _, value in node.value]
            self._check_keys(node)
        elif isinstance(node, yaml.SequenceNode):
            inside = node.value
        size = 1 + sum(self._check(value, (*around, node), sizes) for value in inside)
        if size > MOST:
            raise self._bad(
                line,
                "YAML",
                f"there are more than {MOST} values in it, or its anchors repeat as many",
            )
        sizes[id(node)] = size
        return size

    def _check_keys(self, node: yaml.MappingNode) -> None:
        seen: set[str] = set()
        for key, _ in node.value:
            line = key.start_mark.line + 1
            if not isinstance(key, yaml.ScalarNode):
                raise self._bad(line, "YAML", "a key must be a word")
            if key.value in seen:
                raise self._bad(line, key.value, "stands twice")
            seen.add(key.value)

    def line(self, key: Key) -> int:
        """The line of `key`, or of the nearest key around it that is there."""
        node, line = self.root, 1
        for step in key:
            if isinstance(node, yaml.MappingNode):
                found = next((pair for pair in node.value if pair[0].value == step), None)
                if found is None:
                    break
                line, node = found[0].start_mark.line + 1, found[1]
            elif isinstance(node, yaml.SequenceNode) and isinstance(step, int):
                node = node.value[step]
                line = node.start_mark.line + 1
            else:
                break
        return line

    def error(self, key: Key, why: str) -> BadPipeline:
        """The error that names `key` and its line."""
        shown = "".join(f"[{step}]" if isinstance(step, int) else f".{step}" for step in key)
        return self._bad(self.line(key), shown.removeprefix(".") or "the file", why)

    def convert(self, at: Key, value: Any, to: type[T], **known: Sequence[str]) -> T:
        """`value`, which stands at the key `at`, as a `to`; `known` lists the names under a key.

        Raises:
            BadPipeline: it does not fit; names the key inside it.
        """
        try:
            return msgspec.convert(value, to)
        except msgspec.ValidationError as error:
            why, _, path = str(error).partition(" - at `$")
            steps = [
                int(number) if number else name
                for name, number in re.findall(r"\.(\w+)|\[(\d+)\]", path)
            ]
            if unknown := re.fullmatch(r"Object contains unknown field `(.*)`", why):
                steps, why = [*steps, unknown[1]], "there is no such key"
            if why.startswith("Invalid enum value") and steps[0] in known:
                why += f"; known: {', '.join(known[str(steps[0])])}"
            raise self.error((*at, *steps), why) from error
