"""All commands by name, and what becomes of an error: message, cause, next command, exit status.

A command's module is imported when it is run. What it does lives there.
"""

from __future__ import annotations

import importlib
import io
import os
import sys
from collections.abc import Sequence
from typing import Any

import click

from corral.cli.output import coloured, talk
from corral.errors import CorralError, Usage

DETACHED, PIPE_CLOSED = 130, 141  # 128 + SIGINT, 128 + SIGPIPE

#: name -> where it is, and its line in `corral --help`
COMMANDS = {
    "up": ("corral.cli.up:up", "Run a broker, workers and a gateway here, until Ctrl-C."),
    "task": ("corral.cli.task:task", "Submit tasks, and see what becomes of them."),
    "pipeline": ("corral.cli.pipeline:pipeline", "Run a graph of research tasks from a file."),
    "worker": ("corral.cli.worker:worker", "Start, list, drain and resume workers."),
    "broker": ("corral.cli.broker:broker", "Start a broker, see how it does, check its store."),
    "gateway": ("corral.cli.gateway:gateway", "Start the REST door, and make tokens for it."),
    "keys": ("corral.cli.keys:keys", "Make keys, let them in, take access away."),
    "top": ("corral.cli.top:top", "Watch workers and tasks, live."),
    "lab": ("corral.cli.lab:lab", "Run a Proxmox-like cluster on this machine."),
    "doctor": ("corral.cli.doctor:doctor", "Check broker, workers and this machine."),
    "config": ("corral.cli.config:config", "Show every setting and where it comes from."),
    "completion": ("corral.cli.completion:completion", "Print the completion script of a shell."),
}


WHOLE = 200  # characters; click's own limit would cut the lines off


class Noun(click.Group):
    """A group whose help tells the first sentence of each command to its end."""

    def format_commands(self, ctx: click.Context, formatter: click.HelpFormatter) -> None:
        with formatter.section("Commands"):
            told = [(name, self.commands[name]) for name in self.list_commands(ctx)]
            formatter.write_dl([(name, inner.get_short_help_str(WHOLE)) for name, inner in told])


class Root(click.Group):
    """A group that knows its commands' help without importing them."""

    def list_commands(self, ctx: click.Context) -> list[str]:
        return list(COMMANDS)

    def get_command(self, ctx: click.Context, cmd_name: str) -> click.Command | None:
        if cmd_name not in COMMANDS:
            return None
        module, _, name = COMMANDS[cmd_name][0].partition(":")
        found: click.Command = getattr(importlib.import_module(module), name)
        return found

    def resolve_command(
        self, ctx: click.Context, args: list[str]
    ) -> tuple[str | None, click.Command | None, list[str]]:
        try:
            return super().resolve_command(ctx, args)
        except click.exceptions.NoSuchCommand as wrong:  # click knows none, so it suggests none
            name = wrong.command_name
            raise click.exceptions.NoSuchCommand(name, possibilities=COMMANDS, ctx=ctx) from None

    def invoke(self, ctx: click.Context) -> Any:
        try:
            return super().invoke(ctx)
        except BrokenPipeError:
            _drop_output()
            raise click.exceptions.Exit(PIPE_CLOSED) from None  # click itself would end with 1

    def format_commands(self, ctx: click.Context, formatter: click.HelpFormatter) -> None:
        with formatter.section("Commands"):
            formatter.write_dl([(name, line) for name, (_, line) in COMMANDS.items()])


def _version(ctx: click.Context, _: click.Parameter, wanted: bool) -> None:
    if wanted:
        import corral

        click.echo(corral.__version__)
        ctx.exit()


@click.group(cls=Root, context_settings={"help_option_names": ["-h", "--help"]})
@click.option("--version", is_flag=True, callback=_version, expose_value=False, is_eager=True)
def corral() -> None:
    """Corral runs research tasks on a fleet of workers, GPU first, and loses none.

    \b
    Begin with:   corral up
    Then, beside: corral task submit echo text=hello --wait

    Exit status: 0 done, 1 task failed, 2 usage, 3 not found, 4 not allowed, 5 broker unreachable,
    6 accepted but nothing can run it, 7 timed out waiting, 8 cancelled, 130 detached.
    """


def run(arguments: Sequence[str] | None = None) -> int:
    """Run a command; returns the exit status."""
    try:
        status = corral.main(arguments, prog_name="corral", standalone_mode=False)
        sys.stdout.flush()
        return status if isinstance(status, int) else 0
    except CorralError as error:
        tell(error)
        return error.exit_status
    except click.exceptions.Exit as wanted:
        return wanted.exit_code
    except click.ClickException as wrong:
        told = io.StringIO()
        wrong.show(told)
        talk(*told.getvalue().removesuffix("\n").split("\n"))
        return wrong.exit_code
    except (click.Abort, KeyboardInterrupt):
        talk("", "Detached; nothing was cancelled.")
        return DETACHED
    except BrokenPipeError:
        _drop_output()
        return PIPE_CLOSED
    except OSError as error:
        if error.filename is not None:
            refused: CorralError = Usage(what=f"{error.filename}: {error.strerror}")
        else:
            _drop_output()
            refused = CorralError(what=f"the output cannot be written: {error.strerror}")
        tell(refused)
        return refused.exit_status


def _drop_output() -> None:
    """Whoever read stdout has gone: what is left to flush goes nowhere."""
    os.dup2(os.open(os.devnull, os.O_WRONLY), sys.stdout.fileno())


def tell(error: CorralError) -> None:
    """An error for a person, on stderr: what and why, then what to do."""
    where = "".join(f" ({note})" for note in getattr(error, "__notes__", ()))
    talk(error.message + where, before=coloured("error: ", "red"))
    if error.cure:
        talk(f"  {error.cure}")
