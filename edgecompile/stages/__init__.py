"""The stages a recipe can name. A new one is one file and one line here."""

from __future__ import annotations

from edgecompile.stages.convert import Convert
from edgecompile.stages.prune import Prune
from edgecompile.stages.qat import Qat
from edgecompile.stages.quantize import Quantize

RECIPE_STAGES = {stage.name: stage for stage in (Prune, Qat, Convert, Quantize)}
