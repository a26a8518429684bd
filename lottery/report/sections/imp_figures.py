"""The lottery ticket procedure as pictures: loss and steps over the share of weights left, and tickets beside one-shot pruning."""

import itertools
import math

import numpy as np
import seaborn as sns
from matplotlib.ticker import FixedLocator, FuncFormatter, NullLocator

from lottery.analysis.findings import Scores
from lottery.analysis.imp.one_shot import both_scores
from lottery.analysis.imp.results import ImpResults
from lottery.analysis.imp.verdict import mean
from lottery.common.format import number, percent
from lottery.experiments.imp.arms import ARMS, DENSE
from lottery.report import style
from lottery.report.markdown import Picture


def loss_over_weights_left(outcome: ImpResults) -> Picture | None:
    """Draw the figure of the paper: held-out loss over the share of the weights left, a panel an architecture, a line an arm."""
    caption = "Held-out loss after training over the share of the weights left, a panel an architecture."
    return _panels(outcome, "loss", "held-out loss, nats a token (lower is better)", caption, [arm for arm in ARMS if arm not in DENSE])


def steps_over_weights_left(outcome: ImpResults) -> Picture | None:
    """Draw how soon an arm learns: steps to the loss that the dense model has after half its steps."""
    caption = "Training steps until the held-out loss is at that of the dense model after half its steps. ∞: it is never reached."
    return _panels(
        outcome,
        "steps",
        "steps to the loss (fewer is better)",
        caption,
        [name for name, arm in ARMS.items() if name not in DENSE and arm.trained],
    )


def bridge(outcome: ImpResults, one_shot: Scores) -> Picture | None:
    """Draw tickets beside one-shot pruning.

    The figure shows what a ticket loses at the last level over how far the trained model can be pruned in one shot.
    """
    both = both_scores(outcome, one_shot)
    if both.empty:
        return None
    figure = style.new_figure(8, 4)
    axes = figure.subplots()
    left = percent(outcome.left(outcome.levels[-1]))
    finite = [times.value for times in both["times_dense"] if math.isfinite(times.value)]
    top = max(finite, default=1.0) * 1.05
    for colour, marker, row in zip(style.colours(len(both)), itertools.cycle(style.MARKERS), both.itertuples(), strict=False):
        times, x = row.times_dense, min(row.one_shot, 1.0)
        y = times.value if math.isfinite(times.value) else top
        axes.plot(x, y, marker=marker, markersize=8, color=colour, linestyle="none", markeredgecolor="white", zorder=3)
        if not math.isnan(times.low):
            axes.vlines(x, times.low, times.high, color=colour, linewidth=1.2, zorder=2)
        label = row.model if math.isfinite(times.value) else f"{row.model} ∞"
        axes.annotate(label, (x, y), textcoords="offset points", xytext=(9, 5), color=style.ink(colour), **style.BOLD_TEXT)
    axes.axhline(1, color=".3", linewidth=1.2, linestyle=":", zorder=1)
    axes.xaxis.set_major_formatter(FuncFormatter(lambda value, _: percent(value)))
    axes.set_xlabel("one-shot pruning: sparsity at 5% more bits per byte (more is better)")
    axes.set_ylabel(f"ticket's loss with {left} left,\ntimes the dense model's (less is better)")
    axes.margins(x=0.2, y=0.15)
    sns.despine(figure)
    short = [f"{row.model} {row.seeds}" for row in both.itertuples() if row.seeds < outcome.seeds]
    fewer = f" Fewer seeds, where pruning left nothing of a layer: {', '.join(short)}." if short else ""
    caption = (
        f"What the ticket of each architecture loses with {left} of its weights left, over how far its trained model can be pruned in one"
        f" shot. Dotted: as much as the dense model.{_of_bars(outcome, 'Bars')}{fewer}"
    )
    alt = "Scatter of tickets over one-shot pruning. " + " ".join(
        f"{row.model}: one shot {percent(row.one_shot) if math.isfinite(row.one_shot) else 'beyond what was measured'}, ticket"
        f" {number(row.times_dense.value)} times the dense loss."
        for row in both.itertuples()
    )
    return Picture(figure, caption, alt)


def _colours() -> dict:
    """Return a colour for each arm, the same in all figures; grey is what was not trained again."""
    ten = style.colours(10)
    grey = ten.pop(7)
    colours = itertools.cycle(ten)
    return {name: next(colours) if arm.trained else grey for name, arm in ARMS.items() if name not in DENSE}


def _of_bars(outcome: ImpResults, what: str) -> str:
    return " One seed: too few for intervals." if outcome.seeds < 2 else f" {what}: 95% intervals over {outcome.seeds} seeds."


def _panels(outcome: ImpResults, what: str, label: str, caption: str, arms: list[str]) -> Picture | None:
    """Draw a panel an architecture: a quantity over the share of the weights left, a line an arm, with 95% intervals over seeds."""
    if not outcome.records or not outcome.levels:
        return None
    models = outcome.models
    columns = min(3, len(models))
    rows = math.ceil(len(models) / columns)
    figure = style.new_figure(8 if columns > 1 else 6, 2.7 * rows + 1)
    panels = figure.subplots(rows, columns, squeeze=False).flatten()
    colours, markers = _colours(), dict(zip([arm for arm in ARMS if arm not in DENSE], itertools.cycle(style.MARKERS), strict=False))
    lefts = {level: outcome.left(level) for level in outcome.levels}
    # What is not trained again is worse by a multiple: on its scale, the arms that are compared would be one line.
    trained = [*DENSE, *(arm for arm in arms if ARMS[arm].trained)]
    handles, said, cut, above = {}, [], False, False
    for panel, model in zip(panels, models, strict=False):
        finite = outcome.data.loc[(outcome.data["model"] == model) & outcome.data["arm"].isin(trained), what]
        finite = finite[np.isfinite(finite)]
        low, high = (float(finite.min()), float(finite.max())) if len(finite) else (0.0, 1.0)
        height = high - low or 1.0
        bottom, top = low - 0.05 * height, high + 0.08 * height
        frame = top + 0.1 * height  # the room above is for the signs of what is beyond
        dense, endless = mean(outcome.by_seed(model, outcome.baseline(model), 0, what)), set()
        for index, arm in enumerate(arms):
            points = [(lefts[level], mean(outcome.by_seed(model, arm, level, what))) for level in outcome.levels]
            points = [(left, value) for left, value in points if not math.isnan(value.value)]
            cut |= any(value.value <= frame and (value.low < bottom or value.high > frame) for _, value in points)
            if not points:
                continue
            # Beside each other, so that the intervals of one level do not lie on one another; all begin at the dense model.
            x = np.array([left for left, _ in points]) * 1.035 ** (index - len(arms) / 2)
            y = np.array([value.value if math.isfinite(value.value) else top for _, value in points])
            if math.isfinite(dense.value):
                panel.plot([1, x[0]], [dense.value, y[0]], color=colours[arm], linewidth=0.8, zorder=1)
            error = np.nan_to_num([[value.value - value.low, value.high - value.value] for _, value in points]).T
            style_of = {"color": colours[arm], "marker": markers[arm], "markersize": 5, "markeredgecolor": "white"}
            drawn = panel.errorbar(
                x, y, np.clip(error, 0, None), **style_of, linewidth=1.5 if arm == "ticket" else 1.1, elinewidth=1, capsize=2
            )
            handles.setdefault(arm, drawn)
            endless |= {left for left, value in points if math.isinf(value.value)}
            beyond = [place for place, (_, value) in zip(x, points, strict=True) if frame < value.value < math.inf]
            above |= bool(beyond)
            panel.plot(beyond, [top] * len(beyond), color=colours[arm], marker="^", markersize=7, linestyle="none", zorder=4)
            said.append(f"{model}, {arm}: " + ", ".join(f"{percent(left)} left {number(value.value)}" for left, value in points) + ".")
        for left in endless:  # one sign for all arms that end there
            panel.annotate("∞", (left, top), textcoords="offset points", xytext=(0, 5), ha="center", color=".2", fontsize=12)
        for arm, line in zip(DENSE, itertools.cycle((":", "-.")), strict=False):
            if math.isfinite(value := mean(outcome.by_seed(model, arm, 0, what)).value):
                panel.axhline(value, color=".3", linewidth=1.2, linestyle=line, zorder=1)
                said.append(f"{model}, {arm}: {number(value)}.")
        if math.isfinite(dense.value) and not math.isnan(dense.low):
            panel.axhspan(dense.low, dense.high, color=".5", alpha=0.15, linewidth=0, zorder=0)
        panel.set_xscale("log")
        panel.invert_xaxis()
        panel.xaxis.set_major_locator(FixedLocator([1, *lefts.values()]))
        panel.xaxis.set_minor_locator(NullLocator())
        panel.xaxis.set_major_formatter(FuncFormatter(lambda value, _: percent(value)))
        panel.set_ylim(bottom, frame)
        panel.set_title(model, fontsize=10, fontweight="bold")
        panel.grid(axis="x", visible=False)
    for panel in panels[len(models) :]:
        panel.set_visible(False)
    figure.supxlabel("weights left in the linear layers inside the blocks, log scale", fontsize=10)
    figure.supylabel(label, fontsize=10)
    figure.legend(handles.values(), handles, loc="outside upper center", ncols=min(3, len(handles)), frameon=False, fontsize=9)
    sns.despine(figure)
    caption += " Dotted: the dense model; dash-dotted: the dense model, rewound and restarted as a ticket is; grey band: the better one."
    few = _of_bars(outcome, "Bars and the grey band") + (" A bar without an end goes on beyond the frame." if cut else "")
    few += " A triangle at the top: the mean is beyond the frame." if above else ""
    if outcome.data["loss"].isna().any():
        few += " Where pruning left nothing of a layer, a mean is of the other seeds, and a line may end."
    return Picture(figure, caption + few, f"Line charts of {label} over the weights left. " + " ".join(said))
