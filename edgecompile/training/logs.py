"""TensorBoard events of a training, as it goes or from its record."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path
from typing import Any


def summarize(writer: Any, epoch: int, loss: float, seconds: float, optimizer: Any) -> None:
    import tensorflow as tf

    with writer.as_default(step=epoch):
        tf.summary.scalar("loss", loss)
        tf.summary.scalar("learning_rate", float(optimizer.learning_rate))
        tf.summary.scalar("seconds_per_epoch", seconds)
    writer.flush()


def replay(losses: Sequence[float], folder: Path) -> None:
    """Write the loss curve of a training that was done before (one value an epoch) as TensorBoard events."""
    import tensorflow as tf

    writer = tf.summary.create_file_writer(str(folder))
    with writer.as_default():
        for epoch, loss in enumerate(losses):
            tf.summary.scalar("loss", loss, step=epoch)
    writer.close()
