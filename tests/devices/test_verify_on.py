"""A bundle on a device: what it computes there is compared with here, and the first operator that differs is named."""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from devices.sshd import Sshd
from devices.test_board import board

from edgecompile import tflite_file
from edgecompile.devices.local import LocalDevice
from edgecompile.tflite_file import read, tables_of, write_tables
from edgecompile.verify_on import verify_on
from edgecompile.worker import Worker


@pytest.fixture(scope="module")
def worker(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Worker]:
    started = Worker(tmp_path_factory.mktemp("worker") / "log")
    yield started
    started.close()


def test_a_board_that_computes_the_same(sshd: Sshd, digits_bundle: Path, worker: Worker) -> None:
    with board(sshd) as there:
        found = verify_on(digits_bundle, there, worker, samples=100, report=lambda _: None)
    texts = {check.name: check.text for check in found.checks}
    assert found.failed == []
    assert "100 samples: bit-equal" in texts["reference outputs"]
    assert "(0 LSB " in texts["parity"]  # the histogram, also of float outputs that integers are behind
    assert found.figures[0].samples == 100
    assert found.figures[0].device.endswith("(loopback)")


class Wrong(LocalDevice):
    """Inverts the first weights of an operator of every model that it is given."""

    def __init__(self, operator: int, folder: Path) -> None:
        self._operator, self._folder = operator, folder

    def put(self, path: Path, report: Any = lambda *_: None) -> str:
        if path.suffix != ".tflite":
            return super().put(path, report)
        model = read(path)
        if self._operator < len(model.main.operators):
            tables = tables_of(model)
            weights = tables.subgraphs[0].tensors[tables.subgraphs[0].operators[self._operator].inputs[1]]
            data = np.array(tables.buffers[weights.buffer].data, np.uint8)
            data[: len(data) // 2] ^= 0x7F
            tables.buffers[weights.buffer].data = data
            path = write_tables(tables, self._folder / path.name)
        return str(path)


def test_the_first_operator_that_differs_is_named(digits_bundle: Path, worker: Worker, tmp_path: Path) -> None:
    model = tflite_file.read(digits_bundle / "model.tflite")
    weighted = [op for op in model.main.operators if op.name in ("CONV_2D", "DEPTHWISE_CONV_2D", "FULLY_CONNECTED")]
    assert len(weighted) > 2
    for op in (weighted[0], weighted[1], weighted[-1]):
        there = Wrong(op.index, tmp_path)
        found = verify_on(digits_bundle, there, worker, samples=40, report=lambda _: None)
        assert {"reference outputs", "parity"} <= set(found.failed)
        for check in found.checks:
            if check.name in ("reference outputs", "parity"):
                assert check.text.endswith(f"the first operator that differs is {op.name} #{op.index}")
