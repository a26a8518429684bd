"""Where the zeros are, as maps of layers and as a table of how much of a model lies where."""

import re

import pandas as pd
import seaborn as sns

from lottery.analysis import layers
from lottery.common.format import percent
from lottery.experiments.records import Record
from lottery.report import style
from lottery.report.markdown import Picture, table

MOST_LEVELS = 5  # sparsities that the table has columns for


def picture(records: list[Record]) -> Picture | None:
    """Draw shares of zeros as maps, a row of maps a model and a column a way of spreading; ``None`` where all ways spread evenly."""
    found = layers.uneven(layers.zeros(records))
    if not found:
        return None
    models = list(dict.fromkeys(record.model for record in records))
    figure = style.new_figure(height=0.7 + 1.75 * len(models))
    panels = figure.subplots(len(models), len(found), squeeze=False)
    shown = 100 * pd.concat([rows["zeros"] for rows in found.values()])
    low, high = 5 * (shown.min() // 5), min(100, 5 * (shown.max() // 5 + 1))
    bar = None
    for row, model in enumerate(models):
        for column, (method, rows) in enumerate(found.items()):
            panel, own = panels[row, column], rows[rows["model"] == model]
            if own.empty:
                panel.set_visible(False)
                continue
            grid = own.pivot(index="kind", columns="block", values="zeros").reindex(own["kind"].unique())
            few = grid.shape[1] <= 6
            sns.heatmap(
                100 * grid, ax=panel, vmin=low, vmax=high, cmap="cividis", cbar=False, annot=few, fmt=".0f", annot_kws={"fontsize": 7},
                linewidths=0.4 if few else 0,
            )  # fmt: skip
            bar = panel.collections[0]
            panel.set(xlabel="block" if row == len(models) - 1 else "", ylabel="")
            panel.tick_params(labelsize=7, length=0, left=False)
            panel.set_yticklabels([kind.split(".")[-1] for kind in grid.index] if column == 0 else [], rotation=0)
            if column == 0:
                panel.set_ylabel(model, fontsize=9, fontweight="bold")
            if row == 0:
                panel.set_title(f"{method}, {percent(own['sparsity'].iloc[0])}", fontsize=9)
    figure.colorbar(bar, ax=panels, label="zeros in the layer, per cent", fraction=0.03)
    caption = (
        "Share of zeros in each layer, a row of maps a model, a column a way of spreading them: across a map the blocks from first to last,"
        " down it the kinds of layers. Every model of a column has the same sparsity as a whole."
    )
    alt = "Maps of the share of zeros by layer. " + " ".join(
        f"{model}, {method}: from {percent(own['zeros'].min())} in {_where(own, own['zeros'].idxmin())}"
        f" to {percent(own['zeros'].max())} in {_where(own, own['zeros'].idxmax())}."
        for method, rows in found.items()
        for model, own in rows.groupby("model", sort=False)
    )
    return Picture(figure, caption, alt)


_CAPTION = "How much of each model lies where, and how much of the whole is gone at each sparsity of the pruned layers."


def share_table(records: list[Record]) -> str:
    """Return, for each model, the parts that are pruned, the rest, and the share of zeros over the whole model at each sparsity."""
    rows, zeros = [], {}
    for model in dict.fromkeys(record.model for record in records):
        own = [record for record in records if record.model == model]
        result = own[0].result
        parts: dict[str, int] = {}
        levels = sorted({record.request.sparsity for record in own} - {0.0})
        shown = levels if len(levels) <= MOST_LEVELS else levels[::-2][:MOST_LEVELS]  # in between they are in proportion
        for name, weights in result.layer_weights.items():
            part = re.search(r"\.\d+\.([^.]+)", name)[1]
            parts[part] = parts.get(part, 0) + weights
        zeros[model] = {r.request.sparsity: percent(r.result.sparsity_model) for r in own if r.request.sparsity in shown}
        rows.append(
            {
                "Model": model,
                "Weights": f"{result.parameters:,}",
                **{f"In {part}": percent(weights / result.parameters) for part, weights in parts.items()},
                "Never pruned": percent(1 - result.prunable_parameters / result.parameters),
            }
        )
    columns = list(dict.fromkeys(name for row in rows for name in row))
    for sparsity in sorted({sparsity for found in zeros.values() for sparsity in found}):
        columns.append(f"Zeros at {percent(sparsity)}")
        for row in rows:
            row[columns[-1]] = zeros[row["Model"]].get(sparsity, "")
    return table([{name: row.get(name, "") for name in columns} for row in rows], _CAPTION)


def _where(rows: pd.DataFrame, index: int) -> str:
    return f"block {rows.loc[index, 'block']} {rows.loc[index, 'kind']}"
