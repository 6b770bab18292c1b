"""`corral keys`: make keys, let them in, list them, take access away."""

from __future__ import annotations

import time
from collections.abc import Sequence
from pathlib import Path
from typing import TYPE_CHECKING

import click

from corral.cli.options import connect, connected, loaded
from corral.cli.output import Output, talk
from corral.cli.root import Noun
from corral.errors import Usage

if TYPE_CHECKING:
    from corral.client import Client
    from corral.keys import KeyFile
    from corral.messages import KeyView

ROLES = ("client", "viewer", "operator", "worker")
FIRST = "operator"

role_ = click.option("--role", type=click.Choice(ROLES), help="What its holder may do.")


@click.group(cls=Noun)
def keys() -> None:
    """Make keys, let them in, take access away.

    A client submits and cancels, a viewer looks, a worker works, an operator does everything.
    """


@keys.command()
@role_
@click.option("--name", help="Whose it is. Default: the role.")
@click.option(
    "--keys",
    "folder",
    type=click.Path(path_type=Path),
    help="Folder of a broker that does not run yet; its own key is made too.",
)
@click.option(
    "--out", "path", type=click.Path(path_type=Path), help="Key file to write. Default: NAME.key."
)
@click.option("--broker", metavar="ENDPOINT[,ENDPOINT]", help="The broker that is to know it.")
@click.option("--key", metavar="FILE", type=click.Path(), help="Your operator's key.")
@click.option(
    "--broker-key", metavar="PUBLIC", help="The broker's public key: make the file, ask nobody."
)
def new(
    role: str | None,
    name: str | None,
    folder: Path | None,
    path: Path | None,
    broker: str | None,
    key: str | None,
    broker_key: str | None,
) -> None:
    """Make a key file for somebody and let it in. Prints the file's path.

    \b
      corral keys new --keys DIR                          the broker's pair, and an operator's key
      corral keys new --keys DIR --role worker --name w1  one more, before the first start
      corral keys new --role client --name ann            on a running broker, by your own key
      corral keys new --role worker --broker-key PUBLIC   for `corral keys add` to let in
    """
    from corral import keys as files

    if role is None:
        if folder is None or files.table(folder):
            raise click.UsageError(f"Say with --role what it may do: {', '.join(ROLES)}.")
        role = FIRST
    name = name or role
    if "/" in name and path is None:
        raise Usage(what=f"{name} cannot name a file; say with --out where the key goes")
    target = path or (folder or Path()) / f"{name}.key"
    if target.exists():
        raise Usage(what=f"{target} exists; keys are never overwritten")
    if broker_key is not None:
        made = files.new_key(name, role, broker_key)
        files.write(target, made)
        click.echo(target)
        talk(f"Nobody knows it yet: corral keys add '{made.public}' --role {role} --name {name}")
        return
    made = _new_here(folder, name, role) if folder else _new_there(name, role, broker, key)
    files.write(target, made)
    click.echo(target)
    talk(f"{name} may come in as {role}. Whoever has the file: export CORRAL_KEY={target}")


def _new_here(folder: Path, name: str, role: str) -> KeyFile:
    from corral import keys as files

    return files.enrol(folder, name, role, time.time())


def _new_there(name: str, role: str, broker: str | None, key: str | None) -> KeyFile:
    """A key that a running broker knows, made here: the secret never travels."""
    from corral import keys as files

    own = loaded({"endpoints": broker, "key": key}).settings.key
    if not own:
        raise Usage(what="to let somebody in, name your operator's key with --key or CORRAL_KEY")
    made = files.new_key(name, role, files.read(Path(own)).broker)
    with connect(broker, key) as client:
        client.add_key(made.public, role, name)
    return made


def _print(out: Output, found: Sequence[KeyView]) -> None:
    from corral.cli.views import KEY_COLUMNS

    out.listing(found, KEY_COLUMNS, lambda one: one.name)


@keys.command()
@click.argument("public")
@click.option("--name", required=True, help="Whose it is.")
@role_
@connected
def add(client: Client, out: Output, public: str, name: str, role: str | None) -> None:
    """Let the holder of a PUBLIC key in that was made elsewhere."""
    if role is None:
        raise click.UsageError(f"Say with --role what {name} may do: {', '.join(ROLES)}.")
    added = [one for one in client.add_key(public, role, name) if one.public == public]
    _print(out, added)


@keys.command("list")
@connected
def list_(client: Client, out: Output) -> None:
    """List the keys that the broker knows, revoked ones too."""
    _print(out, client.keys())


@keys.command()
@click.argument("name")
@connected
def revoke(client: Client, out: Output, name: str) -> None:
    """Take access from a key, by its name or its public half; its holder is dropped at once."""
    found = [one for one in client.revoke_key(name) if name in (one.name, one.public)]
    _print(out, found)
