"""What dense models and their variants cost by transformers' own loop, as values."""

import math
from dataclasses import dataclass

import pandas as pd


@dataclass(frozen=True)
class DenseSpeed:
    """The tokens per second of a model's variants as multiples of those of the dense model timed right after each.

    Attributes:
        model: The model.
        least: The smallest multiple.
        most: The largest.
        variants: How many there are.
        chance: How often chance alone puts as many on one side of 1 (a sign test); 1 unless all lie on one side.
    """

    model: str
    least: float
    most: float
    variants: int
    chance: float

    @property
    def one_sided(self) -> bool:
        """Whether the side is rarer by chance than one case in twenty."""
        return self.chance < 0.05


def dense_speeds(data: pd.DataFrame) -> list[DenseSpeed]:
    """Return the speeds of each model whose variants were timed."""
    found = []
    for model, rows in data.groupby("model", sort=False):
        ratios = rows["speed_ratio"].dropna()
        if len(ratios):
            one_side = ratios.max() < 1 or ratios.min() > 1
            found.append(DenseSpeed(str(model), ratios.min(), ratios.max(), len(ratios), 2 * 0.5 ** len(ratios) if one_side else 1.0))
    return found


def bandwidth_shares(data: pd.DataFrame) -> dict[str, float]:
    """Return the share of the memory bandwidth that decoding by each dense model reaches."""
    dense = data[data["method"] == "dense"]
    return dict(zip(dense["model"], dense["bandwidth_share"], strict=True))


def on_several_devices(data: pd.DataFrame) -> dict[str, list[str]]:
    """Return for each model whose variants were measured on several devices or in several dtypes, which: their speeds do not compare."""
    used = (data["device"] + " in " + data["dtype"]).groupby(data["model"], sort=False).unique()
    return {model: list(pairs) for model, pairs in used.items() if len(pairs) > 1}


@dataclass(frozen=True)
class Saved:
    """What a variant saves with packed weights, as multiples of the same weights dense, by the same decoder.

    Attributes:
        sparsity: The share of weights pruned.
        stored: Bytes in a file.
        memory: Peak bytes in memory; not a number where nothing was timed, as what follows.
        speed: Tokens per second of decoding.
        slowest: The low end of its spread over rounds.
        fastest: The high end.
    """

    sparsity: float
    stored: float
    memory: float
    speed: float
    slowest: float
    fastest: float

    @property
    def timed(self) -> bool:
        return not math.isnan(self.speed)

    @property
    def pays(self) -> bool:
        """Whether it is faster than dense in more than the spread of rounds."""
        return self.slowest > 1


@dataclass(frozen=True)
class ModelSavings:
    """What the zeros of a model save.

    Attributes:
        model: The model.
        stand_in: Whether it is a stand-in, whose weights lie in the caches of a processor.
        levels: Each measured sparsity, rising.
    """

    model: str
    stand_in: bool
    levels: list[Saved]

    @property
    def pays_from(self) -> float | None:
        """The least measured sparsity from which on packed weights are faster at every sparsity; ``None`` without one."""
        found = None
        for level in reversed([level for level in self.levels if level.timed]):
            if not level.pays:
                break
            found = level.sparsity
        return found


def model_savings(data: pd.DataFrame) -> list[ModelSavings]:
    """Return what the zeros of each model save, of variants pruned in one way."""
    found = []
    for model, rows in data[data["stored_ratio"].notna()].groupby("model", sort=False):
        names = ["sparsity", "stored_ratio", "memory_ratio", "sparse_speed", "sparse_speed_low", "sparse_speed_high"]
        levels = [Saved(*values) for values in rows.sort_values("sparsity")[names].itertuples(index=False)]
        found.append(ModelSavings(str(model), bool((rows["kind"] == "stand-in").all()), levels))
    return found
