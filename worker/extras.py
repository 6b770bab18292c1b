"""Which extra of which distribution brings a module that a handler lacks, and how to install it."""

from __future__ import annotations

import re
from collections.abc import Iterator
from importlib.metadata import Distribution, EntryPoint, PackageNotFoundError, version

from msgspec import Struct

# Modules that are named otherwise than their distribution.
_DISTRIBUTIONS = {"sklearn": "scikit-learn", "yaml": "pyyaml", "pynvml": "nvidia-ml-py"}
_REQUIREMENT = re.compile(r"\s*([\w.-]+).*?\bextra\s*==\s*['\"]([\w.-]+)['\"].*")


class Lack(Struct, frozen=True):
    """Something that must be installed before a handler can run."""

    install: str  #: an extra of the handler's distribution, or else the missing distribution
    text: str  #: what is missing, and the pip command that brings it


def of_module(module: str, entry: EntryPoint | None) -> Lack:
    """The lack of `module`, which the handler at `entry` imports."""
    module = module.partition(".")[0]
    name = _DISTRIBUTIONS.get(module, module)
    owner = entry.dist if entry is not None else None
    for wanted, extra in _requirements(owner):
        if _normal(wanted) == _normal(name):
            assert owner is not None
            return _lack(f"the Python module {module}", f"{owner.name}[{extra}]")
    return _lack(f"the Python module {module}", name)


def of_entry(entry: EntryPoint) -> Lack | None:
    """What an entry point with extras, such as `module:handler [research]`, lacks of them."""
    owner = entry.dist
    for name, extra in _requirements(owner):
        if extra in entry.extras and not _installed(name):
            assert owner is not None
            return _lack(f"the distribution {name}", f"{owner.name}[{extra}]")
    return None


def _lack(what: str, install: str) -> Lack:
    return Lack(install, f"{what} is not installed. Run: pip install '{install}'")


def _requirements(owner: Distribution | None) -> Iterator[tuple[str, str]]:
    """(distribution, extra that brings it) for all extras of `owner`."""
    for requirement in (owner.requires if owner is not None else None) or ():
        if found := _REQUIREMENT.fullmatch(requirement):
            yield found[1], found[2]


def _installed(name: str) -> bool:
    try:
        version(name)
    except PackageNotFoundError:
        return False
    return True


def _normal(name: str) -> str:
    return re.sub(r"[-_.]+", "-", name).lower()
