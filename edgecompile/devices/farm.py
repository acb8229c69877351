"""The same work on several boards at once: each in a thread; one that fails is named, and the rest go on."""

from __future__ import annotations

import threading
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import Generic, TypeVar

from edgecompile.devices.board import Board
from edgecompile.devices.inventory import Entry
from edgecompile.devices.opening import open_board
from edgecompile.errors import EdgecompileError, InternalError
from edgecompile.stages.base import Progress

T = TypeVar("T")


@dataclass(frozen=True)
class OnBoard(Generic[T]):
    """What the work gave on a board, or what stopped it."""

    entry: Entry
    result: T | None
    problem: EdgecompileError | None


def on_all(
    entries: Sequence[Entry],
    work: Callable[[Board, Callable[[Progress], None]], T],
    *,
    runtime: str,
    report: Callable[[Progress], None],
) -> list[OnBoard[T]]:
    """`work(board, report)` on each, in the order of `entries`. Progress carries the board's name."""
    lock, stopped = threading.Lock(), threading.Event()
    opened: list[Board] = []
    found: dict[int, OnBoard[T]] = {}

    def on_one(number: int, entry: Entry) -> None:
        def told(progress: Progress) -> None:
            with lock:
                report(Progress(f"{entry.name}: {progress.text}", progress.done, progress.total))

        try:
            with open_board(entry, runtime) as board:
                opened.append(board)
                if not stopped.is_set():
                    found[number] = OnBoard(entry, work(board, told), None)
        except EdgecompileError as problem:
            found[number] = OnBoard(entry, None, problem)
        except Exception as problem:
            found[number] = OnBoard(entry, None, InternalError(f"{entry.name}: {type(problem).__name__}: {problem}"))

    # Daemons: one that is about to connect may take a minute to notice that nobody waits for it any more.
    threads = [threading.Thread(target=on_one, args=each, daemon=True) for each in enumerate(entries)]
    for thread in threads:
        thread.start()
    try:
        for thread in threads:
            thread.join()
    except KeyboardInterrupt:
        stopped.set()
        for board in opened:  # ends what its thread waits for, and what runs there
            board.close()
        raise
    return [found[number] for number in range(len(entries))]
