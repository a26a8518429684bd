"""Quality against effective size as a picture: what a model predicts with the weights that are left in it."""

import pandas as pd
import seaborn as sns

from lottery.analysis.sizes import sizes
from lottery.common.format import number, percent
from lottery.report import style
from lottery.report.markdown import Picture
from lottery.report.tables import label


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
