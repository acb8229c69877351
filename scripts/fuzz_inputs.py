#!/usr/bin/env python3
"""Changes inputs of every kind at random and gives them to the commands that read them.

Each must end in an answer or in an error of its own: no traceback (exit code 70), no signal, nothing that takes over a
minute. Rows go to a .jsonl file, which a second run goes on from; what a row changed is found again by its number.

    scripts/fuzz_inputs.py --count 2000 --out fuzz.jsonl
"""

from __future__ import annotations

import argparse
import contextlib
import io
import json
import multiprocessing
import os
import random
import signal
import sys
import tempfile
import time
import traceback
from collections import Counter
from multiprocessing.connection import Connection
from pathlib import Path
from typing import Any

ROOT = Path(__file__).resolve().parent.parent
sys.path[:0] = [str(ROOT), str(ROOT / "scripts")]

from fuzz_rows import mutations, subjects  # noqa: E402

LIMIT = 60.0  # seconds; what takes longer hangs
FAULT = 70
_AGAIN = 300  # inputs, after which a fresh process takes over: what libraries leave behind adds up


def changed(originals: dict[str, list[bytes]], seed: int, number: int) -> tuple[str, str, bytes, bool, list[str]]:
    """(kind, mutation, content, whether a bundle is sealed again, the command), the same for the same numbers."""
    rng = random.Random(f"{seed}:{number}")
    kind = sorted(originals)[number % len(originals)]
    content = rng.choice(originals[kind])
    mutation = rng.choice(mutations.OF_KIND[kind])
    commands = subjects.COMMANDS[kind]
    command = commands[number // len(originals) % len(commands)]
    made = content
    while made == content:
        made = mutation(content, rng)
    return kind, mutation.__name__, made, rng.random() < 0.7, list(command)


def serve(pipe: Connection, folder: str) -> None:
    """In a child: run commands as the command line does, all with one worker process."""
    from edgecompile import session
    from edgecompile.cli import main
    from edgecompile.worker import Worker

    os.chdir(folder)
    signal.signal(signal.SIGINT, signal.SIG_IGN)
    shared = Worker(Path(folder) / "worker.log")

    class Lasting:
        """The shared worker, which the end of a command doesn't end."""

        def __init__(self, log: Path, *, verbose: bool = False) -> None:
            del log, verbose
            self.log = Path(folder) / "none.log"
            self.call = shared.call

        def close(self) -> None:
            pass

    session.Worker = Lasting  # type: ignore[assignment,misc]
    while True:
        arguments = pipe.recv()
        out, err = io.StringIO(), io.StringIO()
        code: Any = 0
        with contextlib.redirect_stdout(out), contextlib.redirect_stderr(err):
            try:
                main(arguments)
            except SystemExit as ended:
                code = ended.code
            except BaseException:
                code = "traceback"
                traceback.print_exc()
        lines = [line for line in err.getvalue().splitlines() if "Error" in line] or err.getvalue().splitlines()
        pipe.send((code, lines[-1][:300] if lines else ""))


class Runner:
    """Commands in a child that may die or hang; it is started anew then."""

    def __init__(self, folder: Path) -> None:
        self._folder, self._process, self._done = folder, None, 0
        self._pipe: Any = None

    def run(self, arguments: list[str]) -> tuple[Any, str, float]:
        """(exit code, or how it ended otherwise; the error; seconds)"""
        if self._process is None or self._done >= _AGAIN:
            self.close()
            context = multiprocessing.get_context("spawn")
            self._pipe, theirs = context.Pipe()
            self._process = context.Process(target=serve, args=(theirs, str(self._folder)))
            self._process.start()
            theirs.close()
            self._done = 0
        self._done += 1
        began = time.monotonic()
        try:
            self._pipe.send(arguments)
            if not self._pipe.poll(LIMIT + 10.0 * (self._done == 1)):  # the first one imports everything
                self.close()
                return "hang", "", time.monotonic() - began
            code, error = self._pipe.recv()
        except (EOFError, BrokenPipeError, ConnectionResetError):
            assert self._process is not None
            self._process.join(10)
            code, error = f"signal {-(self._process.exitcode or 0)}", ""
            self.close()
        return code, error, time.monotonic() - began

    def close(self) -> None:
        if self._process is not None:
            self._process.kill()
            self._process.join()
            self._process = None


def is_fault(row: dict[str, Any]) -> bool:
    return row["code"] == FAULT or not isinstance(row["code"], int) or row["code"] < 0


def summary(rows: list[dict[str, Any]]) -> str:
    codes = Counter(row["code"] for row in rows)
    faults = [row for row in rows if is_fault(row)]
    kinds = sorted(Counter(row["kind"] for row in rows).items())
    lines = [
        f"{len(rows)} inputs: " + ", ".join(f"{n} of {kind}" for kind, n in kinds),
        "exit codes: " + ", ".join(f"{code}: {n}" for code, n in sorted(codes.items(), key=str)),
        f"slowest: {max((row['seconds'] for row in rows), default=0):.1f} s",
        f"faults: {len(faults)}",
    ]  # fmt: skip
    return "\n".join(lines + [json.dumps(row) for row in faults])


def main() -> int:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0] if __doc__ else "")
    parser.add_argument("--count", type=int, default=2000)
    parser.add_argument("--seed", type=int, default=0)
    parser.add_argument("--out", type=Path, default=Path("fuzz.jsonl"))
    parser.add_argument("--only", type=int, help="this row alone, and print it")
    parser.add_argument("--folder", type=Path, help="where to work, kept; else a temporary one")
    given = parser.parse_args()
    rows = [json.loads(line) for line in given.out.read_text().splitlines()] if given.out.is_file() else []
    known = {(row["seed"], row["number"]) for row in rows}
    with contextlib.ExitStack() as stack:
        folder = given.folder or Path(stack.enter_context(tempfile.TemporaryDirectory()))
        folder.mkdir(parents=True, exist_ok=True)
        os.environ["EDGECOMPILE_CACHE"] = str(folder.resolve() / "cache")
        originals = subjects.make(folder)
        runner = Runner(folder.resolve())
        stack.callback(runner.close)
        numbers = range(given.count) if given.only is None else [given.only]
        for number in numbers:
            if given.only is None and (given.seed, number) in known:
                continue
            kind, mutation, content, sealed, command = changed(originals, given.seed, number)
            path = subjects.place(folder, kind, content, sealed=sealed)
            code, error, seconds = runner.run(command)
            row = {"seed": given.seed, "number": number, "kind": kind, "mutation": mutation}
            row |= {"command": " ".join(command), "code": code, "error": error, "seconds": round(seconds, 2)}
            rows.append(row)
            if given.only is not None:
                print(json.dumps(row, indent=1), path)
                return int(is_fault(row))
            with given.out.open("a") as file:
                file.write(json.dumps(row) + "\n")
            if is_fault(row):
                print(json.dumps(row), flush=True)
    print(summary(rows))
    return int(any(map(is_fault, rows)))


if __name__ == "__main__":
    sys.exit(main())
