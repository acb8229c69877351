"""How a build shows itself: a live bar on a terminal, plain lines elsewhere. All of it on stderr."""

from __future__ import annotations

import sys
import time
from typing import TYPE_CHECKING, Any

import click

from edgecompile.units import format_ms, format_seconds, format_size

if TYPE_CHECKING:  # they bring NumPy in, which --help has no use for
    from edgecompile.artifact import StageRecord
    from edgecompile.stages.base import Progress

_PLAIN_EVERY = 15.0  # seconds between lines of progress where there is no terminal


class PlainDisplay:
    """One line when a stage starts, one when it ends, and a few in between for long ones."""

    def __init__(self) -> None:
        self._last = 0.0
        self._epoch = ""

    def __enter__(self) -> PlainDisplay:
        return self

    def __exit__(self, *_: object) -> None:
        pass

    def stage(self, number: int, total: int, name: str) -> None:
        self._last = time.monotonic()
        self.line(f"[{number}/{total}] {name}")

    def progress(self, progress: Progress) -> None:
        if not progress.total:
            self.line(f"      {progress.text}")
            return
        now = time.monotonic()
        if progress.text != self._epoch or now - self._last > _PLAIN_EVERY:
            self._epoch = progress.text
            self._last = now
            self.line(f"      {progress.text}, {progress.done}/{progress.total}")

    def done(self, record: StageRecord, cached: bool) -> None:
        self.line(f"      {outcome(record, cached)}")

    def line(self, text: str) -> None:
        click.echo(text, err=True)


class LiveDisplay(PlainDisplay):
    """A progress bar below the lines of what is done."""

    def __init__(self) -> None:
        super().__init__()
        from rich.console import Console
        from rich.progress import BarColumn, MofNCompleteColumn, SpinnerColumn, TextColumn, TimeElapsedColumn
        from rich.progress import Progress as Bars

        self._console = Console(stderr=True, highlight=False)
        self._bars = Bars(
            SpinnerColumn(),
            TextColumn("{task.description}"),
            BarColumn(bar_width=30),
            MofNCompleteColumn(),
            TimeElapsedColumn(),
            console=self._console,
            transient=True,
        )
        self._bar: Any = None
        self._title = ""

    def __enter__(self) -> LiveDisplay:
        self._bars.start()
        return self

    def __exit__(self, *_: object) -> None:
        self._bars.stop()

    def stage(self, number: int, total: int, name: str) -> None:
        self._title = f"[{number}/{total}] {name}"
        self._end()
        self._bar = self._bars.add_task(self._escaped(self._title), total=None)

    def progress(self, progress: Progress) -> None:
        if not progress.total:
            self.line(f"  {progress.text}")
        elif self._bar is not None:
            title = self._escaped(f"{self._title}: {progress.text}")
            self._bars.update(self._bar, description=title, completed=progress.done, total=progress.total)

    def done(self, record: StageRecord, cached: bool) -> None:
        self._end()
        self.line(f"{self._title}: {outcome(record, cached)}")

    def line(self, text: str) -> None:
        self._console.print(self._escaped(text), soft_wrap=True)

    def _end(self) -> None:
        if self._bar is not None:
            self._bars.remove_task(self._bar)
            self._bar = None

    @staticmethod
    def _escaped(text: str) -> str:
        return text.replace("[", r"\[")


def outcome(record: StageRecord, cached: bool) -> str:
    """What a stage came to, in a line."""
    parts = [f"done before ({record.date})" if cached else f"done in {format_seconds(record.seconds)}"]
    metrics = record.metrics
    if "bytes" in metrics:
        parts.append(format_size(metrics["bytes"]))
    if "validation" in metrics:
        parts.append(f"validation {metrics['validation_metric']} {metrics['validation']:.4f}")
    if "test" in metrics:
        parts.append(f"test {metrics['test']:.4f}")
    if "max_diff" in metrics:
        parts.append(f"maximal difference {metrics['max_diff']:.1e} of the output's range")
    if record.stage == "benchmark":
        parts += [f"{name} p50 {format_ms(m['latency_p50'])}" for name, m in metrics.items()]
    return ", ".join([*parts, *record.notes])


def make_display() -> PlainDisplay:
    return LiveDisplay() if sys.stderr.isatty() else PlainDisplay()
