"""What retraining gives back, as sentences and a table."""

import math

import pandas as pd

from lottery.analysis.recovery import MASKED, recoveries
from lottery.common.format import NBSP, number, percent
from lottery.report.markdown import table
from lottery.report.sentences import paragraphs
from lottery.report.tables import within


def told(data: pd.DataFrame) -> list[str]:
    """Return what retraining did to each model, from the rows of ``analysis.recovery.recovered``."""
    return [*paragraphs("recovery", found=recoveries(data)), by_variant(data)]


def by_variant(data: pd.DataFrame) -> str:
    """Return a row for each retrained variant: its bits before and after, what that took, and whether its texts are coherent."""
    rows, has_moved = [], data.loc[data["recovery"] != MASKED, "moved"].notna().any()
    for model, variants in data.groupby("model", sort=False):
        for index, (_, row) in enumerate(variants.iterrows()):
            rows.append(
                {
                    "Model": "" if index else f"**{model}**",
                    "Variant": f"[{row['title']}]({row['record']})",
                    "Before": "" if math.isnan(row["before"]) else number(row["before"]),
                    "After": within(row, "bits_factor"),
                    "Beside masked": "" if math.isnan(row["beside_masked"]) else within(row, "beside_masked"),
                    "Perplexity": number(row["perplexity"]),
                    "Rate": f"{row['edge']}{NBSP if row['edge'] else ''}{row['rate']:g}",
                    **({"Zeros moved": "" if math.isnan(row["moved"]) else percent(row["moved"])} if has_moved else {}),
                    "Tokens": f"{row['tokens']:,.0f}" + (f" + {row['choice_tokens']:,.0f}" if row["choice_tokens"] else ""),
                    "Seconds": f"{row['seconds']:,.0f}",
                    "Texts": row["verdict"],
                }
            )
    caption = (
        "Before and after retraining: bits per byte as multiples of the dense model's. Beside masked: as multiples of those of the same"
        " start, or of the best with as many zeros, retrained on the same tokens with its zeros kept. 95% intervals in brackets."
    )
    if (data["choice_tokens"] > 0).any():
        caption += " Tokens: of the retraining, and of choosing its learning rate; seconds are of both."
    if (data["edge"] != "").any():
        caption += " Rate: of those tried the highest (≥) or the lowest (≤) did best, so one beyond may do better."
    return table(rows, caption, "Before|After|Beside masked|Perplexity|Rate|Zeros moved|Tokens|Seconds")
