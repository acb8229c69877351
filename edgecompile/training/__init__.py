"""Training that a kill can't spoil: the loop, its data, and the distillation of a teacher."""

from edgecompile.training.distillation import Distillation
from edgecompile.training.logs import replay
from edgecompile.training.schedule import Hooks, Result, Schedule
from edgecompile.training.trainer import Trainer

__all__ = ["Distillation", "Hooks", "Result", "Schedule", "Trainer", "replay"]
