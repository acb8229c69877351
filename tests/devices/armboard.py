"""The emulated ARM board of scripts/arm-board, in tests."""

from __future__ import annotations

import os
import subprocess
import sys
from pathlib import Path
from typing import Any

import numpy.typing as npt
import pytest
from running import Run, run_cli

from edgecompile.backends.tvm import library
from edgecompile.backends.tvm.arithmetic import REFERENCE as EXACT
from edgecompile.backends.tvm.isa import INSTRUCTION_SETS
from edgecompile.backends.tvm.planner import Planner
from edgecompile.devices import benchmark
from edgecompile.devices.opening import one, open_board
from edgecompile.loaders.interpreter import own_signature
from edgecompile.tflite_file import read

Array = npt.NDArray[Any]
ROOT = Path(__file__).parents[2]
SCRIPT = ROOT / "scripts" / "arm-board"
# Not a contributor's own board, which may be in use; kept, since making it takes a minute.
FOLDER = Path(os.environ.get("XDG_CACHE_HOME") or Path.home() / ".cache") / "edgecompile" / "arm-board-of-tests"


class ArmBoard:
    """The board, up and in an inventory of the tests' own."""

    def __init__(self, folder: Path, cpu: str = "cortex-a76") -> None:
        self.folder = folder
        self.environment = {"EDGECOMPILE_CONFIG": str(folder / "config")}
        self.url = self._script("up", "--cpu", cpu).strip().splitlines()[-1]

    def _script(self, *arguments: str, data: bytes | None = None) -> str:
        command = [sys.executable, SCRIPT, "--folder", FOLDER, *arguments]
        environment = {**os.environ, **self.environment}
        done = subprocess.run(command, env=environment, input=data, capture_output=True, check=False)
        assert done.returncode == 0, done.stderr.decode()
        return done.stdout.decode()

    def shell(self, command: str, data: bytes | None = None) -> str:
        return self._script("ssh", command, data=data)

    def send(self, path: Path, folder: str) -> None:
        archive = subprocess.run(["tar", "-c", "-C", path.parent, path.name], capture_output=True, check=True).stdout
        self.shell(f"mkdir -p {folder} && tar -x --no-same-owner -C {folder}", archive)

    def run(self, *arguments: str | Path) -> Run:
        return run_cli(*arguments, cwd=self.folder, env=self.environment, timeout=1200)

    def down(self) -> None:
        self._script("down")

    def computed(
        self, model: Path, x: dict[str, Array], instructions: str, work: Path, patch: pytest.MonkeyPatch
    ) -> Array:
        """What the library for an instruction set makes of x there, in LiteRT's own rounding."""
        file, isa = read(model), next(each for each in INSTRUCTION_SETS if each.name == instructions)
        (work / "build").mkdir()
        plan = Planner(file, isa, EXACT, 1).run()
        made = library.build({isa: plan}, own_signature(file), work / "model.so", work / "build")
        patch.setenv("EDGECOMPILE_CONFIG", self.environment["EDGECOMPILE_CONFIG"])
        candidate = {"id": "tvm", "engine": "tvm", "model": str(made.path), "threads": 1}
        with open_board(one("arm-board")) as board:
            (found,) = benchmark.outputs(board, candidate, x, lambda *_: None).values()
        return found
