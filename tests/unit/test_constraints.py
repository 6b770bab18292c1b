"""constraints.txt pins all that `make setup` installs, to the last dependency of a dependency."""

from __future__ import annotations

import tomllib
from collections.abc import Iterator
from importlib import metadata
from pathlib import Path

from packaging.requirements import Requirement
from packaging.utils import canonicalize_name

ROOT = Path(__file__).parents[2]
EXTRAS = {"fleet", "gateway", "gpu", "lab", "research"}  # the extras that `make setup` installs
PINS = {
    canonicalize_name(name): version
    for name, version in (
        line.split("==")
        for line in (ROOT / "constraints.txt").read_text(encoding="utf-8").splitlines()
        if not line.startswith("#")
    )
}


def roots() -> list[Requirement]:
    project = tomllib.loads((ROOT / "pyproject.toml").read_text(encoding="utf-8"))
    groups = project["dependency-groups"].values()
    lines = [
        "pip",
        *project["build-system"]["requires"],
        *(line for group in groups for line in group),
    ]
    return [Requirement(f"corral[{','.join(EXTRAS)}]"), *map(Requirement, lines)]


def closure(todo: list[Requirement]) -> Iterator[Requirement]:
    """Every requirement that holds here and that `todo` leads to, themselves included."""
    seen: set[tuple[str, frozenset[str]]] = set()
    while todo:
        wanted = todo.pop()
        key = (canonicalize_name(wanted.name), frozenset(wanted.extras))
        if key in seen:
            continue
        seen.add(key)
        yield wanted
        for line in metadata.requires(wanted.name) or []:
            further = Requirement(line)
            if further.marker is None or any(
                further.marker.evaluate({"extra": extra}) for extra in ("", *wanted.extras)
            ):
                todo.append(further)


def pinned_by_its_parent(requirement: Requirement) -> bool:
    """Such as torch's CUDA libraries, where torch was built for a GPU."""
    return any(clause.operator == "==" for clause in requirement.specifier)


def test_every_requirement_is_pinned_and_installed_as_pinned() -> None:
    needed = [
        requirement
        for requirement in closure(roots())
        if requirement.name != "corral" and not pinned_by_its_parent(requirement)
    ]
    assert len(needed) > 40
    for requirement in needed:
        pin = PINS.get(canonicalize_name(requirement.name))
        assert pin is not None, f"{requirement} is not in constraints.txt"
        assert requirement.specifier.contains(pin)
        assert metadata.version(requirement.name).partition("+")[0] == pin


def test_constraints_are_sorted_and_pin_nothing_twice() -> None:
    lines = (ROOT / "constraints.txt").read_text(encoding="utf-8").splitlines()[1:]
    assert lines == sorted(lines, key=str.casefold)
    assert len(lines) == len(PINS)
