"""Records as the data frame that findings, figures and files are made of."""

import math
import statistics

import pandas as pd

from lottery.evaluation import bootstrap
from lottery.evaluation.metrics import METRICS
from lottery.experiments.records import Record, Result


def frame(records: list[Record]) -> pd.DataFrame:
    """Return a row for each record: what was asked, what came out, and how it compares with its study's dense model, with 95% intervals."""
    dense = {record.model: record for record in records if record.request.method == "dense"}
    rows = []
    for record in records:
        result, request = record.result, record.request
        rows.append(
            {
                "model": record.model,
                "kind": record.kind,
                "title": request.title,
                "method": request.variant.label,
                "base_method": request.method,
                "allocation": request.allocation,
                "pattern": request.pattern,
                "sparsity": request.sparsity,
                "rounder": request.rounder,
                "bits": request.bits or math.nan,
                "sparsity_model": result.sparsity_model,
                "parameters": result.parameters,
                "prunable_parameters": result.prunable_parameters,
                **result.metrics,
                **intervals(record),
                **beside(record, dense.get(record.model)),
                **_unigram(dense.get(record.model)),
                **timed(result),
                **speed_ratio(result),
                **_saved(result),
                "memory": result.memory.generation_peak,
                "memory_kind": result.memory.kind,
                "verdict": result.texts.verdict.said if result.texts else None,
                "coherent": result.texts is not None and result.texts.verdict.verdict == "coherent",
                "reason": result.texts.verdict.reason if result.texts else None,
                "pruning_seconds": result.pruning_seconds,
                "pruning_peak": result.memory.pruning_peak,
                "device": record.provenance.device,
                "dtype": record.provenance.dtype,
                "key": request.key,
                "record": f"{record.model}/records/{request.file_name}",
            }
        )
    columns = [
        "model",
        "kind",
        "title",
        "method",
        "base_method",
        "sparsity",
        "bits",
        "stored",
        "perplexity",
        "bits_per_byte",
        "parameters",
        "factor",
        "bits_factor",
        "lost_bits",
        "unigram_perplexity",
        "unigram_lost_bits",
        "unigram_factor",
    ]
    return pd.DataFrame(rows) if rows else pd.DataFrame(columns=columns)


def _unigram(dense: Record | None) -> dict[str, float]:
    """Return what token frequencies alone score on a model's windows; not numbers where its dense record does not say."""
    if dense is None:
        return {"unigram_perplexity": math.nan, "unigram_lost_bits": math.nan, "unigram_factor": math.nan}
    bits, own = dense.result.unigram_bits_per_byte, dense.result.bits_per_byte
    return {"unigram_perplexity": dense.result.unigram_perplexity, "unigram_lost_bits": bits - own, "unigram_factor": bits / own}


def timed(result: Result) -> dict[str, float]:
    """Return the tokens per second of a record, with their spread; not a number where nothing was timed."""
    names = ["tokens_per_second_low", "tokens_per_second", "tokens_per_second_high", "prefill", "decode", "bandwidth_share"]
    if result.speed is None:
        return dict.fromkeys(names, math.nan)
    decode = statistics.median(result.speed.decode_tokens_per_second)
    prefill = statistics.median(result.speed.prefill_tokens_per_second)
    values = [*spread(result.speed.tokens_per_second), prefill, decode, decode * result.decode_bytes / result.bandwidth]
    return dict(zip(names, values, strict=True))


def speed_ratio(result: Result) -> dict[str, float]:
    """Return a variant's tokens per second as a multiple of those of the dense model timed right after it: median over median.

    Its range is the widest that both spreads allow, the slow end of one over the fast end of the other. Repeats are not timed in turns, so
    no repeat of one belongs to a repeat of the other. Not a number for the dense model, and where nothing was timed.
    """
    names = ["speed_ratio_low", "speed_ratio", "speed_ratio_high"]
    if result.speed is None or result.dense_speed is None:
        return dict.fromkeys(names, math.nan)
    own, dense = (spread(speed.tokens_per_second) for speed in (result.speed, result.dense_speed))
    return {name: a / b for name, a, b in zip(names, own, reversed(dense), strict=True)}


def _saved(result: Result) -> dict[str, float]:
    """Return the bytes of a variant in a file, and what packed weights take and how fast they write, as multiples of the same ones dense.

    Speeds are the medians over rounds of sparse over dense, with their spread: the two take turns. Not a number where nothing was measured.
    """
    speeds = ["sparse_speed_low", "sparse_speed", "sparse_speed_high"]
    found = dict.fromkeys(["stored", "stored_ratio", "memory_ratio", "read_ratio", "sparse_prefill", *speeds], math.nan)
    if result.savings is None:
        return found
    dense, sparse = result.savings.dense, result.savings.sparse
    found["stored"] = result.savings.stored
    if sparse is None:
        return found
    found["stored_ratio"] = sparse.stored / dense.stored
    if sparse.speed and dense.speed:
        found |= {"memory_ratio": sparse.memory / dense.memory, "read_ratio": sparse.read / dense.read}
        prefill = _by_round(sparse.speed.prefill_tokens_per_second, dense.speed.prefill_tokens_per_second)
        found["sparse_prefill"] = statistics.median(prefill)
        rounds = _by_round(sparse.speed.decode_tokens_per_second, dense.speed.decode_tokens_per_second)
        found |= dict(zip(speeds, spread(rounds), strict=True))
    return found


def _by_round(sparse: list[float], dense: list[float]) -> list[float]:
    return [a / b for a, b in zip(sparse, dense, strict=True)]


def intervals(record: Record) -> dict[str, float]:
    """Return the 95% interval of each metric of a record.

    It is not a number where there are too few windows, or where the metric does not cover all windows.
    """
    result, windows, found = record.result, len(record.result.window_nll), {}
    for name, metric in METRICS.items():
        ratio, low, high = metric.function(result.window_sums), math.nan, math.nan
        if windows >= bootstrap.MIN_WINDOWS and ratio.denominators.all():
            ends = bootstrap.interval(ratio.resampled(bootstrap.draws(record.model, windows)), windows)
            low, high = (ratio.of(end) for end in ends)
        found |= {f"{name}_low": low, f"{name}_high": high}
    return found


def beside(record: Record, dense: Record | None) -> dict[str, float]:
    """Compare a record with its dense one, each value with its 95% interval.

    Ratios and difference are paired: the same windows are drawn for both.

    Args:
        record: The record of a variant.
        dense: The record of the dense model, or ``None``.

    Returns:
        The ratio of the perplexities (``factor``), the bits per byte as a multiple of the dense ones (``bits_factor``), and the bits per
        byte that the variant lost (``lost_bits``). Not a number where the dense record is missing or has other windows; no interval where
        there are too few of them.
    """
    result, none = record.result, (math.nan, math.nan)
    tokens, windows = result.scored_tokens, len(result.window_nll)
    times = bootstrap.draws(record.model, windows) if windows >= bootstrap.MIN_WINDOWS else None
    found = {"factor": math.nan, "bits_factor": math.nan, "lost_bits": math.nan}
    factor, times_dense, lost = none, none, none
    if times is not None:
        own, size = bootstrap.resampled(result.window_nll, times), bootstrap.resampled(result.window_bytes, times)
    if dense is not None and dense.result.window_bytes == result.window_bytes:
        found["factor"] = result.perplexity / dense.result.perplexity
        found["bits_factor"] = result.bits_per_byte / dense.result.bits_per_byte
        found["lost_bits"] = result.bits_per_byte - dense.result.bits_per_byte
        if times is not None:
            of_dense = bootstrap.resampled(dense.result.window_nll, times)
            more, times_dense = own - of_dense, bootstrap.interval(own / of_dense, windows)
            factor = tuple(map(bootstrap.exp, bootstrap.interval(more / tokens, windows)))
            lost = bootstrap.interval(bootstrap.to_bits_per_byte(more, size), windows)
    ranges = {"factor": factor, "bits_factor": times_dense, "lost_bits": lost}
    for name, (low, high) in ranges.items():
        found |= {f"{name}_low": low, f"{name}_high": high}
    return found


def lines(data: pd.DataFrame) -> dict[str, pd.DataFrame]:
    """Return the series of a study: for each model and method its points from the dense one on, in order of sparsity."""
    pruned = data[data["method"] != "dense"]
    methods = list(pruned["method"].unique()) or ["dense"]
    found = {}
    for model in data["model"].unique():
        of_model = data[data["model"] == model]
        for method in methods:
            points = of_model[of_model["method"].isin(["dense", method])].sort_values("sparsity").reset_index(drop=True)
            if len(points):
                found[model if len(methods) == 1 else f"{model}, {method}"] = points
    return found


def spread(values: list[float]) -> list[float]:
    """Return low, median and high of some values.

    Low and high are the quartiles where there are seven values or more; else the smallest and the largest, since quartiles of few are
    hardly anything else.
    """
    if len(values) < 7:
        return [min(values), statistics.median(values), max(values)]
    return statistics.quantiles(values, n=4, method="inclusive")
