"""What the records show, as values. The sentences that tell it are templates in ``report/text``.

Data frames are those of ``frame.frame``.
"""

import math
from dataclasses import dataclass, field

import numpy as np
import pandas as pd
from scipy import stats

from lottery.analysis.frame import lines
from lottery.evaluation import bootstrap
from lottery.experiments.records import Record
from lottery.experiments.threshold import COST_LEVELS, FINE, Crossing, crossing, significantly_different, width

KEEPS = 1.25  # times the dense model's bits per byte: up to there, and with coherent texts, a variant keeps working
GRACE = 0.9  # of the weights: a model whose bits have not doubled by then degrades gracefully
ASKED = (0.5, 0.7, 0.9)  # the sparsities that the first screen speaks of
FEWEST_MODELS = 5  # with fewer, no order of models is rarer than 1 in 20, so that nothing can be decided


def keeps_working(data: pd.DataFrame) -> pd.Series:
    """Return whether each variant still works: its bits per byte are at most a quarter above the dense model's, its texts coherent."""
    return (data["bits_factor"] <= KEEPS) & data["coherent"].astype(bool)


def levels(data: pd.DataFrame) -> list[float]:
    return sorted(data.loc[data["method"] != "dense", "sparsity"].unique())


def methods(data: pd.DataFrame) -> list[str]:
    """Return the ways of pruning that occur, in the order in which they were asked for."""
    return list(data.loc[data["method"] != "dense", "method"].unique())


def judged_by(data: pd.DataFrame, method: str | None = None) -> pd.DataFrame:
    """Return the dense models and one way of pruning, by which models are compared: the first that was asked for unless named."""
    return data[data["method"].isin(["dense", method or next(iter(methods(data)), "dense")])]


def comparable(data: pd.DataFrame) -> pd.DataFrame:
    """Return the pruned variants whose dense model was measured too."""
    return data[(data["method"] != "dense") & data["lost_bits"].notna()]


Scores = dict[str, dict[str, Crossing]]  # model: level of ``threshold.COST_LEVELS``: where its bits per byte pass it


def scores(records: list[Record], method: str) -> Scores:
    """Return the ticket scores of every model by one way of pruning."""
    found = {}
    for model in dict.fromkeys(record.model for record in records):
        points = [r for r in records if r.model == model and r.request.variant.label in ("dense", method)]
        points.sort(key=lambda record: record.request.sparsity)
        crossings = {name: crossing(points, level) for name, level in COST_LEVELS.items()}
        if all(crossings.values()):
            found[model] = crossings
    return found


def ranking(data: pd.DataFrame, scores: Scores) -> pd.DataFrame:
    """Rank the models, the best ticket first.

    The first criterion is the sparsity at which bits per byte are up by 5%, the second the one at which they have doubled, the third the
    bits lost at the highest measured sparsity. Neighbours may not be told apart: ``significantly_different`` says.

    Only models that were measured at every sparsity that occurs are ranked: an unmeasured one is neither survived nor lost.
    """
    rows = []
    for model, points in lines(data).items():
        pruned = comparable(points)
        if pruned.empty or set(pruned["sparsity"]) != set(levels(data)) or model not in scores:
            continue
        five, twice = (scores[model][name].at for name in COST_LEVELS)
        rows.append({"model": model, "five": five, "twice": twice, "lost_bits": pruned.iloc[-1]["lost_bits"]})
    ranks = pd.DataFrame(rows, columns=["model", "five", "twice", "lost_bits"])
    return ranks.sort_values(["five", "twice", "lost_bits"], ascending=[False, False, True], ignore_index=True)


@dataclass(frozen=True)
class Survivors:
    """Which models keep working at a sparsity.

    Attributes:
        sparsity: The share of weights pruned.
        models: Those that keep working.
        measured: How many were measured there.
    """

    sparsity: float
    models: list[str]
    measured: int


def survivors(data: pd.DataFrame) -> list[Survivors]:
    """Return, for each sparsity that occurs, which models keep working there."""
    pruned = comparable(data)
    found = []
    for level in levels(data):
        at = pruned[pruned["sparsity"] == level]
        found.append(Survivors(level, list(dict.fromkeys(at["model"][keeps_working(at)])), at["model"].nunique()))
    return found


@dataclass(frozen=True)
class BestTicket:
    """Which model can lose most of its weights before text costs it 5% more bits per byte.

    Attributes:
        ranks: The models that can be ranked, the best first.
        rivals: Those that cannot be told apart from the best.
        left_out: Those of which a measurement is missing, or whose dense one is not finite.
        scores: Where the bits of each pass the levels.
        survivors: Who keeps working at each sparsity.
    """

    ranks: list[str]
    rivals: list[str]
    left_out: list[str]
    scores: Scores
    survivors: list[Survivors]


def best_ticket(data: pd.DataFrame, scores: Scores, comparisons: int = 1) -> BestTicket:
    """Return the ranking of the models, and which cannot be told apart from the best.

    As the best is chosen on the text that is scored, ranges are widened for all pairs of models, and for as many such ``comparisons``.
    """
    ranks = list(ranking(data, scores)["model"])
    rivals = _rivals(ranks, {model: scores[model]["5% more"] for model in ranks}, comparisons)
    return BestTicket(ranks, rivals, [model for model in lines(data) if model not in ranks], scores, survivors(data))


def _rivals(ranks: list[str], at: dict[str, Crossing], comparisons: int = 1) -> list[str]:
    """Return which of some models cannot be told apart from the first, by ranges that allow for all pairs of them."""
    pairs = comparisons * max(1, len(ranks) * (len(ranks) - 1) // 2)
    return [model for model in ranks[1:] if not significantly_different(at[ranks[0]], at[model], pairs)]


@dataclass(frozen=True)
class SizeCorrelation:
    """How the size of models and what they keep go together at a sparsity.

    Attributes:
        sparsity: The share of weights pruned.
        rho: Spearman's rank correlation of parameters with how little is lost, in bits per byte.
        p: The share of orders as extreme by chance.
        models: How many models were compared.
        levels: At how many sparsities: so many chances there are to find a correlation where there is none.
    """

    sparsity: float
    rho: float
    p: float
    models: int
    levels: int = 1

    @property
    def decided(self) -> bool:
        return self.p * self.levels <= 0.05 + 1e-9  # Bonferroni; 2 of 120 orders at three sparsities are 0.05, but not in floating point


def size_correlations(data: pd.DataFrame) -> list[SizeCorrelation]:
    """Return the correlation of size and loss at each sparsity at which three models or more can be compared."""
    pruned = comparable(data)
    rows = {level: pruned[pruned["sparsity"] == level].drop_duplicates("model") for level in levels(data)}
    compared = {level: at for level, at in rows.items() if len(at) >= 3}
    return [
        SizeCorrelation(level, *rank_correlation(list(at["parameters"]), list(-at["lost_bits"])), len(at), len(compared))
        for level, at in compared.items()
    ]


def rank_correlation(x: list[float], y: list[float]) -> tuple[float, float]:
    """Return Spearman's rank correlation and its two-sided permutation p-value (``scipy.stats.permutation_test``).

    The p-value is exact up to seven pairs, else from 9,999 orders drawn with a fixed seed.
    """
    if len(set(x)) == 1 or len(set(y)) == 1:
        return 0.0, 1.0
    ranks = stats.rankdata(x), stats.rankdata(y)

    def statistic(one, axis=-1):
        return stats.pearsonr(one, np.broadcast_to(ranks[1], one.shape), axis=axis).statistic

    test = stats.permutation_test((ranks[0],), statistic, permutation_type="pairings", vectorized=True, n_resamples=9_999, rng=0)
    return float(test.statistic), float(test.pvalue)


@dataclass(frozen=True)
class Decline:
    """How a model's text gets worse between 5% more bits per byte and twice as many.

    Attributes:
        model: The model.
        width: The share of weights that lies between the two levels; infinite where its bits never double within what was measured.
        measured_to: The highest sparsity at which its bits are below twice the dense model's.
        rivals: Of the slowest one: models that cannot be told apart from it.
    """

    model: str
    width: Crossing
    measured_to: float
    rivals: list[str] = field(default_factory=list)

    @property
    def is_number(self) -> bool:
        """Whether both levels were measured closely enough to state the width as a number."""
        return self.width.above - self.width.below <= 2 * FINE + 1e-9

    @property
    def gentle(self) -> bool:
        """Whether its bits do not double before so much is gone that nothing more need be asked."""
        return not self.width.reached and self.measured_to >= GRACE

    @property
    def unknown(self) -> bool:
        """Whether its bits do not double within what was measured, which is too little to praise it."""
        return not self.width.reached and self.measured_to < GRACE


def declines(data: pd.DataFrame, scores: Scores) -> list[Decline]:
    """Return how each model that can be ranked declines, the slowest first."""
    levels_of = {model: [scores[model][name] for name in COST_LEVELS] for model in ranking(data, scores)["model"]}
    widths = {model: width(five, twice) for model, (five, twice) in levels_of.items()}
    ranks = sorted(widths, key=lambda model: -widths[model].at)
    return [
        Decline(model, widths[model], levels_of[model][1].below, _rivals(ranks, widths) if model == ranks[0] else []) for model in ranks
    ]


@dataclass(frozen=True)
class Latest:
    """By which way of pruning the bits of a model pass a level at the highest sparsity.

    Attributes:
        cost: One of ``COST_LEVELS``.
        first: The way.
        rivals: Ways that cannot be told apart from it: ranges are paired over windows and allow for all pairs at both levels.
        others: How many other ways there are.
        has_interval: Whether there are enough windows to tell any apart.
    """

    cost: str
    first: str
    rivals: list[str]
    others: int
    has_interval: bool


def latest_crossings(scores: dict[str, dict[str, Crossing]]) -> list[Latest]:
    """Return by which way of pruning a model passes each level latest.

    A way that does not pass it as far as it was measured is left out, unless it was measured as far as all others that pass: it might have
    passed in between.

    Args:
        scores: The ticket scores of one model by each way of pruning.
    """
    found = []
    for cost in COST_LEVELS:
        at = {way: crossings[cost] for way, crossings in scores.items()}
        passed = max((crossing.above for crossing in at.values() if math.isfinite(crossing.above)), default=0.0)
        at = {way: crossing for way, crossing in at.items() if math.isfinite(crossing.above) or crossing.below >= passed}
        ranks = sorted(at, key=lambda way: -at[way].at)
        found.append(Latest(cost, ranks[0], _rivals(ranks, at, len(COST_LEVELS)), len(ranks) - 1, at[ranks[0]].has_interval))
    return found


@dataclass(frozen=True)
class MethodRanking:
    """Which way of pruning loses least at a sparsity, in the mean of the models that were pruned in every way.

    Attributes:
        sparsity: The share of weights pruned.
        lost: Mean bits per byte that each way loses, the least first.
        models: How many models the mean is of.
        wins: In how many of them the best way loses least of all.
        interval: The 95% interval of the best way's loss; ``None`` where there are too few windows.
        rivals: Ways that cannot be told apart from the best. Differences are paired, window by window. As the best is chosen on the text
            that is scored, at each sparsity anew, their 95% intervals are widened for ``pairs`` (``bootstrap.wider``).
        pairs: How many pairs of ways there are at all sparsities together.
        blind: Whether even the best way predicts worse than token frequencies do, in the mean of the models.
    """

    sparsity: float
    lost: dict[str, float]
    models: int
    wins: int
    interval: tuple[float, float] | None
    rivals: list[str] = field(default_factory=list)
    pairs: int = 1
    blind: bool = False


def method_rankings(data: pd.DataFrame, records: list[Record]) -> list[MethodRanking]:
    """Rank the ways of pruning at each sparsity at which two or more were measured on the same models."""
    grids = {level: lost_by_method(data, level) for level in levels(data)}
    grids = {level: grid for level, grid in grids.items() if len(grid) and len(grid.columns) > 1}
    frequencies = data.drop_duplicates("model").set_index("model")["unigram_lost_bits"]
    found, pairs = [], sum(math.comb(len(grid.columns), 2) for grid in grids.values())
    for level, grid in grids.items():
        means = grid.mean().sort_values(kind="stable")  # of equal ones the first that was asked for
        best, *others = means.index
        wins, (lost, windows) = int((grid.idxmin(axis=1) == best).sum()), _resampled_losses(records, level, grid)
        interval, rivals = None, []
        if lost:
            interval = bootstrap.interval(lost[best], windows)
            rivals = [way for way in others if not _least(means[way] - means[best], lost[way], lost[best], windows, pairs) > 0]
        blind = bool(means.iloc[0] > frequencies[grid.index].mean())
        found.append(MethodRanking(level, means.to_dict(), len(grid), wins, interval, rivals, pairs, blind))
    return found


def least_by_model(data: pd.DataFrame, records: list[Record]) -> set[tuple[str, str, float]]:
    """Return by which ways each model loses least, and by which it may as well, as model, way and sparsity.

    These are the best way and its rivals, as ``method_rankings`` tells them apart among the ways of that model alone.
    """
    found = set()
    for model, rows in data.groupby("model", sort=False):
        for at in method_rankings(rows, [record for record in records if record.model == model]):
            found |= {(str(model), way, at.sparsity) for way in (next(iter(at.lost)), *at.rivals)}
    return found


def _least(more: float, lost: np.ndarray, other: np.ndarray, windows: int, comparisons: int) -> float:
    """Return the least that one way may lose more than another, given the losses of both [draws]: the widened interval's lower end."""
    with np.errstate(invalid="ignore"):  # infinity less infinity
        low, _ = bootstrap.interval(lost - other, windows)
    return more - (more - low) * bootstrap.wider(comparisons, windows) if math.isfinite(more) else low


def _resampled_losses(records: list[Record], level: float, grid: pd.DataFrame) -> tuple[dict[str, np.ndarray], int]:
    """Return the bits per byte that each way of pruning loses at a sparsity, for each resampled text.

    Returns:
        The losses [draws] in the mean of the models of ``grid``, nothing where there are too few windows; and the number of windows, the
        smallest of the models.
    """
    results = {(r.model, r.request.variant.label, r.request.sparsity): r.result for r in records}
    dense = {model: results[model, "dense", 0.0] for model in grid.index}
    windows = min(len(result.window_nll) for result in dense.values())
    if windows < bootstrap.MIN_WINDOWS:
        return {}, windows
    lost = dict.fromkeys(grid.columns, 0.0)
    drawn = bootstrap.common_draws([len(result.window_nll) for result in dense.values()])
    for (model, result), times in zip(dense.items(), drawn, strict=True):
        size = bootstrap.resampled(result.window_bytes, times)
        for way in lost:
            more = bootstrap.resampled(results[model, way, level].window_nll, times) - bootstrap.resampled(result.window_nll, times)
            lost[way] = lost[way] + bootstrap.to_bits_per_byte(more, size) / len(dense)
    return lost, windows


def lost_by_method(data: pd.DataFrame, level: float) -> pd.DataFrame:
    """Return bits per byte lost at a sparsity, a row a model and a column a way of pruning; only models that were pruned in every way."""
    at = comparable(data)
    grid = at[at["sparsity"] == level].pivot(index="model", columns="method", values="lost_bits")
    return grid.reindex(columns=[method for method in methods(data) if method in grid.columns]).dropna()


@dataclass(frozen=True)
class Agreement:
    """Whether the best ticket is the same model whichever way it is looked for.

    Attributes:
        best: The best model by each way of pruning by which it is told apart from all others.
        undecided: The ways by which it is not.
    """

    best: dict[str, str]
    undecided: list[str]

    def by(self, model: str) -> list[str]:
        """Return the ways by which a model is the best."""
        return [method for method, best in self.best.items() if best == model]


def agreement(data: pd.DataFrame, records: list[Record]) -> Agreement:
    """Return the best model by each way of pruning, or whether magnitude is only a bad way to look.

    Random pruning looks for nothing: it is the control, and has no say.
    """
    best, undecided, asked = {}, [], methods(data[data["base_method"] != "random"])
    for method in asked:
        by_method = best_ticket(judged_by(data, method), scores(records, method), len(asked))
        if len(by_method.ranks) < 2:
            continue
        if by_method.rivals:
            undecided.append(method)
        else:
            best[method] = by_method.ranks[0]
    return Agreement(best, undecided)
