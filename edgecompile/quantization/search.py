"""How few operators must stay in higher precision to hold a drop, found with few evaluations. No I/O."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass

FEWEST = 3  # evaluations: nothing kept, everything kept, and one between


@dataclass(frozen=True)
class Trial:
    """What came of keeping operators in higher precision. kept: their numbers. value: the validation metric.
    drop: against the float model, as compare.metric_drop counts it; error: its standard error, in the same unit.
    size: of the file, in bytes."""

    kept: frozenset[int]
    value: float
    drop: float
    error: float
    size: int


@dataclass(frozen=True)
class Found:
    """best: None where even keeping everything doesn't hold. trials: all evaluations, in order."""

    best: Trial | None
    trials: tuple[Trial, ...]


def fewest_kept(
    ranking: Callable[[], Sequence[int]],
    cost: Mapping[int, int],
    evaluate: Callable[[frozenset[int]], Trial],
    max_drop: float,
    evaluations: int,
    margin: float = 0.0,
) -> Found:
    """The cheapest set found whose drop is at most `max_drop`, with at most `evaluations` calls of `evaluate`.

    ranking: gives the operators, the most sensitive first; called only where keeping nothing isn't enough.
    cost: what keeping an operator costs. evaluations: FEWEST or more. margin: standard errors that a drop must stay
    below `max_drop`: whatever is chosen by its score did better in the trial than it does elsewhere. What a trial
    gains on the float model is luck, and pays for no error.

    Bisection finds how many of the most sensitive must stay: log2(n) evaluations where the drop shrinks as more are
    kept; on a noisy metric it ends at some count that holds and whose predecessor was seen to fail. Then parts of
    that set are given up again, the most expensive first, as long as evaluations are left: a ranking by each
    operator's own error keeps some that others' staying has made harmless (parts are halved as in delta debugging:
    Zeller and Hildebrandt, "Simplifying and Isolating Failure-Inducing Input", 2002).
    """
    trials: list[Trial] = []

    def holds(kept: frozenset[int]) -> Trial | None:
        trials.append(evaluate(kept))
        trial = trials[-1]
        return trial if max(trial.drop, 0.0) + margin * trial.error <= max_drop else None

    best = holds(frozenset())
    if best is None:
        best = _prefix(list(ranking()), holds, lambda: evaluations - len(trials))
    if best is not None:
        best = _give_up(best, cost, holds, lambda: evaluations - len(trials))
    return Found(best, tuple(trials))


_Holds = Callable[[frozenset[int]], Trial | None]


def _prefix(ranking: list[int], holds: _Holds, left: Callable[[], int]) -> Trial | None:
    """The shortest prefix found that holds. Whether the whole ranking does is tried last, when nothing else held."""
    fails, enough, best = 0, len(ranking), None
    while enough - fails > 1 and left() > (best is None):
        middle = (fails + enough) // 2
        trial = holds(frozenset(ranking[:middle]))
        if trial is None:
            fails = middle
        else:
            enough, best = middle, trial
    return best or holds(frozenset(ranking))


def _give_up(best: Trial, cost: Mapping[int, int], holds: _Holds, left: Callable[[], int]) -> Trial:
    part = max(1, len(best.kept) // 4)
    waiting = _expensive_first(best.kept, cost)
    while waiting and left() > 0:
        tried, waiting = waiting[:part], waiting[part:]
        trial = holds(best.kept - set(tried))
        best = trial or best
        if part > 1 and not waiting:
            part //= 2
            waiting = _expensive_first(best.kept, cost)
    return best


def _expensive_first(kept: frozenset[int], cost: Mapping[int, int]) -> list[int]:
    return sorted(kept, key=lambda operator: (-cost[operator], operator))
