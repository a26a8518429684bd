"""Records as pictures. One style, vector, readable without colour: each model has its own marker and its name at its line."""

import itertools
import math

import pandas as pd
import seaborn as sns

from lottery import style
from lottery.frame import frame
from lottery.records import Record
from lottery.show import Picture
from lottery.tables import number, percent

CLIFF = 2.0  # a step in which perplexity more than doubles


def curve(records: list[Record]) -> Picture | None:
    """Perplexity over sparsity of one model."""
    if not records:
        return None
    data = frame(records)
    return methods_compared(data) if data["method"].nunique() > 2 else perplexity_over_sparsity(data)


def perplexity_over_sparsity(data: pd.DataFrame) -> Picture:
    """Perplexity over sparsity, a line a model and method, logarithmic; the cliff is the step drawn in dashes.

    A perplexity that is not finite is drawn at the upper edge with the sign for infinity.
    """
    figure = style.new_figure()
    axes = figure.subplots()
    finite = data["perplexity"][data["perplexity"].map(math.isfinite)]
    low, high = (finite.min(), finite.max()) if len(finite) else (1.0, 10.0)
    top = high * (high / low) ** 0.12 + 0.5 * high
    series = list(lines(data).items())
    colours = style.colours(len(series))
    ends = []
    for index, (label, points) in enumerate(series):
        x = points["sparsity"].to_numpy()
        y = [value if math.isfinite(value) else top for value in points["perplexity"]]
        colour, marker = colours[index], style.MARKERS[index % len(style.MARKERS)]
        broken = cliff(points)
        for i in range(len(x) - 1):
            axes.plot(x[i : i + 2], y[i : i + 2], color=colour, linewidth=1.8, linestyle="--" if broken == i else "-", zorder=2)
        axes.plot(x, y, color=colour, marker=marker, markersize=7, linestyle="none", markeredgecolor="white", zorder=3)
        axes.vlines(
            x, points["perplexity_low"].clip(upper=top), points["perplexity_high"].clip(upper=top), color=colour, linewidth=1.2, zorder=4
        )
        for xi, value in zip(x, points["perplexity"], strict=True):
            if not math.isfinite(value):
                axes.annotate("∞", (xi, top), textcoords="offset points", xytext=(0, 6), ha="center", color=style.ink(colour))
        ends.append((y[-1], x[-1], label, colour))
    axes.set_yscale("log")
    axes.set_ylim(low / 1.25, top * 1.25)
    style.label_ends(axes, ends)
    ticks = _apart(data["sparsity"].unique())
    axes.set_xticks(ticks, [percent(t) if t else "dense" for t in ticks])
    axes.set_xlim(-0.03, max([*data["sparsity"], 0.5]) + 0.02)
    style.logarithmic(axes.yaxis)
    axes.grid(axis="x", visible=False)
    axes.set_xlabel("sparsity of the linear layers inside the blocks")
    axes.set_ylabel("perplexity, log scale (lower is better)")
    sns.despine(figure)
    caption = (
        "Perplexity over sparsity; bars, where they are longer than a mark: 95% intervals."
        " Dashed: the cliff, the first step between two measured sparsities in which perplexity more than doubles."
        " Compare the shapes, not the heights: perplexity per token does not compare across tokenizers."
    )
    alt = "Line chart of perplexity over sparsity. " + " ".join(
        f"{label}: "
        + ", ".join(f"{percent(s) if s else 'dense'} {number(p)}" for s, p in zip(points["sparsity"], points["perplexity"], strict=True))
        + "."
        for label, points in series
    )
    return Picture(figure, caption, alt)


def methods_compared(data: pd.DataFrame) -> Picture:
    """Perplexity over sparsity, a panel a model, a line a method; N:M is a single point without filling. One logarithmic scale.

    Other allocations than the uniform one are left to the tables: three lines a method are more than an eye can follow.
    """
    shown = data[(data["allocation"] == "uniform") & (data["method"] != "dense")]
    models, methods = list(data["model"].unique()), list(shown["base_method"].unique())
    columns = min(3, len(models))
    rows = math.ceil(len(models) / columns)
    figure = style.new_figure(height=2.6 * rows + 0.9)
    panels = figure.subplots(rows, columns, sharey=True, squeeze=False).flatten()
    colours = dict(zip(methods, style.colours(len(methods)), strict=True))
    markers = dict(zip(methods, itertools.cycle(style.MARKERS), strict=False))
    drawn_here = data[data["perplexity"].map(math.isfinite) & (data["allocation"] == "uniform")]
    judged = drawn_here.loc[drawn_here["base_method"] != "random", "perplexity"]  # the control lies so high that it would flatten all else
    low, top = (judged.min() / 1.3, judged.max() * 1.6) if len(judged) else (1.0, 10.0)
    ticks = sorted(shown["sparsity"].unique())
    handles = {}
    for panel, model in zip(panels, models, strict=False):
        for (method, label), points in shown[shown["model"] == model].groupby(["base_method", "method"], sort=False):
            points = points.sort_values("sparsity")
            structured = (points["pattern"] != "unstructured").any()
            drawn = panel.plot(
                points["sparsity"], points["perplexity"].clip(upper=10 * top), color=colours[method],
                marker=markers[method], markersize=7 if structured else 5, linewidth=1.4, zorder=3,
                linestyle="none" if structured else "-", markerfacecolor="none" if structured else colours[method],
                markeredgecolor=colours[method] if structured else "white",
            )  # fmt: skip
            handles.setdefault(label, drawn[0])
        for value in data.loc[(data["model"] == model) & (data["method"] == "dense"), "perplexity"]:
            panel.axhline(value, color=".4", linewidth=1, linestyle=":", zorder=1)
        panel.set_title(model, fontsize=10, fontweight="bold")
        panel.set_xticks(ticks, [percent(tick) for tick in ticks])
        panel.set_xlim(min(ticks) - 0.05, max(ticks) + 0.05)
        panel.grid(axis="x", visible=False)
    panels[0].set_yscale("log")
    panels[0].set_ylim(low, top)
    style.logarithmic(panels[0].yaxis, decades_only=top >= 200 * low)
    for panel in panels[len(models) :]:
        panel.set_visible(False)
    figure.supxlabel("sparsity of the linear layers inside the blocks", fontsize=10)
    figure.supylabel("perplexity, log scale (lower is better)", fontsize=10)
    figure.legend(handles.values(), handles, loc="outside upper center", ncols=min(4, len(handles)), frameon=False, fontsize=9)
    sns.despine(figure)
    caption = "Perplexity over sparsity by method, a panel a model. Dotted: the dense model."
    if (shown["perplexity"] > top).any():
        caption += " What leaves a panel at its top is in the tables."
    if (shown["pattern"] != "unstructured").any():
        caption += " Without filling: N:M."
    if (data["allocation"] != "uniform").any():
        caption += " All with the uniform allocation; the others are in the tables."
    alt = "Line charts of perplexity over sparsity by method. " + " ".join(
        f"{model}, {label}: "
        + ", ".join(f"{percent(s)} {number(p)}" for s, p in zip(points["sparsity"], points["perplexity"], strict=True))
        + "."
        for (model, label), points in shown.groupby(["model", "method"], sort=False)
    )
    return Picture(figure, caption, alt)


def _apart(sparsities, least: float = 0.06) -> list[float]:
    """Sparsities that can be written beside each other, from the highest down: a bisection measures some that cannot."""
    found: list[float] = []
    for sparsity in sorted(sparsities, reverse=True):
        if not found or found[-1] - sparsity >= least:
            found.append(float(sparsity))
    return found[::-1]


def lines(data: pd.DataFrame) -> dict[str, pd.DataFrame]:
    """The series of a study: for each model and method its points from the dense one on, in order of sparsity."""
    pruned = data[data["method"] != "dense"]
    methods = list(pruned["method"].unique()) or ["dense"]
    found = {}
    for model in data["model"].unique():
        of_model = data[data["model"] == model]
        for method in methods:
            points = of_model[of_model["method"].isin(["dense", method])].sort_values("sparsity").reset_index(drop=True)
            if len(points):
                found[model if len(methods) == 1 else f"{model}, {method}"] = points
    return found


def cliff(points: pd.DataFrame) -> int | None:
    """The index of the point before the first step in which perplexity more than doubles; ``None`` where no step does."""
    values = list(points["perplexity"])
    for i in range(len(values) - 1):
        if math.isfinite(values[i]) and values[i + 1] > CLIFF * values[i]:
            return i
    return None
