"""Clocks of a Jetson, held at their highest for a benchmark, where that was asked for."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

from edgecompile.devices.base import Device
from edgecompile.devices.benchmark import how
from edgecompile.devices.matching import is_jetson
from edgecompile.errors import DeviceError
from edgecompile.ondevice import runner

_SECONDS = 180.0  # one that waits for another gives a sign of life every minute


@contextmanager
def held_clocks(device: Device) -> Iterator[None]:
    """jetson_clocks on, and as they were before at the end. A program on the board sees to that, even where we are
    killed or the connection is cut, as soon as the board notices. DeviceError where it can't be done."""
    facts = device.facts()
    if not is_jetson(facts.details):
        raise DeviceError(f"--set-clocks: {facts.name} is no Jetson", hint="leave it out: clocks are as they are there")
    program = device.put(Path(runner.__file__).absolute())
    process = device.exec(["python3", "-s", program, "--hold-clocks", f"{facts.details['cache']}/clocks"])
    try:
        said = process.lines(_SECONDS)
        if "held" not in said:
            raise DeviceError(
                f"jetson_clocks on {facts.name} failed ({how(process.wait())}): {process.errors}",
                hint="`sudo -n jetson_clocks` has to work there without a password, or leave --set-clocks out",
            )
        yield
        process.end_input()
        if status := process.wait():
            raise DeviceError(
                f"the clocks of {facts.name} couldn't be given back ({how(status)}): {process.errors}",
                hint="`sudo jetson_clocks --restore` there, or a new start",
            )
    finally:
        process.kill()  # closes its stdin, at the latest
