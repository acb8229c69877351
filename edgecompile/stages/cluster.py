"""Weight clustering: each kernel keeps a few distinct values, so it packs into few bytes."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any, ClassVar

import numpy as np

from edgecompile.artifact import KERAS, Artifact
from edgecompile.errors import CompressionGateError
from edgecompile.loaders.base import save_keras
from edgecompile.promises import distinct
from edgecompile.quantization_aware.folding import FOLDED, fold_batchnorm
from edgecompile.stages.base import Context, Outcome, Progress, require
from edgecompile.stages.trainable import TrainedStage, changed_weights, naming, train, trainable_model, training_metrics
from edgecompile.task import Array
from edgecompile.ties import Ties
from edgecompile.training import Hooks

_INITIAL = ("kmeans++", "linear")


@dataclass(frozen=True, kw_only=True)
class Cluster(TrainedStage):
    """Weight sharing of Han, Mao and Dally, "Deep Compression" (2016), section 3: k-means over a kernel's weights,
    then training of the centroids by the mean gradient of their members.

    clusters: distinct values of a kernel.
    per_channel: of each output channel of a convolution's kernel instead. Other kernels have one int8 scale, under
        which values of their own in each channel would be no few values any more.
    initial: where k-means starts: "kmeans++" (Arthur and Vassilvitskii 2007) or "linear", evenly over the range.
    preserve_sparsity: zeros stay zero, and zero is one of the values.
    depthwise: "dense" leaves depthwise kernels as they are, "cluster" takes them too.
    first_last: "dense" leaves the first and the last kernel as they are.
    """

    name: ClassVar[str] = "cluster"
    accepts: ClassVar[Mapping[str, str]] = {KERAS: KERAS}

    clusters: int = 16
    initial: str = "kmeans++"
    per_channel: bool = False
    preserve_sparsity: bool = False
    depthwise: str = "dense"
    first_last: str = "cluster"
    epochs: int = 3
    learning_rate: float = 0.0003

    def __post_init__(self) -> None:
        super().__post_init__()
        policies = ("dense", "cluster")
        require(
            self.name,
            clusters=(self.clusters, 2 <= self.clusters <= 256, "from 2 to 256"),
            initial=(self.initial, self.initial in _INITIAL, " or ".join(map(repr, _INITIAL))),
            depthwise=(self.depthwise, self.depthwise in policies, "'dense' or 'cluster'"),
            first_last=(self.first_last, self.first_last in policies, "'dense' or 'cluster'"),
        )

    def run(self, artifact: Artifact, ctx: Context) -> Outcome:
        # Clusters of a kernel that is folded afterwards would be others in each of its columns.
        model, folded = fold_batchnorm(trainable_model(artifact, ctx))
        before = [v.numpy() for v in model.trainable_variables]
        chosen, dense = self._choose(model)
        ties: dict[str, Ties] = {}
        for done, (name, (variable, parts)) in enumerate(chosen.items(), 1):
            clustered = self._clustered(variable.numpy(), parts, ctx.seed)
            variable.assign(clustered)
            ties[name] = Ties.of(clustered, sparsity=self.preserve_sparsity, clusters=True)
            ctx.report(Progress("k-means", done, len(chosen)))
        by_variable = {chosen[name][0].ref(): held for name, held in ties.items()}

        def tie(variable: Any, gradient: Any) -> Any:
            held = by_variable.get(variable.ref())
            return gradient if held is None else held.tie(gradient)

        def snap() -> None:
            for name, held in ties.items():
                chosen[name][0].assign(held.snap(chosen[name][0].numpy()))

        result = train(model, artifact.signature, self.schedule, ctx, Hooks(gradient=tie, after_epoch=snap))
        values = {name: self._check(name, variable.numpy(), parts) for name, (variable, parts) in chosen.items()}
        path = ctx.out / "model.keras"
        save_keras(model, path)
        after = [v.numpy() for v in model.trainable_variables]
        metrics = {**training_metrics(result), **changed_weights(before, after), "values": values}
        notes = naming({"not clustered": dense, FOLDED: folded})
        return Outcome(KERAS, {"model": path}, artifact.signature, metrics, notes)

    def _choose(self, model: Any) -> tuple[dict[str, tuple[Any, int]], list[str]]:
        """({layer: (kernel variable, parts with values of their own)}, layers with kernels that are left alone)."""
        kernels = {}
        left = []
        for layer in model.layers:
            ours = [v for v in layer.trainable_weights if "kernel" in _short(v)]
            depthwise = any("depthwise" in _short(v) for v in ours)
            if len(ours) == 1 and not (depthwise and self.depthwise == "dense"):
                shape = ours[0].shape
                channels = shape[-1] * shape[-2] if depthwise else shape[-1]
                apart = self.per_channel and len(shape) == 4 and "Transpose" not in type(layer).__name__
                kernels[layer.name] = (ours[0], channels if apart else 1)
            elif ours:  # also several matrices in one layer: a separable convolution, a recurrent layer
                left.append(layer.name)
        if self.first_last == "dense":
            for name in dict.fromkeys([*list(kernels)[:1], *list(kernels)[-1:]]):
                del kernels[name]
                left.append(name)
        if not kernels:
            raise CompressionGateError("there is no layer in this model whose kernel can be clustered")
        return kernels, left

    def _clustered(self, kernel: Array, parts: int, seed: int) -> Array:
        """The kernel with each weight at its centroid."""
        columns = kernel.reshape(-1, parts).T
        found: Array = np.stack([self._k_means(column, seed) for column in columns]).T.reshape(kernel.shape)
        return found

    def _k_means(self, weights: Array, seed: int) -> Array:
        """weights: [n]; those of a cluster become its mean."""
        from sklearn.cluster import KMeans

        moved = weights != 0 if self.preserve_sparsity else np.ones(weights.shape, bool)
        clusters = self.clusters - (0 if moved.all() else 1)  # zero is one of the values
        some = weights[moved].astype(np.float64)[:, None]
        if len(np.unique(some)) <= clusters:
            return weights
        start: Any = "k-means++"
        if self.initial == "linear":
            start = np.linspace(some.min(), some.max(), clusters)[:, None]
        found = KMeans(clusters, init=start, n_init=1, random_state=seed).fit(some)
        result: Array = weights.copy()
        result[moved] = found.cluster_centers_[found.labels_, 0].astype(weights.dtype)
        return result

    def _check(self, layer: str, kernel: Array, parts: int) -> int:
        """Distinct values of the kernel, or of the channel that has most."""
        values = distinct(kernel.reshape(-1, parts), -1)
        if values > self.clusters:
            raise CompressionGateError(
                f"cluster promised {self.clusters} values; layer {layer!r} has {values}",
                hint="report it: training parted weights of one cluster",
            )
        return values


def _short(variable: Any) -> str:
    return str(variable.name).rpartition("/")[2]
