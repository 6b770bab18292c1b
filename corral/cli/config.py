"""`corral config`: every setting, its value, and where it comes from."""

from __future__ import annotations

from typing import Any

import click
from msgspec import Struct

from corral.cli.options import loaded, printed
from corral.cli.output import Output


class Setting(Struct, frozen=True):
    """One line of `corral config`."""

    key: str
    value: Any
    origin: str  #: default, a variable, or a file


@click.command()
@printed
def config(out: Output) -> None:
    """Show every setting and where it comes from.

    The first that names a setting decides: option, environment, ./corral.toml or ./corral.yaml,
    ~/.config/corral/config.toml or config.yaml, default. CORRAL_CONFIG names one file for both.
    A setting's variable is its key in capitals: CORRAL_WORKER_SLOTS for worker.slots.
    """
    import msgspec

    found = loaded()
    told = []
    for key, origin in found.origins.items():
        section, _, name = key.rpartition(".")
        holder = getattr(found.settings, section) if section else found.settings
        told.append(Setting(key, getattr(holder, name), origin))
    out.listing(
        told,
        {
            "setting": lambda one: one.key,
            "value": lambda one: msgspec.json.encode(one.value).decode(),
            "origin": lambda one: one.origin,
        },
        lambda one: one.key,
    )
