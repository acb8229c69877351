"""The command line: parse, call the library, print. TensorFlow is never imported for --help."""

from __future__ import annotations

import io
import signal
import sys
import traceback
from importlib import import_module
from typing import Any

import click

from edgecompile import __version__
from edgecompile.errors import INTERRUPTED, EdgecompileError, internal_error

# Each command is a module of this package, imported when it is asked for: that keeps --help fast.
COMMANDS = {
    "build": "From a trained model to a verified, measured bundle for a target.",
    "verify": "Recompute a bundle's accuracy and parity.",
    "bench": "Measure latency and memory of bundles or .tflite files on this machine.",
    "devices": "The boards that models are measured on.",
    "diff": "Find the first layer where two models part, and how far each of their tensors is apart.",
    "inspect": "Show the operators, shapes, quantization, sizes and MACs of a model or bundle.",
    "targets": "What can be built for.",
    "models": "The built-in models and their training.",
    "recipes": "The ways to compress a model.",
    "doctor": "What is installed, what is missing, and how to get it.",
    "cache": "Look at the cache and shrink it.",
    "completion": "Print the script that completes commands in your shell.",
}


class Lazy(click.Group):
    """A group whose commands are imported when they are run."""

    def list_commands(self, ctx: click.Context) -> list[str]:
        del ctx
        return list(COMMANDS)

    def get_command(self, ctx: click.Context, cmd_name: str) -> click.Command | None:
        del ctx
        if cmd_name not in COMMANDS:
            return None
        module = import_module(f"edgecompile.cli.{cmd_name}")
        command: click.Command = module.command
        return command

    def format_commands(self, ctx: click.Context, formatter: click.HelpFormatter) -> None:
        del ctx
        with formatter.section("Commands"):
            formatter.write_dl(list(COMMANDS.items()))

    def resolve_command(
        self, ctx: click.Context, args: list[str]
    ) -> tuple[str | None, click.Command | None, list[str]]:
        from edgecompile.errors import perhaps

        if args and args[0] not in COMMANDS and not args[0].startswith("-"):
            raise click.UsageError(f"there is no command {args[0]!r}; {perhaps(args[0], COMMANDS)}", ctx)
        return super().resolve_command(ctx, args)


@click.group(cls=Lazy, context_settings={"help_option_names": ["-h", "--help"]})
@click.version_option(__version__, prog_name="edgecompile")
def group() -> None:
    """Compile trained models for boards: compress, convert, verify, measure and package.

    \b
    Example:
      edgecompile build digits --target host
    """


def main(arguments: list[str] | None = None) -> Any:
    """The console script: runs a command, and turns whatever goes wrong into a message and an exit code."""
    signal.signal(signal.SIGTERM, _interrupt)
    if signal.getsignal(signal.SIGINT) != signal.SIG_IGN:  # of what a shell starts in the background
        signal.signal(signal.SIGINT, _interrupt)
    if isinstance(sys.stdout, io.TextIOWrapper):
        # A file name that the terminal's encoding lacks must not end a build that is done. stderr does so by itself.
        sys.stdout.reconfigure(errors="backslashreplace")
    try:
        code = group.main(args=arguments, prog_name="edgecompile", standalone_mode=False)
    except click.exceptions.Exit as leave:
        code = leave.exit_code
    except (click.Abort, KeyboardInterrupt):
        click.echo("interrupted; the same command goes on from here", err=True)
        code = INTERRUPTED
    except click.ClickException as error:
        error.show()
        code = error.exit_code
    except BrokenPipeError:
        sys.stderr.close()
        code = 1
    except Exception as error:
        if _interrupted:  # a library took the interrupt for an error of its own
            click.echo("interrupted; the same command goes on from here", err=True)
            code = INTERRUPTED
        else:  # a fault of ours: the traceback goes to a file, the message says where
            code = _internal(error)
    sys.exit(code if isinstance(code, int) else 0)


_interrupted: list[int] = []


def _interrupt(number: int, frame: object) -> None:
    del frame
    _interrupted.append(number)
    raise KeyboardInterrupt


def _internal(error: Exception) -> int:
    from edgecompile.cache import cache_root, system_error

    known: EdgecompileError | None = system_error(error, "the output") if isinstance(error, OSError) else None
    if known is None:
        log = cache_root() / "logs" / "internal-error.txt"
        try:
            log.parent.mkdir(parents=True, exist_ok=True)
            log.write_text(traceback.format_exc())
            where = f"the traceback is in {log}"
        except OSError:
            where = f"its traceback couldn't be written to {log}"
        known = internal_error(f"a fault in edgecompile: {type(error).__name__}: {error}", f"report it; {where}")
    known.show()
    return known.exit_code
