"""manifest.json: what a bundle promises and how it was made. Its JSON Schema ships beside this file."""

from __future__ import annotations

import json
from collections.abc import Mapping
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

from edgecompile import plain_json
from edgecompile.artifact import sha256_json
from edgecompile.errors import BundleError, ChangedFileError
from edgecompile.schema_check import first_problem

SCHEMA_VERSION = 1
SCHEMA_FILE = Path(__file__).parent / "manifest.schema.json"
DIGEST = "manifest_sha256"  # of all the rest of the manifest

MEASURED, ESTIMATED, SIMULATED, EMULATED = "measured", "estimated", "simulated", "emulated-instructions"
LABELS = (MEASURED, ESTIMATED, SIMULATED, EMULATED)


@dataclass(frozen=True)
class Figure:
    """One number and all that is needed to believe it.

    name: ends in its statistic where there is one (latency_p50). of: "source", "model" (the bundle's) or a
    candidate's id. label: measured | estimated | simulated | emulated-instructions. unit: "ms", "B", "MiB", ...;
    "" for a ratio. runs: timed repetitions; samples: inputs of `split` it was computed on.
    """

    name: str
    of: str
    value: float
    unit: str
    label: str
    device: str
    date: str
    threads: int | None = None
    runs: int | None = None
    split: str | None = None
    samples: int | None = None
    executed_on: str = ""

    def __post_init__(self) -> None:
        if self.label not in LABELS:
            raise ValueError(f"a figure's label is one of {', '.join(LABELS)}, received {self.label!r}")

    def to_json(self) -> dict[str, Any]:
        return asdict(self)


def find(manifest: Mapping[str, Any], name: str, of: str) -> float | None:
    """The value of one figure of a manifest, None where it has none."""
    values = [f["value"] for f in manifest["figures"] if f["name"] == name and f["of"] == of]
    return values[0] if values else None


def of_outputs(manifest: Mapping[str, Any]) -> list[str]:
    """The names of the figures that each output has of its own metric; none where there is one output."""
    outputs = (manifest["data"] or {}).get("outputs", ())
    return [metric_of(output["metric"], output["name"]) for output in outputs if output["metric"]]


def metric_of(metric: str, output: str) -> str:
    """The name of a metric's figure for one output of several."""
    return f"{metric}/{output}"


def write_manifest(folder: Path, manifest: Mapping[str, Any]) -> None:
    """Write manifest.json with the digest of what is in it, by which a change is found."""
    # In ASCII: names of files may hold what UTF-8 has no bytes for.
    text = json.dumps({**manifest, DIGEST: digest(manifest)}, indent=1, allow_nan=False)
    (folder / "manifest.json").write_text(text + "\n", encoding="ascii")


def digest(manifest: Mapping[str, Any]) -> str:
    """sha256 of a manifest's content, whatever the order of its keys and the spaces between them."""
    # As JSON gives it back: tuples are lists there, and keys are text.
    plain = json.loads(json.dumps({name: value for name, value in manifest.items() if name != DIGEST}))
    return sha256_json(plain)


def read_manifest(bundle: Path) -> dict[str, Any]:
    """A bundle's manifest, as it is there. BundleError where the folder isn't a bundle, or its manifest is no such
    thing; what it says is believed only after `check_manifest`."""
    path = bundle / "manifest.json"
    if not path.is_file():
        raise BundleError(f"{bundle} is not a bundle: it has no manifest.json", hint="make one with edgecompile build")
    try:
        data = plain_json.parse(path.read_text(encoding="utf-8"))
    except (OSError, ValueError) as problem:
        raise BundleError(
            f"{path} is damaged: {problem}", hint="remove the folder and build the bundle again"
        ) from None
    required = ("schema", "model", "files", "figures", "winner")
    missing = [key for key in required if not isinstance(data, dict) or key not in data]
    if missing:
        raise BundleError(
            f"{path} is not a manifest: {missing[0]!r} is missing", hint="remove the folder and build the bundle again"
        )
    if data["schema"] != SCHEMA_VERSION:
        version = data["schema"] if isinstance(data["schema"], int) else "that is no number"
        raise BundleError(
            f"{path} has schema version {version}, this edgecompile reads {SCHEMA_VERSION}",
            hint="build the bundle again, or use the edgecompile it was built with",
        )
    manifest: dict[str, Any] = data
    return manifest


def check_manifest(bundle: Path, manifest: Mapping[str, Any]) -> None:
    """ChangedFileError where a manifest isn't what the build wrote, BundleError where it doesn't fit its schema."""
    path = bundle / "manifest.json"
    if DIGEST in manifest and manifest[DIGEST] != _digest_of_what_was_read(manifest):
        raise ChangedFileError(
            f"{path} was changed since the build: its content hasn't the sha256 that it names",
            hint="build the bundle again, or restore the file",
        )
    problem = first_problem(manifest, plain_json.parse(SCHEMA_FILE.read_text(encoding="utf-8")))
    if problem:
        raise BundleError(f"{path} is damaged: {problem}", hint="remove the folder and build the bundle again")


def _digest_of_what_was_read(manifest: Mapping[str, Any]) -> str | None:
    try:
        return digest(manifest)
    except (ValueError, RecursionError):
        return None
