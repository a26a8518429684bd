"""What the records of a study say of how it was measured, as values."""

from dataclasses import dataclass

from lottery.experiments.records import Record


@dataclass(frozen=True)
class Measured:
    """How a study was measured, as far as its profile does not say it.

    Attributes:
        windows: For each model the number of windows scored.
        memory_kinds: What kinds of memory were watched.
        calibration_within_rows: For each model that was calibrated, whether each sample lies within one row of the text. Tokenizers differ
            in how many rows are long enough.
        distinct_tokens: For each model that was retrained, how many tokens of the text it saw, however often.
        quantization: What weights were rounded to before anything was pruned, for each model whose weights were.
    """

    windows: dict[str, int]
    memory_kinds: list[str]
    calibration_within_rows: dict[str, bool]
    distinct_tokens: dict[str, int]
    quantization: dict[str, str]


def measured(records: list[Record]) -> Measured:
    """Return how the records of a study were measured."""
    results = [(record.model, record.result) for record in records]
    return Measured(
        windows={model: len(result.window_nll) for model, result in results},
        memory_kinds=list(dict.fromkeys(result.memory.kind for _, result in results)),
        calibration_within_rows={m: r.calibration_within_rows for m, r in results if r.calibration_within_rows is not None},
        distinct_tokens={m: r.recovery_distinct_tokens for m, r in results if r.recovery_distinct_tokens is not None},
        quantization={record.model: record.quantization for record in records if record.quantization},
    )
