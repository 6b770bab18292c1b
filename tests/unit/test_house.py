"""The package as a whole: what can be imported from where, and at what price. No behaviour."""

from __future__ import annotations

import ast
import importlib
import importlib.metadata
import subprocess
import sys
from importlib.metadata import entry_points
from pathlib import Path

import pytest

import corral
from corral import handlers

ROOT = Path(__file__).parents[2]
PURE = ["broker.core", "worker.core", "corral.tasks", "corral.messages", "corral.wire"]
SCRIPTS = {
    "corral": "corral",
    "corral-broker": "broker",
    "corral-gateway": "corral",
    "corral-worker": "worker",
}


def loaded_by(statement: str) -> set[str]:
    """The top-level modules that a fresh interpreter has loaded after `statement`."""
    show = "print(*{name.partition('.')[0] for name in sys.modules})"
    found = subprocess.run(
        [sys.executable, "-I", "-c", f"import sys; {statement}; {show}"],
        check=True,
        capture_output=True,
        text=True,
    )
    return set(found.stdout.split())


@pytest.mark.parametrize("name", dir(corral))
def test_each_public_name_resolves(name: str) -> None:
    assert getattr(corral, name) is not None


def test_public_names_are_the_ones_that_type_checkers_see() -> None:
    tree = ast.parse(Path(corral.__file__).read_text(encoding="utf-8"))
    block = next(node for node in tree.body if isinstance(node, ast.If))
    imported = {
        (node.module, alias.asname)
        for node in block.body
        if isinstance(node, ast.ImportFrom)
        for alias in node.names
    }
    public = {name for _, name in imported} | {"__version__"}
    assert public == set(dir(corral))
    for module, name in imported:
        assert getattr(corral, str(name)) is getattr(
            importlib.import_module(str(module)), str(name)
        )


def test_the_version_is_the_distribution_s() -> None:
    assert corral.__version__ == importlib.metadata.version("corral")


def test_an_unknown_name_is_an_attribute_error() -> None:
    with pytest.raises(AttributeError, match="'corral' has no attribute 'Cleint'"):
        _ = corral.Cleint


def test_import_corral_is_lazy() -> None:
    assert not loaded_by("import corral") & {"zmq", "msgspec", "apsw", "click", "rich", "psutil"}


@pytest.mark.parametrize("module", PURE)
def test_a_pure_module_brings_no_sockets(module: str) -> None:
    assert not loaded_by(f"import {module}") & {"zmq", "asyncio", "socket", "apsw"}


@pytest.mark.parametrize("kind", sorted(handlers.discover()))
def test_each_handler_loads_without_the_heavy_libraries(kind: str) -> None:
    assert handlers.load(kind).kind == kind
    statement = f"from corral import handlers; handlers.load({kind!r})"
    assert not loaded_by(statement) & {"torch", "sklearn", "lightgbm", "pandas"}


def test_console_scripts_are_installed_and_resolve() -> None:
    found = {
        entry.name: entry
        for entry in entry_points(group="console_scripts")
        if entry.dist and entry.dist.name == "corral"
    }
    assert {name: entry.module.partition(".")[0] for name, entry in found.items()} == SCRIPTS
    for name, entry in found.items():
        assert callable(entry.load())
        assert (Path(sys.executable).parent / name).exists()


@pytest.mark.parametrize("package", ["corral", "broker", "worker"])
def test_each_package_is_marked_as_typed(package: str) -> None:
    assert (ROOT / package / "py.typed").exists()
