"""Records as the tables that people read: Markdown, the same in JupyterLab, in HTML and in PDF."""

import math
import statistics

import pandas as pd
from IPython.display import Markdown

from lottery.analysis.findings import keeps_working
from lottery.analysis.frame import speed_ratio, timed
from lottery.common.format import NBSP, count, counted, multiple, number, percent, size
from lottery.evaluation.bootstrap import MIN_WINDOWS
from lottery.evaluation.coherence import Verdict
from lottery.evaluation.metrics import METRICS, Metric
from lottery.evaluation.savings import Form
from lottery.experiments.records import Record, Result
from lottery.experiments.threshold import Crossing
from lottery.report.markdown import escape_markdown, markdown, table, verbatim
from lottery.report.sentences import span


def trials(records: list[Record]) -> Markdown:
    """Show the five columns of one model: Sparsity, which links to the record, Perplexity, Tokens/sec, Memory, Coherent?

    Below them stand the scores of tasks, where any were asked for. Sparsities that a bisection added are only scored; the caption names
    them.
    """
    caption = " ".join([_of_memory(records), *map(_of_texts, records[:1]), _scored_only(records)]).strip()
    return markdown(table(_rows(records, "records", _is_named(records)), caption, "Perplexity|Tokens/sec|Memory"), knowledge(records))


def all_models(models: dict[str, list[Record]]) -> str:
    """Return the five columns of every model in one table; the name of a model stands at its first row."""
    rows, named = [], _is_named([record for records in models.values() for record in records])
    for name, records in models.items():
        for index, row in enumerate(_rows(records, f"{name}/records", named)):
            rows.append({"Model": "" if index else f"**{name}**", **row})
    everything = [record for records in models.values() for record in records]
    label = next((record.request.variant.label for record in everything if record.request.method != "dense"), "")
    by = f", pruned by {label}" if label and not _is_named(everything) else ""
    caption = f"All models{by}. {_of_memory(everything)} Coherent: by the bits that the dense model needs for each new byte."
    return table(rows, caption, "Perplexity|Tokens/sec|Memory")


def _is_named(records: list[Record]) -> bool:
    """Return whether each row has to name the way of pruning: there are several, or the degree is a pattern and not a sparsity."""
    pruned = {record.request.variant for record in records if record.request.method != "dense"}
    return len({variant.label for variant in pruned}) != 1 or any(variant.pattern != "unstructured" for variant in pruned)


def _rows(records: list[Record], folder: str, named: bool) -> list[dict]:
    return [
        {
            "Sparsity": linked(record, folder, named),
            "Perplexity": number(record.result.perplexity),
            "Tokens/sec": _tokens_per_second(record.result),
            "Memory": _memory(record.result),
            "Coherent?": _coherent(record.result.texts.verdict),
        }
        for record in records
        if record.result.texts
    ]


def _tokens_per_second(result: Result) -> str:
    forms = [form.speed for form in _timed_forms(result)] or ([result.speed] if result.speed else [])
    return beside([number(statistics.median(speed.tokens_per_second)) for speed in forms])


def _memory(result: Result) -> str:
    held = [form.memory for form in _timed_forms(result)] or [result.memory.generation_peak]
    return beside([size(bytes_held) for bytes_held in held])


def _timed_forms(result: Result) -> list[Form]:
    """Return the forms in which a model was timed by the decoder that runs both, the packed one first."""
    return [form for form in (result.savings.sparse, result.savings.dense) if form and form.speed] if result.savings else []


def beside(texts: list[str]) -> str:
    """Return the first text, and the second in brackets where there is one."""
    return f"{texts[0]} ({texts[1]})" if len(texts) > 1 else "".join(texts)


def _of_memory(records: list[Record]) -> str:
    written = [record for record in records if record.result.texts]
    kinds = " and ".join(dict.fromkeys(record.result.memory.kind for record in written))
    if not kinds:
        return ""
    packed = "Tokens/sec and peak memory: with packed weights, in brackets with the same weights dense, by one decoder on the CPU."
    plain = f"Tokens/sec and memory: with dense weights, by transformers; memory is the peak of {kinds} during generation."
    in_both = [bool(_timed_forms(record.result)) for record in written]
    if all(in_both):
        return packed
    return f"{packed} Where there are no brackets on a pruned model: {plain}" if any(in_both) else plain


def _of_texts(record: Record) -> str:
    texts = record.result.texts
    if texts is None:
        return ""
    return (
        f"Coherent: by the bits that the dense model needs for each new byte; {texts.dense_bits:.2f} for its own texts,"
        f" {texts.shuffled:.2f} for shuffled words."
    )


def _scored_only(records: list[Record]) -> str:
    scored = sorted({record.request.sparsity for record in records if not record.result.texts})
    return f"Scored only, to find where the bits rise: {', '.join(map(percent, scored))}." if scored else ""


def about(records: list[Record]) -> str:
    """Say what the table of all models leaves out: the dense model's zeros, what texts are judged by, sparsities that were only scored."""
    texts, own_zeros = records[0].result.texts, records[0].result.sparsity_prunable
    zeros = f"{percent(own_zeros)} of the weights that can be pruned are zero in the dense model." if own_zeros >= 0.005 else ""
    bits = f"Bits per new byte: {texts.dense_bits:.2f} of its own texts, {texts.shuffled:.2f} of shuffled words." if texts else ""
    return " ".join(filter(None, [zeros, bits, _scored_only(records)]))


def knowledge(records: list[Record]) -> str:
    """Return the scores of tasks, where any were asked for, with standard errors; higher is better except for perplexities and bits."""
    rows = []
    for record in records:
        scores = {}
        for task, values in record.result.tasks.items():
            for name, value in values.items():
                if "_stderr" not in name:
                    error = values.get(name.replace(",", "_stderr,", 1) if "," in name else f"{name}_stderr")
                    scores[f"{task}: {name}"] = number(value) + (f"{NBSP}±{NBSP}{number(error)}" if error is not None else "")
        if scores:
            rows.append({"Sparsity": record.request.title, **scores})
    return table(rows, "What the variants know, with standard errors.")


def _coherent(verdict: Verdict) -> str:
    said = {"coherent": "yes", "broken": "no"}.get(verdict.said, verdict.said)
    return f"{said}; {verdict.reason}"


def linked(record: Record, folder: str, named: bool = True) -> str:
    """Return what a record's variant is called, or only its sparsity, as a link to the record in ``folder``."""
    request = record.request
    text = request.title if named or request.method == "dense" else percent(request.sparsity)
    return f"[{text}]({folder}/{request.file_name})"


def quality(data: pd.DataFrame) -> str:
    """Show, one step behind the five columns, how well the variants of one model predict the text, with 95% intervals."""
    rows = [
        {
            "Variant": f"[{row['title']}]({row['record']})",
            "Perplexity": within(row, "perplexity"),
            "Times dense": "" if row["method"] == "dense" else within(row, "bits_factor"),
            **{metric.title: _shown(metric, row, name) for name, metric in METRICS.items() if name != "perplexity"},
        }
        for _, row in data.iterrows()
    ]
    return table(rows, "How well the text is predicted, with 95% intervals.")


def _shown(metric: Metric, row: pd.Series, name: str) -> str:
    if metric.beside_dense and row["method"] == "dense":
        return ""
    return metric.shown(row[name])


def legend() -> str:
    """Say in words what the columns of metrics hold."""
    said = [f"*{one.title}*: {one.summary}{f', in {one.unit}' if one.unit.startswith('nats') else ''}" for one in METRICS.values()]
    return "; ".join(said) + "."


def cost(records: list[Record], folder: str) -> str:
    """Show, one step behind the five columns, speed and memory of one model's variants, with a link to each record in ``folder``."""
    rows = []
    for record in records:
        result = record.result
        if result.speed is None:
            continue
        speed = timed(result)
        rows.append(
            {
                "Variant": linked(record, folder),
                "Tokens/sec": f"{number(speed['tokens_per_second_low'])}–{number(speed['tokens_per_second_high'])}",
                "Times dense": "" if result.dense_speed is None else number(speed_ratio(result)["speed_ratio"]),
                "Prefill": number(speed["prefill"]),
                "Decode": number(speed["decode"]),
                "Of bandwidth": percent(speed["bandwidth_share"]),
                "Weights": size(result.memory.weights),
                "Scoring": size(result.memory.evaluation_peak),
                "Writing": size(result.memory.generation_peak),
                "Others": size(result.memory.others),
            }
        )
    caption = "What it costs: speed in tokens per second, as multiples of the dense model's right after, and memory."
    return table(rows, caption)


def within(row: pd.Series, name: str) -> str:
    """Return a value and its 95% interval, where there is one; all but perplexities are ratios."""
    shown = number if name == "perplexity" else multiple
    value, low, high = (shown(row[column]) for column in (name, f"{name}_low", f"{name}_high"))
    if math.isnan(row[f"{name}_low"]):
        return value
    # Together on a line, but for powers of ten, which would be cut in the middle where a column is narrow.
    together = f"{value}{NBSP}({low}–{high})"
    return together if len(together) <= 22 else f"{value} ({low} to {high})"


def summary(data: pd.DataFrame, scores: dict[str, dict[str, Crossing]]) -> str:
    """Return a row for each model, the best ticket first: its size, dense perplexity and ticket scores, and how far it keeps working.

    Args:
        data: What models are compared by.
        scores: Their ticket scores.
    """
    rows, models = [], [model for model in scores if model in set(data["model"])]
    for model in sorted(models, key=lambda model: -scores[model]["5% more"].at):
        of_model = data[data["model"] == model].sort_values("sparsity")
        dense, pruned = of_model[of_model["method"] == "dense"].iloc[0], of_model[of_model["method"] != "dense"]
        alive = list(pruned["sparsity"][keeps_working(pruned)])
        if len(alive) > 1 and alive == list(pruned["sparsity"])[: len(alive)]:
            alive = [f"all up to {percent(alive[-1])}"]
        rows.append(
            {
                "Model": model,
                **{f"Bits {name} at": span(crossing) for name, crossing in scores[model].items()},
                "Keeps working at": ", ".join(one if isinstance(one, str) else percent(one) for one in alive) or "none",
                "Dense perplexity": number(dense["perplexity"]),
                "Parameters": count(dense["parameters"]),
            }
        )
    windows = min((c.windows for crossings in scores.values() for c in crossings.values()), default=0)
    few = f" {counted(windows, 'window')} {'is' if windows == 1 else 'are'} too few for 95% ranges." if windows < MIN_WINDOWS else ""
    return table(rows, f"Ticket scores: the sparsity at which bits per byte pass each level.{few}", "Dense perplexity|Parameters")


WIDE = 6  # columns of models; with more, models are rows
_PRUNING = "Pruning: seconds for a whole model, median."
_BOLD = ", and what cannot be told apart from it."


def by_method(data: pd.DataFrame, level: float, least: set[tuple[str, str, float]]) -> str:
    """Return perplexity at a sparsity, a row a way of pruning and a column a model.

    With many models, models are the rows.

    Args:
        data: The variants.
        level: The sparsity.
        least: What ``findings.least_by_model`` returns: these are in bold.
    """
    at = data[(data["method"] != "dense") & (data["sparsity"] == level)]
    dense = data[data["method"] == "dense"].set_index("model")["perplexity"].map(number)
    models = list(at["model"].unique())
    top = pd.DataFrame([dense.reindex(models, fill_value="")], index=["dense"]).assign(Pruning="")
    grid, first = pd.concat([top, _by_column(at, "model", least)]), "Method"
    if len(models) > WIDE:
        grid, first = grid.T, "Model"
    caption = f"Perplexity by method at {percent(level)}. Bold: the lowest of each model{_BOLD}{_frequencies(data)} {_PRUNING}"
    return table(grid.rename_axis(first).reset_index().to_dict("records"), caption)


def by_sparsity(data: pd.DataFrame, least: set[tuple[str, str, float]]) -> str:
    """Return the perplexity of one model, a row a way of pruning and a column a sparsity; bold as in ``by_method``."""
    at = data[data["method"] != "dense"].sort_values("sparsity", kind="stable")
    grid = _by_column(at, "sparsity", least).rename(columns=lambda name: name if name == "Pruning" else percent(name))
    dense = ", ".join(number(value) for value in data[data["method"] == "dense"]["perplexity"])
    bold = f"Bold: the lowest at each sparsity{_BOLD}{_frequencies(data)}"
    caption = f"Perplexity by method and sparsity, dense {dense or 'not measured'}. {bold} {_PRUNING}"
    return table(grid.rename_axis("Method").reset_index().to_dict("records"), caption)


def _frequencies(data: pd.DataFrame) -> str:
    """Say what token frequencies alone score, where that is known."""
    known = data.dropna(subset=["unigram_perplexity"]).drop_duplicates("model")
    found = ", ".join(number(row["unigram_perplexity"]) + (f" for {row['model']}" if len(known) > 1 else "") for _, row in known.iterrows())
    return f" Italic: worse than token frequencies alone, {found}." if found else ""


def _by_column(points: pd.DataFrame, column: str, least: set[tuple[str, str, float]]) -> pd.DataFrame:
    """Return perplexity, a row a way of pruning, a column a value of ``column``, and the median seconds of pruning."""
    columns, rows = list(points[column].unique()), {}
    for method, own in points.groupby("method", sort=False):
        cells = dict.fromkeys(columns, "")
        for _, row in own.iterrows():
            worse = row["perplexity"] > row["unigram_perplexity"]
            lowest = (row["model"], row["method"], row["sparsity"]) in least
            cells[row[column]] = ("*" if worse else "**" if lowest else "").join(["", number(row["perplexity"]), ""])
        rows[str(method).replace(" ", NBSP)] = {**cells, "Pruning": f"{number(own['pruning_seconds'].median())} s"}
    return pd.DataFrame.from_dict(rows, orient="index")


def cliffs(data: pd.DataFrame, scores: dict[str, dict[str, Crossing]]) -> str:
    """Return where each way of pruning one model costs 5% and where it doubles the bits, the best first, and what pruning takes.

    Args:
        data: The variants of the model.
        scores: The ticket scores of the model by each way of pruning.
    """
    rows = []
    for method in sorted(scores, key=lambda method: -scores[method]["5% more"].at):
        own = data[data["method"] == method]
        peak = own["pruning_peak"].dropna()
        rows.append(
            {
                "Method": method.replace(" ", NBSP),
                **{f"Bits {name} at": span(score) for name, score in scores[method].items()},
                "Pruning": f"{number(own['pruning_seconds'].median())} s",
                "Peak memory": size(peak.median()) if len(peak) else "",
            }
        )
    caption = f"{data['model'].iloc[0]}: the sparsity at which bits per byte pass each level, and the median time and memory of pruning."
    return table(rows, caption, "Pruning|Peak memory")


SHOWN = 3  # beginnings whose continuations are shown; the verdict is on all of them


def samples(records: list[Record]) -> Markdown:
    """Show what each variant wrote after the same first few beginnings. It is shown verbatim, because it is data."""
    parts, written = [], [record for record in records if record.result.texts]
    beginnings = list(dict.fromkeys(sample.prompt for record in written for sample in record.result.texts.samples))[:SHOWN]
    for index, beginning in enumerate(beginnings):
        parts += [f"### Beginning {index + 1}", verbatim(beginning)]
        for record in written:
            for sample in record.result.texts.samples:
                if sample.prompt == beginning:
                    parts.append(f"#### {record.request.title}, {sample.how}: {record.result.texts.verdict.said}")
                    parts.append(verbatim(sample.text.strip("\n") or "(nothing)"))
    return markdown(*parts)


def side_by_side(records: list[Record]) -> str:
    """Show how the variants of one model continue the same beginning, the first, a row a variant."""
    written = [record for record in records if record.result.texts]
    if not written:
        return ""
    beginning = written[0].result.texts.samples[0].prompt
    rows = [
        {
            "Sparsity": linked(record, f"{record.model}/records"),
            "Verdict": record.result.texts.verdict.said,
            "Continuation": escape_markdown(
                next(s.text for s in record.result.texts.samples if s.prompt == beginning and s.how == "sampled")
            )
            or "(nothing)",
        }
        for record in written
    ]
    return table(rows, f"How {records[0].model} and its tickets continue: {escape_markdown(beginning)} …", right="")
