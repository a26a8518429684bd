"""Records as tables: the data frame that findings and figures read, and the Markdown that people read."""

import math
import statistics

import pandas as pd
from IPython.display import Markdown

from lottery import perplexity
from lottery.records import Record, Request
from lottery.show import prose, table, verbatim
from lottery.ticket import Crossing

_SUPERSCRIPT = str.maketrans("-0123456789", "⁻⁰¹²³⁴⁵⁶⁷⁸⁹")


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
    return _named(request.variant.label, request.method, request.pattern, request.sparsity)


def _named(label: str, method: str, pattern: str, sparsity: float) -> str:
    if method == "dense":
        return "dense"
    text = label + ("" if pattern != "unstructured" else f" {percent(sparsity)}")
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
    """The five columns: Sparsity, Perplexity, Tokens/sec, Memory, Coherent? Below them what the variants know, where that was asked."""
    rows = [
        {
            "Sparsity": variant(record.request),
            "Perplexity": number(record.result.perplexity),
            "Tokens/sec": number(median(record.result.speed.tokens_per_second)),
            "Memory": size(record.result.memory.generation_peak),
            "Coherent?": f"{_SAID[record.result.coherence.verdict]}; {record.result.coherence.reason}",
        }
        for record in records
    ]
    kinds = " and ".join(dict.fromkeys(record.result.memory.kind for record in records))
    said = f"Memory: peak {kinds} during generation." if kinds else ""
    return prose(table(rows, right="Perplexity|Tokens/sec|Memory"), said, knowledge(records))


def knowledge(records: list[Record]) -> str:
    """The scores of tasks, where any were asked for, with their standard errors; higher is better but for perplexities and bits."""
    rows = []
    for record in records:
        scores = {}
        for task, values in record.result.tasks.items():
            for name, value in values.items():
                if "_stderr" not in name:
                    error = values.get(name.replace(",", "_stderr,", 1) if "," in name else f"{name}_stderr")
                    scores[f"{task}: {name}"] = number(value) + (f"\u00a0±\u00a0{number(error)}" if error is not None else "")
        if scores:
            rows.append({"Sparsity": variant(record.request), **scores})
    return table(rows, right="|".join(list(rows[0])[1:])) if rows else ""


_SAID = {"coherent": "yes", "degraded": "degraded", "broken": "no"}


def quality(data: pd.DataFrame) -> str:
    """One step behind the five columns: how well the variants of one model predict the text, with 95% intervals."""
    rows = [
        {
            "Variant": label(row),
            "Perplexity": within(row, "perplexity"),
            "Times dense": "" if row["method"] == "dense" else within(row, "factor"),
            "Per word": number(row["word_perplexity"]),
            "Window 1": number(row["first_window"]),
            "Bits per byte": number(row["bits_per_byte"]),
            "KL": "" if row["method"] == "dense" else number(row["kl"]),
            "Top-1": "" if row["method"] == "dense" else percent(row["agreement"]),
        }
        for _, row in data.iterrows()
    ]
    return table(rows, right="|".join(list(rows[0])[1:]) if rows else "")


def cost(records: list[Record]) -> str:
    """One step behind the five columns: speed and memory of one model's variants, and the label of each record's file."""
    rows = []
    for record in records:
        result = record.result
        low, _, high = quantiles(result.speed.tokens_per_second)
        decode = median(result.speed.decode_tokens_per_second)
        rows.append(
            {
                "Variant": variant(record.request),
                "Tokens/sec": f"{number(low)}–{number(high)}",
                "Prefill": number(median(result.speed.prefill_tokens_per_second)),
                "Decode": number(decode),
                "Of bandwidth": percent(decode * result.decode_bytes / result.bandwidth),
                "Weights": size(result.memory.weights),
                "Scoring": size(result.memory.evaluation_peak),
                "Writing": size(result.memory.generation_peak),
                "Others": size(result.memory.others),
                "Record": f"`{record.request.key}`",
            }
        )
    return table(rows, right="|".join(list(rows[0])[1:-1]) if rows else "")


def label(row: pd.Series) -> str:
    """What the variant of a row is called, as ``variant`` calls it."""
    return _named(row["method"], row["base_method"], row["pattern"], row["sparsity"])


def within(row: pd.Series, name: str) -> str:
    """A value and its 95% interval, where there is one."""
    low, high = row[f"{name}_low"], row[f"{name}_high"]
    return number(row[name]) + ("" if math.isnan(low) else f"\u00a0({number(low)}–{number(high)})")


def tickets(found: dict[str, dict[str, Crossing]]) -> str:
    """The ticket scores of all models: at which sparsity bits per byte pass each level, and between which measured ones that lies."""
    rows = []
    for model, crossings in found.items():
        row = {"Model": model}
        for name, c in crossings.items():
            if math.isinf(c.at):
                row |= {f"Bits {name}": f"above {percent(c.after)}", f"Measured at ({name})": ""}
                continue
            high = percent(c.high) if math.isfinite(c.high) else "…"
            span = f"\u00a0({percent(c.low)}–{high})" if c.has_interval else ""
            between = f"{percent(c.after) if c.after else 'dense'} and {percent(c.before)}"
            row |= {f"Bits {name}": f"{percent(c.at)}{span}", f"Measured at ({name})": between}
        rows.append(row)
    return table(rows)


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
    beginnings = list(dict.fromkeys(sample.prompt for record in records for sample in record.result.samples))[:count]
    for index, beginning in enumerate(beginnings):
        parts.append(f"### Beginning {index + 1}" if count != 1 else "")
        parts.append(verbatim(beginning))
        for record in records:
            for sample in record.result.samples:
                if sample.prompt == beginning and (count is None or sample.how == "sampled"):
                    parts.append(f"#### {variant(record.request)}, {sample.how}: {record.result.coherence.verdict}")
                    parts.append(verbatim(sample.text.strip("\n") or "(nothing)"))
    return prose(*parts)
