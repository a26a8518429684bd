"""What a text gives to pruning: random crops to calibrate with, as SparseGPT and Wanda take them from C4, and windows to retrain on."""

from typing import NamedTuple

import torch

from lottery.common.errors import LotteryError
from lottery.data.corpus import Corpus

HELD_BACK = 16  # windows that are never retrained on
CHARACTERS = 16  # of a long text for each token: several times as many as a token takes


class Calibration(NamedTuple):
    """Calibration samples.

    Attributes:
        tokens: Crops of a text, int64 [samples, length].
        within_rows: Whether each crop lies within one row of the text, as in the papers.
    """

    tokens: torch.Tensor
    within_rows: bool


class Retraining(NamedTuple):
    """Windows of a text to retrain on, and others to choose a learning rate by.

    Attributes:
        tokens: Windows in the order in which they are trained on, int64 [windows, length].
        held_back: Windows that are never trained on, int64 [windows, length].
        distinct: Tokens of the text that are trained on; each is in one window.
    """

    tokens: torch.Tensor
    held_back: torch.Tensor
    distinct: int


def retraining(tokenizer, text: Corpus, count: int, length: int, seed: int) -> Retraining:
    """Cut a text into windows that share no token, and draw them; the same seed gives the same windows in the same order.

    Rows are joined by blank lines. Every window is drawn once before any is drawn again, so that little text is used whole. Of a long text
    the first rows are used, up to ``CHARACTERS`` for each token that is wanted: a file of C4 has 800 MB.

    Args:
        tokenizer: The tokenizer of the model to retrain.
        text: The text.
        count: Number of windows to train on.
        length: Tokens per window.
        seed: Seed of the draw.

    Raises:
        LotteryError: The text has fewer than two windows.
    """
    ids = tokenizer(_first(text, CHARACTERS * (count + HELD_BACK) * length), verbose=False).input_ids
    if len(ids) < 2 * length:
        raise LotteryError(
            f"calibration_text: {text.name} has {len(ids)} tokens, fewer than two windows of {length} to retrain on;"
            " give a longer text or a smaller calibration_seq_len"
        )
    generator = torch.Generator().manual_seed(seed)
    windows = torch.tensor(ids[: len(ids) // length * length]).view(-1, length)
    order = torch.randperm(len(windows), generator=generator)
    back = min(HELD_BACK, len(windows) // 2)
    held_back, rest = windows[order[:back]], windows[order[back:]]
    passes = [rest[torch.randperm(len(rest), generator=generator)] for _ in range(-(-count // len(rest)))]
    return Retraining(torch.cat(passes)[:count], held_back, min(count, len(rest)) * length)


def _first(text: Corpus, characters: int) -> str:
    """Return the first rows of a text that have so many characters together, or all rows."""
    rows, held = [], 0
    for row in text.rows:
        rows.append(row)
        held += len(row)
        if held >= characters:
            break
    return "\n\n".join(rows)


def calibration(tokenizer, text: Corpus, samples: int, length: int, seed: int) -> Calibration:
    """Draw random crops of a text; the same seed gives the same crops.

    As in the papers, a crop lies within one row of the text: rows are visited in random order, those that are too short are skipped, and
    each of the others gives one crop. If too few rows are long enough, crops come from all rows joined by blank lines.

    Args:
        tokenizer: The tokenizer of the model to calibrate.
        text: The text to crop.
        samples: Number of crops.
        length: Tokens per crop.
        seed: Seed of the draw.

    Returns:
        The crops, and whether each lies within one row.

    Raises:
        LotteryError: Even all rows joined have fewer than ``length`` tokens.
    """
    generator = torch.Generator().manual_seed(seed)

    def crop(tokens: list[int]) -> list[int]:
        start = int(torch.randint(len(tokens) - length + 1, (), generator=generator))
        return tokens[start : start + length]

    crops = []
    for index in torch.randperm(len(text.rows), generator=generator).tolist():
        tokens = tokenizer(text.rows[index], verbose=False).input_ids
        if len(tokens) >= length:
            crops.append(crop(tokens))
        if len(crops) == samples:
            return Calibration(torch.tensor(crops), within_rows=True)
    tokens = tokenizer(text.text, verbose=False).input_ids
    if len(tokens) < length:
        raise LotteryError(
            f"calibration_text: {text.name} has {len(tokens)} tokens, fewer than one sample of {length};"
            " give a longer text or a smaller calibration_seq_len"
        )
    return Calibration(torch.tensor([crop(tokens) for _ in range(samples)]), within_rows=False)
