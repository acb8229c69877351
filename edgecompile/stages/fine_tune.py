"""Training as it is: of a float model on more data, or of a student from its teacher."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from typing import ClassVar

from edgecompile.artifact import KERAS, Artifact
from edgecompile.loaders.base import save_keras
from edgecompile.stages.base import Context, Outcome
from edgecompile.stages.trainable import TrainedStage, changed_weights, train, trainable_model, training_metrics


@dataclass(frozen=True, kw_only=True)
class FineTune(TrainedStage):
    """Trains all weights and compresses nothing. With a distillation, and a teacher given to the build, the model is
    the student (training/distillation.py)."""

    name: ClassVar[str] = "fine-tune"
    accepts: ClassVar[Mapping[str, str]] = {KERAS: KERAS}

    def run(self, artifact: Artifact, ctx: Context) -> Outcome:
        model = trainable_model(artifact, ctx)
        before = [v.numpy() for v in model.trainable_variables]
        result = train(model, artifact.signature, self.schedule, ctx)
        path = ctx.out / "model.keras"
        save_keras(model, path)
        after = [v.numpy() for v in model.trainable_variables]
        metrics = {**training_metrics(result), **changed_weights(before, after)}
        return Outcome(KERAS, {"model": path}, artifact.signature, metrics)
