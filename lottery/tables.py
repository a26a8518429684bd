"""Records as tables: the data frame that findings and figures read, and the Markdown that people read."""

import math
import statistics

import pandas as pd
from IPython.display import Markdown

from lottery.records import Record, Request
from lottery.show import prose, table, verbatim

_SUPERSCRIPT = str.maketrans("-0123456789", "⁻⁰¹²³⁴⁵⁶⁷⁸⁹")


def frame(records: list[Record]) -> pd.DataFrame:
    """A row a record: what was asked, what came out, and the ratios to the dense model of the same study."""
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
                "bits_per_byte": result.bits_per_byte,
                "tokens_per_second": quartiles[1],
                "tokens_per_second_low": quartiles[0],
                "tokens_per_second_high": quartiles[2],
                "decode": median(result.speed.decode_tokens_per_second),
                "memory": result.speed.peak_bytes,
                "memory_kind": result.speed.peak_kind,
                "coherent": result.coherence.coherent,
                "reason": result.coherence.reason,
                "pruning_seconds": result.pruning_seconds,
                "device": record.provenance.device,
                "dtype": record.provenance.dtype,
                "key": request.key,
            }
        )
    columns = ["model", "kind", "method", "sparsity", "perplexity", "bits_per_byte", "parameters"]
    data = pd.DataFrame(rows) if rows else pd.DataFrame(columns=columns)
    dense = data[data["method"] == "dense"].set_index("model")
    data["factor"] = data["perplexity"] / data["model"].map(dense["perplexity"])
    data["lost_bits"] = data["bits_per_byte"] - data["model"].map(dense["bits_per_byte"])
    return data


def median(values: list[float]) -> float:
    return statistics.median(values)


def quantiles(values: list[float]) -> list[float]:
    """Lower quartile, median, upper quartile."""
    return statistics.quantiles(values, n=4, method="inclusive") if len(values) > 1 else [values[0]] * 3


def number(value: float) -> str:
    """A measured number with three figures, thousands apart; infinity as its sign."""
    if not math.isfinite(value):
        return "∞" if value == math.inf else "not a number"
    if abs(value) >= 1e6:
        mantissa, exponent = f"{value:.2e}".split("e")
        return f"{mantissa}×10{str(int(exponent)).translate(_SUPERSCRIPT)}"
    return f"{value:,.{max(0, 2 - math.floor(math.log10(abs(value)))) if value else 2}f}"


def percent(share: float) -> str:
    return f"{100 * share:.1f}".removesuffix(".0") + "%"


def size(count: float) -> str:
    """Bytes in GiB, or in MiB below a tenth of one."""
    return f"{count / 2**30:.2f} GiB" if count >= 2**30 / 10 else f"{count / 2**20:.0f} MiB"


def variant(request: Request) -> str:
    """What a variant is called: 'wanda 50%', 'sparsegpt 2:4', 'ria + owl 70%'; in one line where it is short."""
    if request.method == "dense":
        return "dense"
    share = "" if request.pattern != "unstructured" else f" {percent(request.sparsity)}"
    text = request.variant.label + share
    return text if "+" in text else text.replace(" ", "\u00a0")


def description(study) -> Markdown:
    """What a study is about to measure."""
    parameters = sum(p.numel() for p in study.skeleton.parameters())
    profile, windows = study.profile, study.windows
    stand_in = (
        " It is a **stand-in**: nothing measured here is a statement about the real model." if study.checkpoint.kind == "stand-in" else ""
    )
    return prose(
        f"**{profile.model_name}**: {study.checkpoint.source} ({study.checkpoint.kind}), {type(study.skeleton).__name__},"
        f" {parameters:,} parameters.{stand_in}",
        f"Text: {study.text.name}, {len(windows.tokens):,} windows of {profile.window:,} tokens,"
        f" {int(windows.scored_bytes.sum()):,} scored bytes."
        f" Profile {profile.profile}: {', '.join(dict.fromkeys(v.label for v in profile.variants[1:]))} at"
        f" {', '.join(percent(s) for s in profile.sparsities)}."
        f" {len(study.records)} of {len(study.requests)} trials are recorded.",
    )


def trials(records: list[Record]) -> Markdown:
    """The five columns: Sparsity, Perplexity, Tokens/sec, Memory, Coherent?"""
    rows = [
        {
            "Sparsity": variant(record.request),
            "Perplexity": number(record.result.perplexity),
            "Tokens/sec": number(median(record.result.speed.tokens_per_second)),
            "Memory": size(record.result.speed.peak_bytes),
            "Coherent?": ("yes; " if record.result.coherence.coherent else "no; ") + record.result.coherence.reason,
        }
        for record in records
    ]
    kinds = " and ".join(dict.fromkeys(record.result.speed.peak_kind for record in records))
    return prose(table(rows, right="Perplexity|Tokens/sec|Memory"), f"Memory: peak {kinds} during generation." if kinds else "")


def details(records: list[Record]) -> Markdown:
    """The columns one step behind, with the label of each record's file."""
    rows = []
    for record in records:
        result = record.result
        low, _, high = quantiles(result.speed.tokens_per_second)
        rows.append(
            {
                "Model": record.model,
                "Variant": variant(record.request),
                "Zeros, layers": percent(result.sparsity_prunable),
                "Zeros, model": percent(result.sparsity_model),
                "Bits per byte": number(result.bits_per_byte),
                "First window": number(result.first_window_perplexity),
                "Tokens/sec": f"{number(low)}–{number(high)}",
                "Decoding alone": number(median(result.speed.decode_tokens_per_second)),
                "Record": f"`{record.request.key}`",
            }
        )
    return prose(table(rows, right="Zeros, layers|Zeros, model|Bits per byte|First window|Tokens/sec|Decoding alone"))


def by_method(data: pd.DataFrame) -> str:
    """Perplexity by way of pruning and sparsity, the lowest of each sparsity in bold, for the rows of one model."""
    pruned = data[data["method"] != "dense"]
    best = pruned.groupby("sparsity")["perplexity"].min()
    rows = []
    for method, points in pruned.groupby("method", sort=False):
        values = points.set_index("sparsity")["perplexity"]
        cells = {}
        for level in best.index:
            text = number(values[level]) if level in values else ""
            cells[percent(level)] = f"**{text}**" if text and values[level] == best[level] else text
        rows.append({"Method": str(method).replace(" ", "\u00a0"), **cells, "Pruning": f"{points['pruning_seconds'].median():.2f} s"})
    return table(rows, right="|".join([*map(percent, best.index), "Pruning"]))


def samples(records: list[Record], count: int | None = None) -> Markdown:
    """What each variant wrote after the same beginnings, or after the first ``count``. Shown verbatim: it is data."""
    parts = []
    for index in range(min(count or 100, max((len(r.result.samples) for r in records), default=0))):
        parts.append(f"**Beginning {index + 1}**" if count != 1 else "")
        parts.append(verbatim(records[0].result.samples[index].prompt))
        for record in records:
            coherence = record.result.coherence
            parts.append(f"{variant(record.request)} ({'coherent' if coherence.coherent else 'not coherent'}):")
            parts.append(verbatim(record.result.samples[index].text.strip("\n") or "(nothing)"))
    return prose(*parts)
