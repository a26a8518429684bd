"""Quality against bytes as a picture and a table: what a model predicts with what is left of it in a file."""

import pandas as pd
import seaborn as sns

from lottery.analysis.sizes import WAYS, sizes, with_layer_share
from lottery.common.format import number, percent, size
from lottery.pruning.rounding import ROUNDERS
from lottery.report import style
from lottery.report.markdown import Picture, table
from lottery.report.tables import within

_DASHES = ("--", ":")  # of lines of rounded weights, one for each of ROUNDERS


def picture(data: pd.DataFrame) -> Picture | None:
    """Draw bits per byte over the bytes of a file, both logarithmic, a line a model and way from its dense self down; the front in grey.

    ``None`` where nothing finite was measured.
    """
    if (found := sizes(data)).empty:
        return None
    found = with_layer_share(found)
    figure = style.new_figure()
    axes = figure.subplots()
    front = found[found["front"]]
    axes.step(_mebibytes(front), front["bits_per_byte"], where="post", color=".7", linewidth=1.5, zorder=1)
    # Whoever else reached a level lies near, and would write its label over that of the best.
    levels = found[found["way"].isin(WAYS[:2]) | (found["front"] & (found["way"] == WAYS[2]))].sort_values("bits_per_byte")
    named = levels.drop_duplicates(["model", "way", "sparsity", "bits"]).index
    models = [model for model in data["model"].unique() if model in set(found["model"])]
    for model, colour, marker in zip(models, style.colours(len(models)), style.MARKERS * len(models), strict=False):
        for way, line, points in _series(found[found["model"] == model]):
            label = model if way == WAYS[0] else None
            look = {"color": colour, "marker": marker, "linestyle": line, "markersize": 7, **_filling(way, colour)}
            axes.plot(_mebibytes(points), points["bits_per_byte"], zorder=3, label=label, **look)
            for _, point in points[points.index.isin(named)].iterrows():
                parts = [percent(point["sparsity"])] * (way != WAYS[1]) + [f"{point['bits']:g} bit"] * (way != WAYS[0])
                place = {WAYS[0]: (7, 4), WAYS[1]: (8, 3), WAYS[2]: (-8, -3)}[way]
                at, side = (point["stored"] / 2**20, point["bits_per_byte"]), "right" if way == WAYS[2] else "left"
                text = axes.annotate(" + ".join(parts), at, textcoords="offset points", xytext=place, ha=side, fontsize=8)
                text.set_color(style.ink(colour))
    axes.set_xscale("log")
    axes.set_yscale("log")
    low, high = found["bits_per_byte"].min(), found["bits_per_byte"].max()
    axes.set_ylim(low / 1.25, high * 1.2)
    # Names at the lines would cover each other where the dense models are much alike; that corner, above them, is free.
    legend = axes.legend(loc="upper right", frameon=False)
    for name, line in zip(legend.get_texts(), legend.legend_handles, strict=True):
        name.set(color=style.ink(line.get_color()), fontweight="bold")
    axes.margins(x=0.15)
    style.logarithmic(axes.xaxis)
    style.logarithmic(axes.yaxis)
    axes.set_xlabel("MiB of weights in a file, log scale")
    axes.set_ylabel("bits per byte, log scale (lower is better)")
    sns.despine(figure)
    rounded, rounders = "", set(found["rounder"].dropna())
    if rounders:
        lines = " and ".join(f"{dash} by {name}" for name, dash in zip(ROUNDERS, ("dashed", "dotted"), strict=True) if name in rounders)
        rounded = f" Without filling: weights rounded to few bits, {lines}; half filled: pruned and then rounded to as many bits."
    caption = (
        "Bits per byte over the bytes that the weights take in a file, zeros packed, each line from the dense model on the right to its"
        f" sparsest ticket on the left.{rounded} Grey line: the front, what no variant with as few or fewer bytes betters. Compares across"
        " tokenizers."
    )
    alt = "Line chart of bits per byte over bytes in a file. " + " ".join(
        f"{model}: " + ", ".join(f"{p['title']} {size(p['stored'])} {number(p['bits_per_byte'])}" for _, p in points.iterrows()) + "."
        for model, points in found.sort_values("stored", ascending=False).groupby("model", sort=False)
    )
    return Picture(figure, caption, alt)


def _filling(way: str, colour) -> dict:
    """Return how marks of a way look: full where weights were pruned, empty where they were rounded, half full where both was done."""
    looks = {
        WAYS[0]: {"markerfacecolor": colour, "markeredgecolor": "white"},
        WAYS[1]: {"markerfacecolor": "white", "markeredgecolor": colour},
        WAYS[2]: {"markerfacecolor": colour, "markerfacecoloralt": "white", "markeredgecolor": colour, "fillstyle": "left"},
    }
    return looks[way]


def _series(found: pd.DataFrame) -> list[tuple[str, str, pd.DataFrame]]:
    """Return the way, the line style and the points of each series of a single model; the dense one begins all but single marks."""
    found = found.sort_values("stored", ascending=False)
    series = [(WAYS[2], "none", found[found["way"] == WAYS[2]])]
    for rounder, line in zip(ROUNDERS, _DASHES, strict=True):
        series.append((WAYS[1], line, found[(found["way"] == "") | ((found["way"] == WAYS[1]) & (found["rounder"] == rounder))]))
    return [one for one in series if one[2]["bits"].notna().any()] + [(WAYS[0], "-", found[found["way"].isin(["", WAYS[0]])])]


def _mebibytes(points: pd.DataFrame) -> pd.Series:
    return points["stored"] / 2**20


def by_bytes(data: pd.DataFrame) -> str:
    """Return a row for each variant of the models that were rounded too, the largest first: its bytes, and how well it predicts."""
    rows, found = [], with_layer_share(data)
    for model, variants in found.groupby("model", sort=False):
        if variants["bits"].notna().any():
            for index, (_, row) in enumerate(variants.sort_values("stored", ascending=False).iterrows()):
                rows.append(
                    {
                        "Model": "" if index else f"**{model}**",
                        "Variant": f"[{row['title']}]({row['record']})",
                        "File": size(row["stored"]),
                        "Of the layers": percent(row["layer_share"]),
                        "Perplexity": number(row["perplexity"]),
                        "Times dense": "" if row["method"] == "dense" else within(row, "bits_factor"),
                        "Texts": row["verdict"],
                    }
                )
    caption = (
        "Bytes in a file; of the layers: those of the linear layers inside the blocks, as a share of what they take dense. Times dense:"
        " bits per byte."
    )
    return table(rows, caption, "File|Of the layers|Perplexity|Times dense")
