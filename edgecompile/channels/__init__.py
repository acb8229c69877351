"""Structured pruning of channels on tf-keras functional graphs.

coupling.py    which channels can only be removed together
rules.py       what each type of layer does with channels: one entry a type
groups.py      the dependency groups of a model
importance.py  scores of channels
budget.py      which channels stay under a budget
surgery.py     the smaller model
latency.py     the budget in measured latency
"""

from edgecompile.channels.budget import Kept, Limits, cost_of, keep_widths, plan
from edgecompile.channels.groups import Channels, Group, dependency_groups
from edgecompile.channels.importance import CRITERIA, scores
from edgecompile.channels.surgery import apply

__all__ = [
    "CRITERIA",
    "Channels",
    "Group",
    "Kept",
    "Limits",
    "apply",
    "cost_of",
    "dependency_groups",
    "keep_widths",
    "plan",
    "scores",
]
