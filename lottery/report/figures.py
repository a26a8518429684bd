"""Records as pictures. One style, vector, readable without colour: each model has its own marker and its name at its line."""

import itertools
import math

import pandas as pd
import seaborn as sns

from lottery.analysis.frame import frame, lines
from lottery.common.format import number, percent
from lottery.experiments.records import Record
from lottery.experiments.threshold import COST_LEVELS
from lottery.report import style
from lottery.report.markdown import Picture


def curve(records: list[Record]) -> Picture | None:
    """Draw bits per byte over sparsity of one model."""
    return over_sparsity(frame(records)) if records else None


def over_sparsity(data: pd.DataFrame) -> Picture:
    """Draw bits per byte over sparsity, by every way of pruning that occurs. What is rounded, or retrained and not pruned, is left out."""
    data = data[data["bits"].isna() & ((data["sparsity"] > 0) | (data["method"] == "dense"))]
    return methods_compared(data) if data["method"].nunique() > 2 else bits_over_sparsity(data)


def bits_over_sparsity(data: pd.DataFrame) -> Picture:
    """Draw bits per byte over sparsity as multiples of the dense model's, on a logarithmic scale, a line a model and method.

    The levels of the ticket score are drawn across. What is not finite, or has no dense model to be a multiple of, is drawn at the upper
    edge with the sign for infinity.
    """
    figure = style.new_figure()
    axes = figure.subplots()
    series = {label: points[points["bits_factor"].notna()] for label, points in lines(data).items()}
    series = {label: points for label, points in series.items() if len(points)}
    finite = data["bits_factor"][data["bits_factor"].map(math.isfinite)]
    high = max(finite.max(), 2.2) if len(finite) else 10.0
    low, top = min([*finite, 1.0]) / 1.05, high * 1.15
    ends = []
    for colour, marker, (label, points) in zip(style.colours(len(series)), itertools.cycle(style.MARKERS), series.items(), strict=False):
        x, values = points["sparsity"].to_numpy(), points["bits_factor"]
        y = [value if math.isfinite(value) else top for value in values]
        axes.plot(x, y, color=colour, marker=marker, markersize=6, linewidth=1.8, markeredgecolor="white", markeredgewidth=0.7, zorder=3)
        axes.vlines(x, points["bits_factor_low"].clip(upper=top), points["bits_factor_high"].clip(upper=top), color=colour, linewidth=1.2)
        for xi, value in zip(x, values, strict=True):
            if not math.isfinite(value):
                axes.annotate("∞", (xi, top), textcoords="offset points", xytext=(0, 6), ha="center", color=style.ink(colour))
        ends.append((y[-1], x[-1], label, colour))
    axes.set_yscale("log")
    axes.set_ylim(low, top * 1.15)
    for name, level in COST_LEVELS.items():
        axes.axhline(level, color=".45", linewidth=1, linestyle=":", zorder=1)
        style.name_level(axes, level, name)
    style.label_ends(axes, ends)
    ticks = _apart(_named(data))
    axes.set_xticks(ticks, [percent(t) if t else "dense" for t in ticks])
    axes.set_xlim(-0.03, max([*data["sparsity"], 0.5]) + 0.02)
    style.logarithmic(axes.yaxis)
    axes.grid(axis="x", visible=False)
    axes.set_xlabel("sparsity of the linear layers inside the blocks")
    axes.set_ylabel("bits per byte, times dense (log scale)")
    sns.despine(figure)
    caption = (
        "Bits per byte over sparsity, as multiples of the dense model's; bars, where they are longer than a mark: 95% intervals. Dotted: 5%"
        " more and twice as many, where the ticket scores lie. Compares across tokenizers, which perplexity per token does not."
    )
    alt = "Line chart of bits per byte, times dense, over sparsity. " + " ".join(
        f"{label}: "
        + ", ".join(f"{percent(s) if s else 'dense'} {number(b)}" for s, b in zip(points["sparsity"], points["bits_factor"], strict=True))
        + "."
        for label, points in series.items()
    )
    return Picture(figure, caption, alt)


def methods_compared(data: pd.DataFrame) -> Picture:
    """Draw bits per byte over sparsity as multiples of the dense model's, a panel a model, a line a method.

    N:M is a single point without filling. All panels share one logarithmic scale. Only one allocation is drawn, the uniform one where there
    is one, and the others are left to the tables: three lines a method are more than an eye can follow.
    """
    pruned = data[data["method"] != "dense"]
    allocation = "uniform" if (pruned["allocation"] == "uniform").any() else next(iter(pruned["allocation"]), "uniform")
    shown = pruned[(pruned["allocation"] == allocation) & pruned["bits_factor"].map(math.isfinite)]
    models, methods = list(data["model"].unique()), list(shown["base_method"].unique())
    columns = min(3, len(models))
    rows = math.ceil(len(models) / columns)
    figure = style.new_figure(height=max(4.5, 2.6 * rows + 0.9))
    panels = figure.subplots(rows, columns, sharey=True, squeeze=False).flatten()
    colours = dict(zip(methods, style.colours(len(methods)), strict=False))  # there may be none that is finite
    markers = dict(zip(methods, itertools.cycle(style.MARKERS), strict=False))
    step = 0.1 if columns == 1 else 0.2
    least, most = (shown["sparsity"].min(), shown["sparsity"].max()) if len(shown) else (1, 0)
    round_ones = [tick for i in range(10) if least - 0.02 <= (tick := round(step * i, 1)) <= most + 0.02]
    named = _apart(_named(shown), step)
    ticks = sorted([*named, *(tick for tick in round_ones if all(abs(tick - other) >= step - 1e-9 for other in named))])
    top = max([*shown["bits_factor"], 2.0]) * 1.15
    handles = {}
    for panel, model in zip(panels, models, strict=False):
        for (method, label), points in shown[shown["model"] == model].groupby(["base_method", "method"], sort=False):
            points = points.sort_values("sparsity")
            structured = (points["pattern"] != "unstructured").any()
            drawn = panel.plot(
                points["sparsity"], points["bits_factor"], color=colours[method],
                marker=markers[method], markersize=7 if structured else 5, linewidth=1.4, zorder=3,
                linestyle="none" if structured else "-", markerfacecolor="none" if structured else colours[method],
                markeredgecolor=colours[method] if structured else "white",
            )  # fmt: skip
            ends = (points[f"bits_factor_{end}"].clip(upper=top) for end in ("low", "high"))
            panel.vlines(points["sparsity"], *ends, color=colours[method], linewidth=1, zorder=2)
            handles.setdefault(label, drawn[0])
        floor = data.loc[data["model"] == model, "unigram_factor"].iloc[0]
        for name, level in {"": 1, **COST_LEVELS, "token frequencies": floor}.items():
            panel.axhline(level, color=".4", linewidth=1, linestyle="--" if level is floor else ":", zorder=1)
            if panel is panels[0] and math.isfinite(level):
                style.name_level(panel, level, name)
        panel.set_title(model, fontsize=10, fontweight="bold")
        panel.set_xticks(ticks, [percent(tick) for tick in ticks])
        if ticks:
            panel.set_xlim(min(shown["sparsity"]) - 0.05, max(shown["sparsity"]) + 0.05)
        panel.grid(axis="x", visible=False)
    panels[0].set_yscale("log")
    panels[0].set_ylim(min([*shown["bits_factor"], 1.0]) / 1.1, top)
    style.logarithmic(panels[0].yaxis)
    for panel in panels[len(models) :]:
        panel.set_visible(False)
    figure.supxlabel("sparsity of the linear layers inside the blocks", fontsize=10)
    figure.supylabel("bits per byte, times dense (log scale)", fontsize=10)
    figure.legend(handles.values(), handles, loc="outside upper center", ncols=min(4, len(handles) or 1), frameon=False, fontsize=9)
    sns.despine(figure)
    caption = (
        "Bits per byte over sparsity by method, as multiples of the dense model's, a panel a model. Dotted: the dense model, 5% more and"
        " twice as many. Bars, where they are longer than a mark: 95% intervals."
    )
    if (data["unigram_factor"] <= top).any():
        caption += " Dashed: token frequencies alone."
    if (shown["pattern"] != "unstructured").any():
        caption += " Without filling: N:M."
    if (pruned["allocation"] != allocation).any():
        caption += f" All with the {allocation} allocation; the others are in the tables."
    alt = "Line charts of bits per byte, times dense, over sparsity by method. " + " ".join(
        f"{model}, {label}: "
        + ", ".join(f"{percent(s)} {number(b)}" for s, b in zip(points["sparsity"], points["bits_factor"], strict=True))
        + "."
        for (model, label), points in shown.groupby(["model", "method"], sort=False)
    )
    return Picture(figure, caption, alt)


def _named(data: pd.DataFrame) -> list[float]:
    """Return the sparsities that the profile names, not those that a bisection added for single models, which were only scored."""
    return list(data.loc[data["verdict"].notna(), "sparsity"].unique())


def _apart(sparsities, least: float = 0.06) -> list[float]:
    """Return the sparsities that can be written beside each other, from the highest down: a bisection measures some that cannot."""
    found: list[float] = []
    for sparsity in sorted(sparsities, reverse=True):
        if not found or found[-1] - sparsity >= least - 1e-9:  # 0.7 less 0.6 is less than 0.1
            found.append(float(sparsity))
    return found[::-1]
