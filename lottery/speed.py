"""What the records say of speed and memory, in sentences."""

import statistics

import pandas as pd

from lottery.records import Steadiness
from lottery.tables import percent

STEADY = 1.15  # tokens per second may differ by this factor over sparsity before the timing itself is in doubt


def what_zeros_save(data: pd.DataFrame) -> str:
    """Speed and memory over sparsity: flat, because zeros in a dense tensor are stored and multiplied like any other number."""
    claim = "Zeros in dense tensors save neither time nor memory, so both figures should be flat over sparsity."
    spread_speed, spread_memory = {}, {}
    for model, rows in data.groupby("model", sort=False):
        if len(rows) > 1:
            spread_speed[model] = rows["tokens_per_second"].max() / rows["tokens_per_second"].min()
            spread_memory[model] = rows["memory"].max() / rows["memory"].min()
    if not spread_speed:
        return claim
    fastest, largest = max(spread_speed, key=spread_speed.get), max(spread_memory, key=spread_memory.get)
    text = (
        f"{claim} Measured: from the slowest to the fastest variant of one model, tokens per second differ by at most"
        f" a factor of {spread_speed[fastest]:.2f} ({fastest}) and memory by at most a factor of {spread_memory[largest]:.2f} ({largest})."
    )
    if spread_speed[fastest] > STEADY:
        text += " That is more than chance should give: do not read anything into these speeds."
    return text


def was_it_steady(found: dict[str, Steadiness]) -> str:
    """Whether the dense model was as fast after all variants as before them, for each model that was timed again."""
    if not found:
        return ""
    unsteady = {model: statistics.median(s.last) / statistics.median(s.first) for model, s in found.items() if not s.steady}
    if not unsteady:
        return "The dense model, timed again after all variants, was as fast as before; of the time between that says nothing."
    said = ", ".join(f"{model} {ratio:.2f} times as fast as before" for model, ratio in unsteady.items())
    return f"The machine was not steady. The dense model, timed again after all variants: {said}."


def what_limits_decoding(data: pd.DataFrame) -> str:
    """The share of the memory bandwidth that decoding reaches, dense models only."""
    dense = data[data["method"] == "dense"]
    shares = ", ".join(f"{row['model']} {percent(row['bandwidth_share'])}" for _, row in dense.iterrows())
    return (
        "At batch 1 decoding reads every weight for each token, so a plain copy of memory is its limit. Share of that bandwidth reached,"
        f" dense: {shares}. What is far below is bound by something else, such as the time to start each operation."
    )


def what_does_not_compare(data: pd.DataFrame) -> str:
    """Names models whose variants were measured on several devices or in several dtypes; empty where there is none."""
    mixed = [str(model) for model, rows in data.groupby("model", sort=False) if len(rows[["device", "dtype"]].drop_duplicates()) > 1]
    if not mixed:
        return ""
    return (
        f"**Not one measurement.** The variants of {', '.join(mixed)} were measured on different devices or in different dtypes:"
        " their speeds do not compare, and their perplexities only roughly. Remove the records and run them on one device."
    )
