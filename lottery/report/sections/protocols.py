"""The dense model by every protocol, as a table, a sentence and a figure."""

import math

import pandas as pd
import seaborn as sns

from lottery.analysis.protocols import extremes
from lottery.common.format import change, number
from lottery.experiments.protocols.records import STANDARD
from lottery.report import style
from lottery.report.markdown import Picture, markdown, table
from lottery.report.sentences import sentences


def told(model: str, data: pd.DataFrame) -> str:
    """Return the protocols of one model as a table, and the span between them in a sentence."""
    if (found := extremes(data)) is None:
        return ""
    rows = [
        {
            "Protocol": row.protocol,
            "Perplexity": number(row.perplexity) if not row.skipped else "–",
            "Against the standard": change(row.change) if row.protocol != STANDARD and not math.isnan(row.change) else "",
            "Per word": number(row.per_word) if pd.notna(row.per_word) else "",
            "Who scores so": row.skipped or row.used_by,
        }
        for row in data.itertuples()
    ]
    count = data.loc[data["protocol"] == STANDARD, "windows"]
    scored = f" All score the stretch of the standard one's {count.iloc[0]} windows, or the part that they name." if len(count) else ""
    caption = f"{model}: its dense perplexity by protocol.{scored}"
    low, high = found
    return markdown(
        sentences("protocols", model=model, low=low, high=high), table(rows, caption, "Perplexity|Against the standard|Per word")
    ).data


def picture(model: str, data: pd.DataFrame) -> Picture | None:
    """Draw each protocol's perplexity as a dot, the standard one as a line."""
    shown = data[(data["skipped"] == "") & data["perplexity"].map(math.isfinite)].iloc[::-1]
    if len(shown) < 2:
        return None
    figure = style.new_figure(height=0.9 + 0.27 * len(shown))
    axes = figure.subplots()
    for value in shown.loc[shown["protocol"] == STANDARD, "perplexity"]:
        axes.axvline(value, color=".5", linewidth=1, linestyle=":", zorder=1)
    axes.plot(shown["perplexity"], shown["protocol"], "o", color=style.colours(1)[0], markersize=7, markeredgecolor="white", zorder=3)
    axes.set_xscale("log")
    axes.set_xlim(shown["perplexity"].min() / 1.04, shown["perplexity"].max() * 1.06)
    style.logarithmic(axes.xaxis)
    axes.set_xlabel(f"perplexity of {model}, dense (log scale)")
    axes.grid(axis="y", visible=False)
    sns.despine(figure)
    caption = f"Dense perplexity of {model} by protocol. Dotted: the standard protocol."
    alt = f"Dot plot of the dense perplexity of {model} by protocol. " + ", ".join(
        f"{row.protocol} {number(row.perplexity)}" for row in shown.iloc[::-1].itertuples()
    )
    return Picture(figure, caption, alt + ".")
