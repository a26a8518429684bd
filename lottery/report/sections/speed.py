"""What the records say of speed and memory, in sentences."""

import pandas as pd

from lottery.common.format import number, percent


def what_zeros_save(data: pd.DataFrame) -> str:
    """Describe speed and memory over sparsity: flat, because zeros in a dense tensor are stored and multiplied like other numbers.

    A variant's speed is told as a multiple of that of the dense model timed right after it. Zeros seem to matter only where all ratios of a
    model lie on one side of 1 and a sign test finds that rarer than one case in twenty.
    """
    said = ["Zeros in dense tensors save neither time nor memory, so both figures should be flat over sparsity."]
    if ratios := {str(model): found for model, rows in data.groupby("model", sort=False) if len(found := rows["speed_ratio"].dropna())}:
        each = "; ".join(f"{model} {_from_to(found)}" for model, found in ratios.items())
        said.append(f"Tokens per second of the variants, as multiples of those of the dense model timed right after each: {each}.")
        alike = []
        for model, found in ratios.items():
            side, chance = "below" if found.max() < 1 else "above", 2 * 0.5 ** len(found)
            if chance < 0.05 and (found.max() < 1 or found.min() > 1):
                said.append(f"All {len(found)} ratios of {model} lie {side} 1, which chance alone does in {percent(chance)} of cases.")
            else:
                alike.append(model)
        if alike:
            said.append(f"No variant of {', '.join(alike)} is shown to be faster or slower.")
    memory = {str(model): rows["memory"].max() / rows["memory"].min() for model, rows in data.groupby("model", sort=False) if len(rows) > 1}
    if memory:
        most = max(memory, key=memory.get)
        said.append(
            f"From the smallest to the largest variant of one model, memory differs by at most a factor of {memory[most]:.2f} ({most})."
        )
    return " ".join(said)


def _from_to(ratios: pd.Series) -> str:
    least, most = number(ratios.min()), number(ratios.max())
    return least if least == most else f"{least} to {most}"


def what_limits_decoding(data: pd.DataFrame) -> str:
    """Give the share of the memory bandwidth that decoding reaches, dense models only."""
    dense = data[data["method"] == "dense"]
    shares = ", ".join(f"{row['model']} {percent(row['bandwidth_share'])}" for _, row in dense.iterrows())
    return (
        "At batch 1 decoding reads every weight for each token, so the speed at which memory is read is its limit. Share of it reached,"
        f" dense: {shares}. What is far below is bound by something else, such as the time to start each operation."
    )


def what_does_not_compare(data: pd.DataFrame) -> str:
    """Name models whose variants were measured on several devices or in several dtypes; empty where there is none."""
    mixed = [str(model) for model, rows in data.groupby("model", sort=False) if len(rows[["device", "dtype"]].drop_duplicates()) > 1]
    if not mixed:
        return ""
    return (
        f"**Not one measurement.** The variants of {', '.join(mixed)} were measured on different devices or in different dtypes:"
        " their speeds do not compare, and their perplexities only roughly. Remove the records and run them on one device."
    )
