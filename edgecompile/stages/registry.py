"""The stages a recipe can name. A new one is one file and one line here."""

from __future__ import annotations

from edgecompile.stages.cluster import Cluster
from edgecompile.stages.convert import Convert
from edgecompile.stages.factorize import Factorize
from edgecompile.stages.fine_tune import FineTune
from edgecompile.stages.mixed import MixedPrecision
from edgecompile.stages.prune import Prune
from edgecompile.stages.prune_channels import PruneChannels
from edgecompile.stages.qat import Qat
from edgecompile.stages.quantize import Quantize
from edgecompile.stages.slim import Slim

RECIPE_STAGES = {
    stage.name: stage
    for stage in (
        Cluster,
        Convert,
        Factorize,
        FineTune,
        MixedPrecision,
        Prune,
        PruneChannels,
        Qat,
        Quantize,
        Slim,
    )
}
