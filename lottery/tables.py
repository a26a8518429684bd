"""Records as the tables that people read: Markdown, the same in JupyterLab, in HTML and in PDF."""

import math

import pandas as pd
from IPython.display import Markdown

from lottery.frame import median, quantiles
from lottery.records import Record, Request
from lottery.show import plain, prose, table, verbatim
from lottery.ticket_score import Crossing

NBSP = "\u00a0"  # does not break a line
_SUPERSCRIPT = str.maketrans("-0123456789", "⁻⁰¹²³⁴⁵⁶⁷⁸⁹")


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
    """What a variant is called, on one line: 'wanda 50%', 'sparsegpt 2:4', 'ria + owl 70%'."""
    return _named(request.variant.label, request.method, request.pattern, request.sparsity)


def _named(label: str, method: str, pattern: str, sparsity: float) -> str:
    if method == "dense":
        return "dense"
    return (label + ("" if pattern != "unstructured" else f" {percent(sparsity)}")).replace(" ", NBSP)


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


def trials(records: list[Record], folder: str = "records", caption: str = "") -> Markdown:
    """The five columns: Sparsity, which leads to the record in ``folder``, Perplexity, Tokens/sec, Memory, Coherent? Below them what the
    variants know, where that was asked. ``caption``: what the caption says before it says what memory is."""
    rows = [
        {
            "Sparsity": linked(record, folder),
            "Perplexity": number(record.result.perplexity),
            "Tokens/sec": number(median(record.result.speed.tokens_per_second)),
            "Memory": size(record.result.memory.generation_peak),
            "Coherent?": f"{_SAID[record.result.coherence.verdict]}; {record.result.coherence.reason}",
        }
        for record in records
    ]
    kinds = " and ".join(dict.fromkeys(record.result.memory.kind for record in records))
    caption = f"{caption} Memory: peak {kinds} during generation.".strip() if kinds else caption
    return prose(table(rows, "Perplexity|Tokens/sec|Memory", caption), knowledge(records))


def knowledge(records: list[Record]) -> str:
    """The scores of tasks, where any were asked for, with their standard errors; higher is better but for perplexities and bits."""
    rows = []
    for record in records:
        scores = {}
        for task, values in record.result.tasks.items():
            for name, value in values.items():
                if "_stderr" not in name:
                    error = values.get(name.replace(",", "_stderr,", 1) if "," in name else f"{name}_stderr")
                    scores[f"{task}: {name}"] = number(value) + (f"{NBSP}±{NBSP}{number(error)}" if error is not None else "")
        if scores:
            rows.append({"Sparsity": variant(record.request), **scores})
    return table(rows, "|".join(list(rows[0])[1:]), "What the variants know, with standard errors.") if rows else ""


_SAID = {"coherent": "yes", "degraded": "degraded", "broken": "no"}


def linked(record: Record, folder: str) -> str:
    """What a record's variant is called, as a link to the record in ``folder``."""
    return f"[{variant(record.request)}]({folder}/{record.request.file_name})"


def quality(data: pd.DataFrame) -> str:
    """One step behind the five columns: how well the variants of one model predict the text, with 95% intervals."""
    rows = [
        {
            "Variant": f"[{label(row)}]({row['record']})",
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
    columns = "|".join(list(rows[0])[1:]) if rows else ""
    return table(rows, columns, "How well the text is predicted, with 95% intervals.")


def cost(records: list[Record], folder: str) -> str:
    """One step behind the five columns: speed and memory of one model's variants, and a link to each record in ``folder``."""
    rows = []
    for record in records:
        result = record.result
        low, _, high = quantiles(result.speed.tokens_per_second)
        decode = median(result.speed.decode_tokens_per_second)
        rows.append(
            {
                "Variant": linked(record, folder),
                "Tokens/sec": f"{number(low)}–{number(high)}",
                "Prefill": number(median(result.speed.prefill_tokens_per_second)),
                "Decode": number(decode),
                "Of bandwidth": percent(decode * result.decode_bytes / result.bandwidth),
                "Weights": size(result.memory.weights),
                "Scoring": size(result.memory.evaluation_peak),
                "Writing": size(result.memory.generation_peak),
                "Others": size(result.memory.others),
            }
        )
    return table(rows, "|".join(list(rows[0])[1:]) if rows else "", "What it costs: speed in tokens per second, and memory.")


def label(row: pd.Series) -> str:
    """What the variant of a row is called, as ``variant`` calls it."""
    return _named(row["method"], row["base_method"], row["pattern"], row["sparsity"])


def within(row: pd.Series, name: str) -> str:
    """A value and its 95% interval, where there is one."""
    low, high = row[f"{name}_low"], row[f"{name}_high"]
    return number(row[name]) + ("" if math.isnan(low) else f"{NBSP}({number(low)}–{number(high)})")


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
            span = f"{NBSP}({percent(c.low)}–{high})" if c.has_interval else ""
            between = f"{percent(c.after) if c.after else 'dense'} and {percent(c.before)}"
            row |= {f"Bits {name}": f"{percent(c.at)}{span}", f"Measured at ({name})": between}
        rows.append(row)
    return table(rows, caption="Ticket scores: the sparsity at which bits per byte pass each level, and what it was interpolated between.")


def by_method(data: pd.DataFrame, level: float) -> str:
    """Perplexity at a sparsity, a row a way of pruning and a column a model, the lowest of each column in bold."""
    at = data[(data["method"] != "dense") & (data["sparsity"] == level)]
    models = list(at["model"].unique())
    best = at.groupby("model")["perplexity"].min()
    dense = data[data["method"] == "dense"].set_index("model")["perplexity"]
    rows = [{"Method": "dense", **{model: number(dense[model]) if model in dense else "" for model in models}, "Pruning": ""}]
    for method, points in at.groupby("method", sort=False):
        values = points.set_index("model")["perplexity"]
        cells = {model: number(values[model]) if model in values else "" for model in models}
        bold = {model: f"**{text}**" if text and values[model] == best[model] else text for model, text in cells.items()}
        rows.append({"Method": str(method).replace(" ", NBSP), **bold, "Pruning": f"{points['pruning_seconds'].median():.2f} s"})
    caption = f"Perplexity by method at {percent(level)}. Bold: the lowest of each model. Pruning: seconds for a whole model, median."
    return table(rows, "|".join([*models, "Pruning"]), caption)


def samples(records: list[Record]) -> Markdown:
    """What each variant wrote after the same beginnings. Shown verbatim: it is data."""
    parts = []
    beginnings = list(dict.fromkeys(sample.prompt for record in records for sample in record.result.samples))
    for index, beginning in enumerate(beginnings):
        parts += [f"### Beginning {index + 1}", verbatim(beginning)]
        for record in records:
            for sample in record.result.samples:
                if sample.prompt == beginning:
                    parts.append(f"#### {variant(record.request)}, {sample.how}: {record.result.coherence.verdict}")
                    parts.append(verbatim(sample.text.strip("\n") or "(nothing)"))
    return prose(*parts)


def side_by_side(records: list[Record]) -> str:
    """How the variants of one model continue the same beginning, the first, a row a variant."""
    beginning = records[0].result.samples[0].prompt
    rows = [
        {
            "Sparsity": linked(record, f"{record.model}/records"),
            "Verdict": record.result.coherence.verdict,
            "Continuation": plain(next(s.text for s in record.result.samples if s.prompt == beginning and s.how == "sampled"))
            or "(nothing)",
        }
        for record in records
    ]
    return table(rows, caption=f"How {records[0].model} and its tickets continue: {plain(beginning)} …")
