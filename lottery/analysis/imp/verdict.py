"""When a sparse network is a winning ticket.

The rule is a table of cases. Here are also the intervals behind each case, and how the verdicts on several architectures are held together.

A ticket is judged at each level beside the better of its two dense models (trained straight through, or rewound and restarted as a ticket
is) and beside three controls on the same budget. All comparisons are of held-out losses, seed by seed, with a margin: 1% of the dense
model's loss, within which two count as equal.
"""

import itertools
import math
from collections.abc import Callable
from dataclasses import dataclass, field
from typing import NamedTuple

import numpy as np
import pandas as pd
from scipy import stats

from lottery.common.format import number
from lottery.experiments.imp.arms import CONTROLS

MARGIN = 0.01  # of the dense model's loss
ERROR = 0.05  # of all verdicts of one kind together

AS_GOOD, BEATEN, NEITHER = ("better", "equivalent"), ("worse", "diverged"), ("undecided", "missing")
TICKET, NO_TICKET, OPEN = "ticket", "no ticket", "not decided"


class MeanCI(NamedTuple):
    """A mean over seeds with its interval (Student's t), whose ends are not numbers where there are fewer than two seeds."""

    value: float
    low: float
    high: float

    def __str__(self) -> str:
        if math.isnan(self.value):
            return ""
        return number(self.value) if math.isnan(self.low) else f"{number(self.value)} ({number(self.low)} to {number(self.high)})"


def mean(values, error: float = 0.05) -> MeanCI:
    """Return the mean of values, one for each seed, and the interval that misses it with probability ``error``.

    Seeds without a value are left out. There is no interval where any value is infinite.

    Args:
        values: One value for each seed; not a number where a seed has none.
        error: The probability that the interval misses the mean.
    """
    values = np.asarray(values, dtype=float)
    values = values[~np.isnan(values)]
    if not len(values) or not np.isfinite(values).all():
        with np.errstate(invalid="ignore"):
            return MeanCI(float(values.mean()) if len(values) else math.nan, math.nan, math.nan)
    centre = float(values.mean())
    if len(values) < 2:
        return MeanCI(centre, math.nan, math.nan)
    spread = float(stats.sem(values))
    low, high = stats.t.interval(1 - error, len(values) - 1, centre, spread) if spread else (centre, centre)
    return MeanCI(centre, float(low), float(high))


class Compared(NamedTuple):
    """How one arm's loss compares with another's: a case, and the mean difference over the seeds in which both are finite."""

    case: str
    difference: MeanCI

    def __str__(self) -> str:
        value, low, high = ("" if math.isnan(number_) else f"{'+' if number_ > 0 else ''}{number(number_)}" for number_ in self.difference)
        return f"loss {value} ({low} to {high})" if low else f"loss {value}"


def compared(one: pd.Series, other: pd.Series, margin: float, error: float) -> Compared:
    """Say how one arm does beside another.

    The case is 'better' or 'worse' where the losses differ by more than the margin, and 'equivalent' where ``one`` is not worse by more
    than it. It is 'undecided' where the interval allows both, or ``other`` diverged in any seed. It is 'diverged' where ``one`` has a
    finite loss in no seed, and 'missing' where a seed of either is not recorded. A run that diverged is worse than any other, so an arm
    that did so in some seeds is never as good.

    Args:
        one: Losses by seed.
        other: Losses by seed, of what it is compared with.
        margin: How far apart two losses may lie and still count as equal.
        error: The probability that the interval misses the mean difference.
    """
    both = pd.concat([one, other], axis=1, keys=["one", "other"])
    nothing = MeanCI(math.nan, math.nan, math.nan)
    if both.empty or both.isna().any(axis=None):
        return Compared("missing", nothing)
    if np.isinf(both["other"]).any():
        return Compared("undecided", nothing)
    gone = np.isinf(both["one"])
    if gone.all():
        return Compared("diverged", nothing)
    difference = mean((both["one"] - both["other"])[~gone], error)
    if difference.high < -margin:
        case = "better"
    elif difference.high <= margin:
        case = "equivalent"
    else:
        case = "worse" if difference.low > margin else "undecided"
    return Compared("undecided" if gone.any() and case in AS_GOOD else case, difference)


def of_level(beside: str, controls: list[str]) -> str:
    """Return what a level says, from the case of the ticket beside the dense model and those of the controls beside the ticket."""
    if beside in BEATEN or any(case in AS_GOOD for case in controls):
        return NO_TICKET
    return TICKET if beside in AS_GOOD and all(case in BEATEN for case in controls) else OPEN


def share_of(error: float, verdict: str, levels: list[int]) -> float:
    """Return the part of an error that each comparison may have.

    A ticket is the best of several levels. "No ticket" needs all levels, but any of a level's comparisons, with the dense model and with
    each control, may rule it out.
    """
    return error / (1 + len(CONTROLS) if verdict == NO_TICKET else len(levels))


def of_model(levels: list[int], at: Callable[[int, float], tuple[Compared, dict[str, Compared]]], error: float) -> tuple[str, int | None]:
    """Return the verdict on one architecture, and the level of its ticket: the last, where there are several.

    Args:
        levels: The levels that were measured.
        at: Gives, for a level and an error, the comparison with the dense model and those of the controls.
        error: The probability of error that the verdict may have.
    """

    def says(level: int, error: float) -> str:
        beside, controls = at(level, error)
        return of_level(beside.case, [control.case for control in controls.values()])

    if found := [level for level in levels if says(level, share_of(error, TICKET, levels)) == TICKET]:
        return TICKET, found[-1]
    if levels and all(says(level, share_of(error, NO_TICKET, levels)) == NO_TICKET for level in levels):
        return NO_TICKET, None
    return OPEN, None


def holm(models: list[str], judge: Callable[[str, float], tuple[str, int | None]]) -> dict[str, tuple[str, int | None, float]]:
    """Return the verdicts on several architectures, such that all of them together hold at 95% (Holm's step-down procedure).

    Args:
        models: The architectures.
        judge: Gives the verdict on a model at an error.

    Returns:
        For each model its verdict, the level of its ticket, and the error that it was judged at.
    """
    found: dict[str, tuple[str, int | None, float]] = {}
    while left := [model for model in models if model not in found]:
        error = ERROR / len(left)
        judged = {model: (*judge(model, error), error) for model in left}
        decided = {model: verdict for model, verdict in judged.items() if verdict[0] != OPEN}
        if not decided:
            return {model: {**found, **judged}[model] for model in models}
        found |= decided
    return {model: found[model] for model in models}


class WhyNot(NamedTuple):
    """The first condition of a ticket that a level does not meet.

    Attributes:
        arm: The control that is not beaten; empty where it is the dense model that is not matched.
        compared: The comparison behind it: of that control with the ticket, or of the ticket with the dense model.
    """

    arm: str
    compared: Compared


def why_not(beside: Compared, controls: dict[str, Compared]) -> WhyNot:
    """Return why a level makes no ticket, or none yet: first what rules one out, then what is open.

    Args:
        beside: The comparison of the ticket with the dense model.
        controls: For each control its comparison with the ticket.
    """
    asked = {"": beside, **controls}
    ruled_out = (arm for arm, found in asked.items() if found.case in (AS_GOOD if arm else BEATEN))
    open_ = (arm for arm, found in asked.items() if found.case in NEITHER)
    arm = next(itertools.chain(ruled_out, open_))
    return WhyNot(arm, asked[arm])


@dataclass(frozen=True)
class Verdict:
    """What is decided of an architecture, and what that rests on.

    Attributes:
        verdict: 'ticket', 'no ticket' or 'not decided'.
        obstacle: Why nothing could be judged, where nothing could: 'only dense', 'one seed' or 'no dense loss'.
        left: The share of the weights that its ticket leaves, where it has one.
        beside: How its ticket compares with the dense model.
        why_not: Where it has no ticket, why none is at each level, by the share of the weights left.
    """

    verdict: str
    obstacle: str = ""
    left: float | None = None
    beside: Compared | None = None
    why_not: dict[float, WhyNot] = field(default_factory=dict)
