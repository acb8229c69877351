"""What flows through the pipeline: artifacts, their signatures, and the record of each stage."""

from __future__ import annotations

import dataclasses
import hashlib
import json
from collections.abc import Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

# The kinds an artifact can be of. Stages say which they accept and which they produce.
KERAS3 = "keras3"  # a Keras 3 model, .keras
KERAS = "keras"  # a tf-keras (Keras 2) model: what TF-MOT can train
QAT = "qat"  # a tf-keras model plus the weights of its quantization-aware twin
SAVED_MODEL = "saved_model"
TFLITE = "tflite"


@dataclass(frozen=True)
class TensorInfo:
    """One input or output: `shape` has -1 where it is dynamic; `scale` and `zero_point` are None for float."""

    name: str
    shape: tuple[int, ...]
    dtype: str
    scale: float | None = None
    zero_point: int | None = None


@dataclass(frozen=True)
class Signature:
    """Inputs and outputs in the model's own order; names are stable from source to bundle."""

    inputs: tuple[TensorInfo, ...]
    outputs: tuple[TensorInfo, ...]

    @staticmethod
    def from_json(data: Mapping[str, Any]) -> Signature:
        def tensors(items: list[dict[str, Any]]) -> tuple[TensorInfo, ...]:
            return tuple(TensorInfo(**{**item, "shape": tuple(item["shape"])}) for item in items)

        return Signature(tensors(data["inputs"]), tensors(data["outputs"]))


@dataclass(frozen=True)
class StageRecord:
    """What one stage did: enough to repeat it and to explain its result."""

    stage: str
    key: str
    config: dict[str, Any]
    tools: dict[str, str]
    seconds: float
    date: str
    metrics: dict[str, Any] = field(default_factory=dict)
    notes: tuple[str, ...] = ()


@dataclass(frozen=True)
class Artifact:
    """Files by role, all immutable once published. A stage writes new files and returns a new artifact.

    `meta` holds small facts later stages need (the I/O dtype, layers left float, ...), JSON only.
    """

    kind: str
    files: Mapping[str, Path]
    signature: Signature
    history: tuple[StageRecord, ...] = ()
    meta: Mapping[str, Any] = field(default_factory=dict)

    @property
    def model(self) -> Path:
        return self.files["model"]

    def replace(self, **changes: Any) -> Artifact:
        return dataclasses.replace(self, **changes)

    def to_json(self, root: Path) -> dict[str, Any]:
        """Files under `root` are written relative to it, so that a cache folder can be moved."""
        data = dataclasses.asdict(dataclasses.replace(self, files={}))
        data["files"] = {
            role: str(path.relative_to(root)) if path.is_relative_to(root) else str(path)
            for role, path in self.files.items()
        }
        return data

    @staticmethod
    def from_json(data: Mapping[str, Any], root: Path) -> Artifact:
        return Artifact(
            kind=data["kind"],
            files={role: root / name for role, name in data["files"].items()},
            signature=Signature.from_json(data["signature"]),
            history=tuple(StageRecord(**{**r, "notes": tuple(r["notes"])}) for r in data["history"]),
            meta=data["meta"],
        )


def sha256_file(path: Path) -> str:
    digest = hashlib.sha256()
    with path.open("rb") as file:
        while chunk := file.read(1 << 20):
            digest.update(chunk)
    return digest.hexdigest()


def sha256_path(path: Path) -> str:
    """Digest of a file, or of a folder's names and contents in sorted order."""
    if path.is_file():
        return sha256_file(path)
    digest = hashlib.sha256()
    for file in sorted(p for p in path.rglob("*") if p.is_file()):
        digest.update(f"{file.relative_to(path).as_posix()}\0{sha256_file(file)}\n".encode())
    return digest.hexdigest()


def sha256_json(data: Any) -> str:
    """Digest of plain data; equal data gives an equal digest whatever the order of its keys."""
    return hashlib.sha256(json.dumps(data, sort_keys=True, default=str).encode()).hexdigest()
