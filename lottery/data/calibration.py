"""Calibration samples: random crops of a text, as SparseGPT and Wanda take them from C4."""

from typing import NamedTuple

import torch

from lottery.common.errors import LotteryError
from lottery.data.corpus import Corpus


class Calibration(NamedTuple):
    """Calibration samples.

    Attributes:
        tokens: Crops of a text, int64 [samples, length].
        within_rows: Whether each crop lies within one row of the text, as in the papers.
    """

    tokens: torch.Tensor
    within_rows: bool


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
