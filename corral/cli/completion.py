"""`corral completion`: the script that lets a shell complete commands, options and live ids."""

from __future__ import annotations

import click

#: shell -> what makes it complete from now on
LASTING = {
    "bash": "corral completion bash | install -D -m 644 /dev/stdin"
    " ~/.local/share/bash-completion/completions/corral",
    "zsh": "echo 'eval \"$(corral completion zsh)\"' >> ~/.zshrc",
    "fish": "corral completion fish | install -D -m 644 /dev/stdin"
    " ~/.config/fish/completions/corral.fish",
}


@click.command()
@click.argument("shell", type=click.Choice(tuple(LASTING)))
def completion(shell: str) -> None:
    """Print the completion script of a shell; ids and names come from the live broker.

    \b
      bash   source <(corral completion bash)
      zsh    source <(corral completion zsh)
      fish   corral completion fish | source

    Each says on stderr how to keep it.
    """
    from click import shell_completion

    from corral.cli.root import corral

    # Made by hand: click's own way asks bash for its version, and the shell may not be here.
    complete = shell_completion.get_completion_class(shell)
    assert complete is not None
    maker = complete(corral, {}, "corral", "_CORRAL_COMPLETE")
    click.echo(maker.source_template % maker.source_vars())
    click.echo(f"To keep it: {LASTING[shell]}", err=True)
