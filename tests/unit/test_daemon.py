"""What all daemons have in common: they run on their own modules alone, and say how they failed."""

from __future__ import annotations

from pathlib import Path
from types import ModuleType

import click
import pytest

import corral
from corral import daemon
from corral.errors import Intruder, Usage

HOME = Path(corral.__file__).parents[1]


def test_a_module_of_another_place_is_named() -> None:
    shadow = ModuleType("worker")
    shadow.__file__ = "/home/ann/worker/__init__.py"
    with pytest.raises(Intruder) as refused:
        daemon.check_origin(HOME, corral, shadow)
    assert "worker was imported from /home/ann/worker/__init__.py" in refused.value.message


def test_an_error_of_ours_is_two_lines_and_a_status(
    capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    @click.command()
    def broken() -> None:
        raise Usage(what="nothing fits")

    monkeypatch.setattr("sys.argv", ["corral-test"])
    with pytest.raises(SystemExit) as ended:
        daemon.run(broken, "corral-test", HOME, corral)
    error = Usage(what="nothing fits")
    assert ended.value.code == error.exit_status == 2
    assert capsys.readouterr().err == f"{error.message}\n{error.cure}\n"
