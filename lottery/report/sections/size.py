"""Quality against effective size: what a model predicts with the weights that are left in it, and who is best at each size."""

import math

import pandas as pd
import seaborn as sns

from lottery.common.format import number, percent
from lottery.report import style
from lottery.report.markdown import Picture
from lottery.report.sentences import listed
from lottery.report.tables import label

COLUMNS = ["model", "method", "sparsity", "nonzero", "bits_per_byte", "front"]


def sizes(data: pd.DataFrame) -> pd.DataFrame:
    """Return a row for each variant: the nonzero weights of the whole model, bits per byte, and whether it lies on the Pareto front.

    The front uses bits per byte and not perplexity, so that models with different tokenizers compare. A variant is on the front if no other
    with at most as many nonzero weights predicts the text as well or better.
    """
    found = data[data["bits_per_byte"].map(math.isfinite)].copy()
    found["nonzero"] = ((1 - found["sparsity_model"]) * found["parameters"]).round().astype(int)
    found = found.sort_values(["nonzero", "bits_per_byte"], ignore_index=True)
    best = found["bits_per_byte"].cummin()
    found["front"] = (found["bits_per_byte"] == best) & ~found["bits_per_byte"].duplicated() & (best.shift(fill_value=math.inf) > best)
    return found


def picture(data: pd.DataFrame) -> Picture | None:
    """Draw bits per byte over nonzero weights, both logarithmic, a line a model from its dense self down; the front in grey.

    ``None`` where nothing finite was measured.
    """
    found = sizes(data)
    if found.empty:
        return None
    figure = style.new_figure()
    axes = figure.subplots()
    front = found[found["front"]]
    axes.step(front["nonzero"], front["bits_per_byte"], where="post", color=".7", linewidth=1.5, zorder=1)
    models = list(data["model"].unique())
    for model, colour, marker in zip(models, style.colours(len(models)), style.MARKERS * len(models), strict=False):
        points = found[found["model"] == model].sort_values("sparsity")
        if points.empty:
            continue
        axes.plot(
            points["nonzero"], points["bits_per_byte"], color=colour, marker=marker, markersize=7, markeredgecolor="white", label=model,
            zorder=3,
        )  # fmt: skip
        for _, point in points[points["sparsity"] > 0].iterrows():
            axes.annotate(
                percent(point["sparsity"]), (point["nonzero"], point["bits_per_byte"]), textcoords="offset points", xytext=(7, 4),
                fontsize=8, color=style.ink(colour),
            )  # fmt: skip
    axes.set_xscale("log")
    axes.set_yscale("log")
    low, high = found["bits_per_byte"].min(), found["bits_per_byte"].max()
    axes.set_ylim(low / 1.15, high * 1.2)
    # Names at the lines would cover each other where the dense models are much alike; that corner, above them, is free.
    legend = axes.legend(loc="upper right", frameon=False)
    for name, line in zip(legend.get_texts(), legend.legend_handles, strict=True):
        name.set(color=style.ink(line.get_color()), fontweight="bold")
    axes.margins(x=0.12)
    style.logarithmic(axes.xaxis)
    style.logarithmic(axes.yaxis)
    axes.set_xlabel("weights that are not zero, in the whole model, log scale")
    axes.set_ylabel("bits per byte, log scale (lower is better)")
    sns.despine(figure)
    caption = (
        "Bits per byte over the weights that are left, each line from the dense model on the right to its sparsest ticket on the left."
        " Grey line: the front, what no variant with as few or fewer weights betters. Compares across tokenizers."
    )
    alt = "Line chart of bits per byte over non-zero weights. " + " ".join(
        f"{model}: " + ", ".join(f"{label(p)} {p['nonzero']:,} weights {number(p['bits_per_byte'])}" for _, p in points.iterrows()) + "."
        for model, points in found.sort_values("sparsity").groupby("model", sort=False)
    )
    return Picture(figure, caption, alt)


def who_is_best_at_a_size(data: pd.DataFrame) -> str:
    """Name the Pareto front of the variants whose texts are coherent, and say whether pruning beats a smaller dense model.

    What a ticket must beat is a dense model of the size that a larger model was pruned down to. A model that is smaller than it already
    while dense proves nothing by pruning.
    """
    found = sizes(data[(data["method"] == "dense") | data["coherent"].astype(bool)])
    dense = found[found["method"] == "dense"]
    if dense["model"].nunique() < 2:
        return "Fewer than two dense models are measured, so nothing can be said of who is best at a size."
    front = found[found["front"]]
    said = ", ".join(f"{_named(row)} ({row['nonzero']:,})" for _, row in front.iterrows())
    text = f"Of those whose texts are coherent, from the fewest non-zero weights up, the best at its size is: {said}."
    beating = []
    for _, row in front[front["method"] != "dense"].iterrows():
        unpruned = dense.loc[dense["model"] == row["model"], "nonzero"].max()
        between = (dense["nonzero"] >= row["nonzero"]) & (dense["nonzero"] < unpruned)
        if len(beaten := dense[between & (dense["bits_per_byte"] > row["bits_per_byte"])]):
            smaller = listed(list(beaten["model"].unique()))
            beating.append(f"{_named(row)} has no more weights left than the dense {smaller} and predicts the text better")
    if beating:
        return f"{text} So pruning can pay: {'; '.join(beating)}."
    return f"{text} No model, pruned down to the size of a smaller dense one, predicts the text better than that."


def _named(row: pd.Series) -> str:
    return f"{row['model']} {label(row)}"
