"""How a study was measured, in the profile's own numbers."""

from lottery.common.format import percent
from lottery.config.profile import Profile
from lottery.experiments.records import Record
from lottery.pruning.catalogue import ALLOCATIONS, METHODS

_MEMORY = {  # what a kind of memory figure counts
    "GPU memory": "what is allocated on the GPU, or on all of them together",
    "main memory": "the weights, and by how much the process grows with its work, without Python and libraries",
}


def paragraphs(profile: Profile, records: list[Record]) -> list[str]:
    """Return what was done, as Markdown: the ways of pruning, the text, and whatever else was asked for."""
    return [_ways(profile, records), _measurements(profile, records), _recovery(profile, records), _tasks(profile)]


def _ways(p: Profile, records: list[Record]) -> str:
    ways = list(dict.fromkeys((v.method, v.allocation) for v in p.variants[1:]))
    said = [f"{m}: {METHODS[m].summary} ({METHODS[m].source})" for m in dict.fromkeys(method for method, _ in ways)]
    said += [f"{a}: {ALLOCATIONS[a].summary} ({ALLOCATIONS[a].source})" for a in dict.fromkeys(a for _, a in ways) if a != "uniform"]
    if any(pattern != "unstructured" for pattern in p.pattern):
        said.append("N:M: keeps N of every M neighbouring inputs of a row")
    if any(variant.calibrated for variant in p.variants):
        within = {r.model: r.result.calibration_within_rows for r in records if r.result.calibration_within_rows is not None}
        said.append(
            f"calibration data: {p.calibration_samples} samples of {p.calibration_seq_len:,} tokens from {p.calibration_text},"
            f" seed {p.seed}{_within_rows(within)}"
        )
    return "\n".join(f"- {line}" for line in said)


def _measurements(p: Profile, records: list[Record]) -> str:
    scored = {r.model: len(r.result.window_nll) for r in records}
    windows = ", ".join(f"{count:,} for {name}" for name, count in scored.items())
    kinds = dict.fromkeys(r.result.memory.kind for r in records)
    memory = f" Memory: the peak during generation; {'; '.join(f'{kind} is {_MEMORY[kind]}' for kind in kinds)}." if kinds else ""
    return (
        f"Text: {p.text}. Windows of {p.seq_len:,} tokens{f' ({windows})' if windows else ''}. Sparsities:"
        f" {', '.join(percent(s) for s in p.sparsities)} of the linear layers inside the blocks. Speed: {p.new_tokens} new tokens,"
        f" batch 1, greedy, median of {p.repeats} repeats after a warm-up. Samples: {p.prompts} beginnings of {p.prompt_words} words,"
        f" {p.new_tokens} tokens drawn at temperature {p.temperature:g}, seed {p.seed}.{memory}"
    )


def _within_rows(found: dict[str, bool]) -> str:
    """Say where samples of a text came from, by model: tokenizers differ in how many rows are long enough."""
    joined = [model for model, within in found.items() if not within]
    if not found:
        return ""
    if not joined:
        return ", each within one row of the text"
    if len(joined) == len(found):
        return ", from all rows joined, because too few are long enough"
    return f", each within one row of the text; for {', '.join(joined)} from all rows joined, because too few are long enough"


def _recovery(p: Profile, records: list[Record]) -> str:
    if p.recover is None:
        return ""
    within = {r.model: r.result.recovery_within_rows for r in records if r.result.recovery_within_rows is not None}
    return (
        f"Recovery: every pruned model was retrained for {p.recover.steps:,} steps of {p.recover.batch_size} windows of"
        f" {p.calibration_seq_len:,} tokens of {p.calibration_text}{_within_rows(within)}. AdamW, peak learning rate"
        f" {p.recover.learning_rate:g}, its zeros kept. The dense models were not."
    )


def _tasks(p: Profile) -> str:
    return f"Tasks of lm-evaluation-harness, on each pruned model as it stands: {', '.join(p.tasks)}." if p.tasks else ""


def limits(p: Profile, records: list[Record]) -> list[str]:
    """Return what the figures of a study do not say, a sentence or two each."""
    said = ["One-shot pruning of finished models is measured, not a lottery ticket in the sense of Frankle and Carbin."]
    if p.tickets:
        said = [
            "All but one section measure one-shot pruning of finished models. Tickets are trained only in small models, for a short time."
            " Fewer weights may learn faster at first, so a ticket can beat its dense model for that reason alone. Finding a mask takes"
            " extra training runs; only the final run has the same budget in every arm."
        ]
    said += [
        "Perplexity is not knowledge: a model may lose facts long before it loses fluency (arXiv 2310.01382).",
        "One seed, one text. The intervals say how the figures would move with other stretches of this text, not with another text.",
        "Magnitude is a bad criterion for some models, so a cliff may be due to the criterion and not to the architecture.",
        "Zeros in dense tensors save nothing. What sparse formats and 2:4 kernels would save is not measured.",
    ]
    if rounded := {r.model: r.quantization for r in records if r.quantization}:
        said.append(
            f"Weights that were rounded to few bits before anything was pruned: {', '.join(f'{m} ({q})' for m, q in rounded.items())}. The"
            " results hold for these files, not for the original models. Many rounded weights are equal, and which of those at the"
            " threshold are pruned changes perplexity at the cliff by up to 2%."
        )
    if any(source.startswith("stand-in:") for source in p.checkpoints.values()):
        said.append("Stand-ins are not the models that they are named after.")
    return said
