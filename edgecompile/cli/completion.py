"""edgecompile completion"""

from __future__ import annotations

import click


@click.command("completion")
@click.argument("shell", type=click.Choice(["bash", "zsh", "fish"]))
def command(shell: str) -> None:
    """Print the script that completes commands in your shell.

    \b
    Examples:
      edgecompile completion bash >> ~/.bashrc
      edgecompile completion zsh >> ~/.zshrc
      edgecompile completion fish > ~/.config/fish/completions/edgecompile.fish
    """
    from click.shell_completion import get_completion_class

    from edgecompile.cli import group

    kind = get_completion_class(shell)
    assert kind is not None  # click knows all that the argument allows
    click.echo(kind(group, {}, "edgecompile", "_EDGECOMPILE_COMPLETE").source())
