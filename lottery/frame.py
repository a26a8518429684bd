"""Records as the data frame that findings, figures and files are made of."""

import math
import statistics

import pandas as pd

from lottery import perplexity
from lottery.records import Record


def frame(records: list[Record]) -> pd.DataFrame:
    """A row a record: what was asked, what came out, and how it stands to the dense model of the same study, with 95% intervals."""
    dense = {record.model: record for record in records if record.request.method == "dense"}
    rows = []
    for record in records:
        result, request = record.result, record.request
        quartiles = quantiles(result.speed.tokens_per_second)
        rows.append(
            {
                "model": record.model,
                "kind": record.kind,
                "method": request.variant.label,
                "base_method": request.method,
                "allocation": request.allocation,
                "pattern": request.pattern,
                "sparsity": request.sparsity,
                "sparsity_model": result.sparsity_model,
                "parameters": result.parameters,
                "perplexity": result.perplexity,
                "first_window": result.first_window_perplexity,
                "word_perplexity": result.word_perplexity,
                "bits_per_byte": result.bits_per_byte,
                "kl": result.kl,
                "agreement": result.agreement,
                **beside(record, dense.get(record.model)),
                "tokens_per_second": quartiles[1],
                "tokens_per_second_low": quartiles[0],
                "tokens_per_second_high": quartiles[2],
                "prefill": median(result.speed.prefill_tokens_per_second),
                "decode": median(result.speed.decode_tokens_per_second),
                "bandwidth_share": median(result.speed.decode_tokens_per_second) * result.decode_bytes / result.bandwidth,
                "memory": result.memory.generation_peak,
                "memory_kind": result.memory.kind,
                "verdict": result.coherence.verdict,
                "coherent": result.coherence.verdict == "coherent",
                "reason": result.coherence.reason,
                "pruning_seconds": result.pruning_seconds,
                "device": record.provenance.device,
                "dtype": record.provenance.dtype,
                "key": request.key,
                "record": f"{record.model}/records/{request.file_name}",
            }
        )
    columns = ["model", "kind", "method", "base_method", "sparsity", "perplexity", "bits_per_byte", "parameters", "factor", "lost_bits"]
    return pd.DataFrame(rows) if rows else pd.DataFrame(columns=columns)


def beside(record: Record, dense: Record | None) -> dict[str, float]:
    """A record's perplexity, and its ratio to the dense one's, and the bits per byte that it lost, each with its 95% interval.

    The ratio and the difference are paired: the same windows are drawn for both. Not a number where the dense record is missing or has
    other windows; no interval where there are too few of them.
    """
    result, none = record.result, (math.nan, math.nan)
    tokens, windows = result.scored_tokens, len(result.window_nll)
    times = perplexity.draws(record.model, windows) if windows >= perplexity.FEWEST else None
    found = {"factor": math.nan, "lost_bits": math.nan}
    absolute, factor, lost = none, none, none
    if times is not None:
        own, size = perplexity.resampled(result.window_nll, times), perplexity.resampled(result.window_bytes, times)
        absolute = tuple(map(perplexity.exp, perplexity.interval(own / tokens)))
    if dense is not None and dense.result.window_bytes == result.window_bytes:
        found["factor"] = result.perplexity / dense.result.perplexity
        found["lost_bits"] = result.bits_per_byte - dense.result.bits_per_byte
        if times is not None:
            more = own - perplexity.resampled(dense.result.window_nll, times)
            factor = tuple(map(perplexity.exp, perplexity.interval(more / tokens)))
            lost = perplexity.interval(more / (math.log(2) * size))
    for name, (low, high) in {"perplexity": absolute, "factor": factor, "lost_bits": lost}.items():
        found |= {f"{name}_low": low, f"{name}_high": high}
    return found


def median(values: list[float]) -> float:
    return statistics.median(values)


def quantiles(values: list[float]) -> list[float]:
    """Lower quartile, median, upper quartile."""
    return statistics.quantiles(values, n=4, method="inclusive") if len(values) > 1 else [values[0]] * 3
