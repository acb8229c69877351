"""Every error a user can meet, each with its exit code.

A message says what happened, what was expected and what was received; `hint` says what to try.
Click's own codes (1, 2) keep their meaning, ours start at 10, and Ctrl-C is 130. The table in
docs/exit-codes.md is generated from this file.
"""

from __future__ import annotations

import difflib
from collections.abc import Iterable
from typing import IO, Any

import click

INTERRUPTED = 130


class EdgecompileError(click.ClickException):
    """Base of all errors that are the user's to know about."""

    exit_code = 10
    summary = "an error without a class of its own"

    def __init__(self, message: str, *, hint: str | None = None) -> None:
        super().__init__(message)
        self.hint = hint

    def __reduce__(self) -> tuple[Any, ...]:
        # Errors cross from the worker process to the command by pickle; the keyword must survive.
        return _rebuild, (type(self), self.message, self.hint)

    def format_message(self) -> str:
        return f"{self.message}\n  Try: {self.hint}" if self.hint else self.message

    def show(self, file: IO[Any] | None = None) -> None:
        click.echo(f"Error: {self.format_message()}", file=file, err=file is None)


def _rebuild(kind: type[EdgecompileError], message: str, hint: str | None) -> EdgecompileError:
    return kind(message, hint=hint)


class ModelError(EdgecompileError):
    exit_code = 11
    summary = "the model file is missing, damaged or of an unknown format"


class UnsafeModelError(EdgecompileError):
    exit_code = 12
    summary = "the model carries code (Lambda, pickle) and --allow-unsafe was not given"


class UnsupportedLayerError(EdgecompileError):
    exit_code = 13
    summary = "a layer or operator that the recipe, or the model format, can't take"


class BridgeError(EdgecompileError):
    exit_code = 14
    summary = "the Keras 3 model, rebuilt for training, doesn't compute what the original does"


class NonFiniteError(EdgecompileError):
    exit_code = 15
    summary = "NaN or infinity in weights or outputs"


class DataError(EdgecompileError):
    exit_code = 16
    summary = "the data is missing, damaged, or doesn't fit the model"


class TargetError(EdgecompileError):
    exit_code = 17
    summary = "an unknown target or a faulty target file"


class RecipeError(EdgecompileError):
    exit_code = 18
    summary = "an unknown recipe, a faulty recipe file, or a recipe that can't be used here"


class ProjectFileError(EdgecompileError):
    exit_code = 19
    summary = "edgecompile.toml is faulty"


class AccuracyGateError(EdgecompileError):
    exit_code = 20
    summary = "gate: the metric dropped by more than --max-drop"


class ParityGateError(EdgecompileError):
    exit_code = 21
    summary = "gate: an engine's outputs differ too far from the reference kernels', or (diff) two models part"


class SizeGateError(EdgecompileError):
    exit_code = 22
    summary = "gate: the model is over --max-size or the target's limit"


class LatencyGateError(EdgecompileError):
    exit_code = 23
    summary = "gate: latency is over --max-latency"


class CompressionGateError(EdgecompileError):
    exit_code = 24
    summary = "gate: a compression stage did not reach what its recipe promises"


class BudgetError(EdgecompileError):
    exit_code = 25
    summary = "--budget-minutes is too short for one epoch of training"


class ConversionError(EdgecompileError):
    exit_code = 30
    summary = "a converter or quantizer refused the model"


class WorkerCrashError(EdgecompileError):
    exit_code = 31
    summary = "a library died of a signal (a crash in its native code) while it converted or trained"


class WorkerTimeoutError(EdgecompileError):
    exit_code = 32
    summary = "a library came to no end with the model, and was stopped"


class BundleError(EdgecompileError):
    exit_code = 40
    summary = "not a bundle, or a damaged manifest"


class VerifyError(EdgecompileError):
    exit_code = 41
    summary = "verify: the bundle doesn't hold what its manifest says"


class ChangedFileError(EdgecompileError):
    exit_code = 42
    summary = "a file of a bundle isn't the one that was built: it is not loaded"


class OutputError(EdgecompileError):
    exit_code = 50
    summary = "the output or cache folder can't be read or written"


class DiskFullError(EdgecompileError):
    exit_code = 51
    summary = "no space left on the device"


class MissingDependencyError(EdgecompileError):
    exit_code = 60
    summary = "a package that this command needs is not installed"


class ToolchainError(EdgecompileError):
    exit_code = 66
    summary = "a compiler that this target needs is not installed"


class DeviceError(EdgecompileError):
    exit_code = 61
    summary = "the runner failed on the device"


class ConnectionFailedError(EdgecompileError):
    exit_code = 62
    summary = "the board can't be reached, doesn't let us in, or the connection was cut"


class HostKeyError(EdgecompileError):
    exit_code = 63
    summary = "the board's host key is unknown, or another than before"


class ProvisioningError(EdgecompileError):
    exit_code = 64
    summary = "the board can't be given a runtime: no wheel for it, no usable Python, no space"


class DeviceTimeoutError(EdgecompileError):
    exit_code = 65
    summary = "nothing was heard from the device for too long"


class InternalError(EdgecompileError):
    exit_code = 70
    summary = "a fault of edgecompile's own; the message names the file with the traceback"


def internal_error(message: str, hint: str) -> EdgecompileError:
    """What failed in a way that nothing foresaw: packages that don't fit together, where there are any, else a fault of
    ours."""
    from edgecompile.environment import misfits

    found = misfits()
    if found:
        return MissingDependencyError(
            f"{message}; packages don't fit together: {'; '.join(map(str, found))}",
            hint="; ".join(dict.fromkeys(each.cure for each in found)),
        )
    return InternalError(message, hint=hint)


def perhaps(name: str, known: Iterable[str]) -> str:
    """A hint for a misspelt name: "perhaps you meant ..." or the list of all there is."""
    options = sorted(known)
    close = difflib.get_close_matches(name, options, n=1, cutoff=0.5)
    return f"perhaps you meant {close[0]!r}" if close else "known: " + ", ".join(options)


def all_errors() -> list[type[EdgecompileError]]:
    """Every error class, by exit code."""
    return sorted(EdgecompileError.__subclasses__(), key=lambda kind: kind.exit_code)
