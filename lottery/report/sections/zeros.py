"""Where the zeros are: by layer, by kind of layer, and in how much of a model there are none."""

import re

import pandas as pd
import seaborn as sns

from lottery.common.format import percent
from lottery.experiments.records import Record
from lottery.report import style
from lottery.report.markdown import Picture, table

MOST_LEVELS = 5  # sparsities that the table has columns for
UNEVEN = 0.005  # shares of zeros that differ by more between layers are no rounding


def zeros(records: list[Record]) -> pd.DataFrame:
    """Return a row for each layer of every pruned variant: block, kind (``self_attn.q_proj``), weights and share of zeros."""
    rows = []
    for record in records:
        if record.request.method == "dense":
            continue
        for name, share in record.result.sparsity_layers.items():
            block, kind = re.search(r"\.(\d+)\.(.+)$", name).groups()
            rows.append(
                {
                    "model": record.model,
                    "method": record.request.variant.label,
                    "base_method": record.request.method,
                    "allocation": record.request.allocation,
                    "sparsity": record.request.sparsity,
                    "block": int(block),
                    "kind": kind,
                    "weights": record.result.layer_weights[name],
                    "zeros": share,
                }
            )
    return pd.DataFrame(rows)


def uneven(data: pd.DataFrame) -> dict[str, pd.DataFrame]:
    """Return one way of pruning for each uneven way of spreading zeros over layers, by its name, at the middle sparsity measured of it."""
    found = {}
    for (base, allocation), rows in data.groupby(["base_method", "allocation"], sort=False) if len(data) else []:
        levels = sorted(rows["sparsity"].unique())
        middle = rows[rows["sparsity"] == levels[len(levels) // 2]]
        spread = middle.groupby("model")["zeros"].agg(lambda shares: shares.max() - shares.min()).max()
        spreading = base if allocation == "uniform" else allocation
        if spread > UNEVEN and spreading not in {name for name, _ in found}:
            found[spreading, middle["method"].iloc[0]] = middle
    return {method: rows for (_, method), rows in found.items()}


def picture(records: list[Record]) -> Picture | None:
    """Draw shares of zeros as maps, a row of maps a model and a column a way of spreading; ``None`` where all ways spread evenly."""
    found = uneven(zeros(records))
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


def where_they_are(records: list[Record]) -> str:
    """Say what an even and an uneven way of pruning spare."""
    data = zeros(records)
    if data.empty:
        return "No pruned variant is recorded, so there are no zeros to look for."
    found = uneven(data)
    even = [str(method) for method in data["method"].unique() if not _is_uneven(data[data["method"] == method])]
    said = [f"By {', '.join(even)} every layer loses the same share."] if even else []
    for method, rows in found.items():
        lost = rows.assign(lost=rows["zeros"] * rows["weights"])
        parts = [_extremes(lost, "kind", ""), _extremes(lost, "block", "block ")]
        told = "; ".join(part for part in parts if part) or "takes alike from all kinds and blocks, over all models"
        said.append(f"{method} at {percent(rows['sparsity'].iloc[0])} {told}.")
    return " ".join(said)


def _extremes(lost: pd.DataFrame, column: str, called: str) -> str:
    """Say from which kind or block least and most was taken over all models; empty where that is hardly a difference."""
    sums = lost.groupby(column)[["lost", "weights"]].sum()
    shares = (sums["lost"] / sums["weights"]).sort_values()
    if shares.iloc[-1] - shares.iloc[0] <= UNEVEN:
        return ""
    (least, low), (most, high) = [(shares.index[i], percent(shares.iloc[i])) for i in (0, -1)]
    return f"takes least from {called}{least} ({low}) and most from {called}{most} ({high})"


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
    return table([{name: row.get(name, "") for name in columns} for row in rows], "|".join(columns[1:]), _CAPTION)


def _is_uneven(rows: pd.DataFrame) -> bool:
    spread = rows.groupby(["model", "sparsity"])["zeros"].agg(lambda shares: shares.max() - shares.min())
    return bool((spread > UNEVEN).any())


def _where(rows: pd.DataFrame, index: int) -> str:
    return f"block {rows.loc[index, 'block']} {rows.loc[index, 'kind']}"
