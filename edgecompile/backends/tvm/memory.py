"""Where values lie in one arena: those that are never needed at the same time share memory."""

from __future__ import annotations

from edgecompile.backends.tvm.plan import Plan, Value

ALIGNED = 64


def offsets(plan: Plan) -> tuple[dict[Value, int], int]:
    """({value: its first byte}, bytes of the arena), for values that calls write and no caller gives.

    The largest first, each at the lowest place that is free as long as it lives (Pisarchyk and Lee, "Efficient Memory
    Management for Deep Neural Net Inference", 2020, section 5.2: greedy by size).
    """
    given = {value.place for value in (*plan.inputs, *plan.outputs)}
    lives: dict[Value, tuple[int, int]] = {}
    for number, step in enumerate(plan.steps):
        for argument in step.arguments:
            if isinstance(argument, Value) and argument.place not in given:
                first, _ = lives.get(argument.place, (number, number))
                lives[argument.place] = first, number
    placed: list[tuple[Value, int]] = []
    for value in sorted(lives, key=lambda each: each.bytes, reverse=True):
        first, last = lives[value]
        beside = sorted(
            (at, at + other.bytes) for other, at in placed if lives[other][0] <= last and first <= lives[other][1]
        )
        at = 0
        for begin, end in beside:
            if at + value.bytes <= begin:
                break
            at = max(at, -(-end // ALIGNED) * ALIGNED)
        placed.append((value, at))
    return dict(placed), max((at + value.bytes for value, at in placed), default=0)
