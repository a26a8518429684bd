"""What zeros save: packed weights beside dense ones, in a file, in memory and in time."""

import json
import math
import statistics

import pandas as pd
import seaborn as sns

from lottery.common.format import number, percent, size
from lottery.common.paths import decoding_results
from lottery.evaluation.savings import Savings
from lottery.experiments.records import Record
from lottery.report import style
from lottery.report.markdown import Picture, table
from lottery.report.tables import beside, linked

# Tokens per second of Llama-2-7B in fp16 on an RTX 4090, from the paper (arXiv 2511.13061).
MACKO = {0.0: 66.5, 0.5: 98.6, 0.7: 150.8, 0.9: 255.0}


def obstacles(models: dict[str, list[Record]]) -> dict[str, str]:
    """Return why the variants of a model were not timed with packed weights, for each model of which that is so."""
    saved = {model: [record.result.savings for record in records if record.result.savings] for model, records in models.items()}
    return {model: one.obstacle for model, found in saved.items() for one in found if one.obstacle}


def picture(data: pd.DataFrame) -> Picture | None:
    """Draw speed and stored bytes over sparsity, as multiples of the dense form; ``None`` where nothing was timed."""
    timed = data[data["sparse_speed"].notna()]
    if timed.empty:
        return None
    figure = style.new_figure(9, 4.4)
    speed, stored = figure.subplots(1, 2)
    models = list(timed["model"].unique())
    for colour, marker, model in zip(style.colours(len(models)), style.MARKERS * len(models), models, strict=False):
        points = timed[timed["model"] == model].sort_values("sparsity")
        x, drawn = points["sparsity"], {"color": colour, "marker": marker, "markersize": 6, "markeredgecolor": "white", "zorder": 3}
        speed.plot(x, points["sparse_speed"], label=model, **drawn)
        speed.vlines(x, points["sparse_speed_low"], points["sparse_speed_high"], color=colour, linewidth=1.2)
        speed.plot(x, 1 / points["read_ratio"], color=colour, linestyle="--", linewidth=1)
        stored.plot(x, 100 * points["stored_ratio"], label=model, **drawn)
        stored.plot(x, 100 * points["memory_ratio"], color=colour, linestyle="--", linewidth=1)
    known = [level for level in MACKO if level]
    published = [MACKO[level] / MACKO[0.0] for level in known]
    for axes, dashed in ((speed, "if only the bytes read counted"), (stored, "peak in memory")):
        axes.plot([], [], color=".3", linestyle="--", linewidth=1, label=dashed)
    speed.plot(known, published, color=".45", linestyle=":", label="MACKO: Llama-2-7B on an RTX 4090")
    # A round that something else disturbed may be many times as long: its bar goes on beyond the frame.
    speed.set_ylim(0, 1.15 * max(*published, timed["sparse_speed"].max(), (1 / timed["read_ratio"]).max()))
    stored.set_ylim(0, 105)
    levels = sorted(set(timed["sparsity"]))
    for axes, name, dense in ((speed, "tokens per second, times dense", 1), (stored, "bytes, per cent of dense", 100)):
        axes.axhline(dense, color=".45", linewidth=1, zorder=1)
        axes.set(xlabel="sparsity of the linear layers inside the blocks", ylabel=name)
        ticks = levels if len(levels) < 6 else levels[:: math.ceil(len(levels) / 5)]
        axes.set_xticks(ticks, [percent(tick) for tick in ticks])
        axes.grid(axis="x", visible=False)
        axes.legend(frameon=False, fontsize=8, loc="best")
    sns.despine(figure)
    caption = (
        "What packed weights gain over the same weights dense, by the same decoder. Left: decoding, measured in turns, bars the spread over"
        " rounds; dashed, what it would be if only the bytes that a token reads counted; dotted, the figures that MACKO published of"
        " another model on a GPU. Right: bytes in a file; dashed, the peak in memory."
    )
    alt = "Two line charts over sparsity. " + " ".join(
        f"{row['model']} at {percent(row['sparsity'])}: {number(row['sparse_speed'])} times as fast, {percent(row['stored_ratio'])} of the"
        " bytes in a file."
        for _, row in timed.iterrows()
    )
    return Picture(figure, caption, alt)


def by_variant(models: dict[str, list[Record]]) -> str:
    """Return a row for each pruned variant: bytes, and tokens per second packed and dense.

    Args:
        models: Records by the name of their model, which stands at its first row; a single one without a name has no such column.
    """
    rows = []
    for model, records in models.items():
        own = [record for record in records if record.result.savings and record.result.savings.sparse]
        for index, record in enumerate(own):
            named = {"Model": "" if index else f"**{model}**"} if model else {}
            rows.append({**named, "Variant": linked(record, f"{model}/records" if model else "records"), **_cells(record.result.savings)})
    caption = "Packed weights, in brackets the same weights dense. Decode and prefill in tokens per second, by the same decoder."
    return table(rows, caption, "File|Memory|Decode|Prefill")


def _cells(found: Savings) -> dict[str, str]:
    sparse, dense = found.sparse, found.dense
    cells = {"File": beside([size(sparse.stored), size(dense.stored)]), "Memory": "", "Decode": "", "Prefill": ""}
    if sparse.speed and dense.speed:
        cells["Memory"] = beside([size(sparse.memory), size(dense.memory)])
        cells["Decode"] = beside([number(statistics.median(form.speed.decode_tokens_per_second)) for form in (sparse, dense)])
        cells["Prefill"] = beside([number(statistics.median(form.speed.prefill_tokens_per_second)) for form in (sparse, dense)])
    return cells


def on_real_models() -> str:
    """Return what the project's own benchmark found on real language models, for reports on stand-ins; empty where there is no file."""
    rows, machines = [], {}
    for path in decoding_results():
        found = json.loads(path.read_text(encoding="utf-8"))
        for row in found["rows"]:
            if row["sparsity"] and row["dtype"] == "float32":
                machines[found["machine"]] = None
                dense = next(one for one in found["rows"] if one["dtype"] == "float32" and not one["sparsity"])
                rows.append(
                    {
                        "Model": row["model"],
                        "Sparsity": percent(row["sparsity"]),
                        "Bytes read": percent(row["megabytes_read_a_token"] / dense["megabytes_read_a_token"]),
                        "Decode": beside([number(row["tokens_per_second"]), number(dense["tokens_per_second"])]),
                        "Times dense": number(row["times_dense_by_the_same_decoder"]),
                    }
                )
    caption = f"Real language models in float32, measured by `make bench` on {'; '.join(machines)}; tokens per second, dense in brackets."
    return table(rows, caption, "Sparsity|Bytes read|Decode|Times dense")
