"""Ctrl-C at any time, also while modules are imported: 130, and no traceback."""

from __future__ import annotations

import subprocess
import sys
from pathlib import Path

import pytest

# Interrupts itself as soon as a module is looked for; libraries see it as a user's Ctrl-C.
AT_IMPORT = """
import os, signal, sys

class Interrupts:
    def find_spec(self, name, path=None, target=None):
        if name == sys.argv[1]:
            sys.argv[1] = ""
            os.kill(os.getpid(), signal.SIGINT)

sys.meta_path.insert(0, Interrupts())
signal.signal(signal.SIGINT, signal.default_int_handler)
from edgecompile.start import main
main(["targets", "list"] if sys.argv[2] == "quick" else ["inspect", "digits"])
"""


@pytest.mark.parametrize(
    "module",
    ["edgecompile.cli", "click", "edgecompile.errors", "edgecompile.cli.inspect", "edgecompile.examine", "numpy",
     "numpy._core.multiarray", "edgecompile.session"],
)  # fmt: skip
def test_while_a_module_is_imported(module: str, tmp_path: Path) -> None:
    done = subprocess.run(
        [sys.executable, "-c", AT_IMPORT, module, "slow"], capture_output=True, text=True, timeout=120, cwd=tmp_path,
        check=False,
    )  # fmt: skip
    assert done.returncode == 130, done.stderr
    assert "interrupted" in done.stderr
    assert "Traceback" not in done.stderr


def test_the_script_and_the_module_begin_there() -> None:
    """What imports the command line before anything hears an interrupt would end in a traceback."""
    root = Path(__file__).parent.parent.parent
    assert "edgecompile = edgecompile.start:main" in (root / "setup.cfg").read_text()
    code = "import sys, edgecompile.start; print('edgecompile.cli' in sys.modules, 'click' in sys.modules)"
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True)
    assert done.stdout.split() == ["False", "False"]
