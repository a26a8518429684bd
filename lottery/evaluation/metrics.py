"""How well a model predicts a text: each metric is a ratio of sums over windows, so that resampled windows give its interval.

To add a metric, write a function here with the decorator. It becomes a column of ``tables/trials.csv``, of the report's table of all
figures and of the explorer. Records keep the sums, so it needs no new measurement; raise ``version`` when its meaning changes.
"""

import math
from collections.abc import Callable
from typing import Literal, NamedTuple

import numpy as np

from lottery.common.format import number, percent
from lottery.evaluation.bootstrap import exp, finite, resampled


class WindowSums(NamedTuple):
    """Sums over each window of the scored text, float64 [windows].

    Attributes:
        nll: Negative log-likelihood in nats.
        kl: Divergence from the dense model in nats.
        agreed: Tokens for which this model and the dense one rank the same next token first.
        bytes: Scored bytes.
        words: Scored words.
        tokens: Scored tokens.
    """

    nll: np.ndarray
    kl: np.ndarray
    agreed: np.ndarray
    bytes: np.ndarray
    words: np.ndarray
    tokens: np.ndarray


class Ratio(NamedTuple):
    """A metric as ``of(Σ numerators / Σ denominators)`` over windows."""

    numerators: np.ndarray
    denominators: np.ndarray
    of: Callable[[float], float] = float

    @property
    def value(self) -> float:
        return self.of(float(self.numerators.sum()) / max(1, float(self.denominators.sum())))

    def resampled(self, times: np.ndarray) -> np.ndarray:
        """Return the ratio in each draw of windows, without applying ``of``; ``times`` [draws, windows] says how often each is drawn."""
        return resampled(self.numerators, times) / np.maximum(1, resampled(self.denominators, times))


class Metric(NamedTuple):
    """A metric and how to show it.

    Attributes:
        function: Makes the ratio from sums over windows.
        version: Raised when the metric's meaning changes.
        title: Heads a column.
        unit: Unit of the value.
        summary: Says what the column holds.
        beside_dense: Whether only pruned variants have it.
    """

    function: Callable[[WindowSums], Ratio]
    version: int
    title: str
    unit: Literal["", "nats per token", "share of tokens"]
    summary: str
    beside_dense: bool

    def shown(self, value: float) -> str:
        """Format a value as people read it."""
        return percent(value) if self.unit == "share of tokens" else number(value)


METRICS: dict[str, Metric] = {}


def metric(title: str, summary: str, *, version: int = 1, unit: str = "", beside_dense: bool = False):
    """Register a function of ``WindowSums`` as a metric under its own name."""

    def register(function: Callable[[WindowSums], Ratio]) -> Callable[[WindowSums], Ratio]:
        METRICS[function.__name__] = Metric(function, version, title, unit, summary, beside_dense)
        return function

    return register


@metric("Perplexity", "per token; does not compare across tokenizers")
def perplexity(sums: WindowSums) -> Ratio:
    return Ratio(sums.nll, sums.tokens, exp)


@metric("Per word", "perplexity per word; compares across tokenizers")
def word_perplexity(sums: WindowSums) -> Ratio:
    return Ratio(sums.nll, sums.words, exp)


@metric("Window 1", "perplexity of the first window only, because some published figures appear to use just that window")
def first_window(sums: WindowSums) -> Ratio:
    first = np.arange(len(sums.nll)) == 0
    return Ratio(np.where(first, sums.nll, 0), np.where(first, sums.tokens, 0), exp)


@metric("Bits per byte", "of the scored text; compares across tokenizers")
def bits_per_byte(sums: WindowSums) -> Ratio:
    return Ratio(sums.nll / math.log(2), sums.bytes)


@metric("KL", "divergence from the dense model's predictions", unit="nats per token", beside_dense=True)
def kl(sums: WindowSums) -> Ratio:
    return Ratio(sums.kl, sums.tokens)


@metric("Top-1", "tokens for which it ranks the same next token first as the dense model", unit="share of tokens", beside_dense=True)
def agreement(sums: WindowSums) -> Ratio:
    return Ratio(sums.agreed, sums.tokens)


def window_sums(nll, kl, agreed, scored_bytes, scored_words, tokens) -> WindowSums:
    """Make ``WindowSums`` from arrays [windows], or from one number for all windows.

    Whatever is not finite in ``nll`` and ``kl`` becomes infinity.
    """
    nll, kl = finite(nll), finite(kl)
    others = (np.broadcast_to(np.asarray(values, dtype=np.float64), nll.shape) for values in (agreed, scored_bytes, scored_words, tokens))
    return WindowSums(nll, kl, *others)


def scores(sums: WindowSums) -> dict[str, float]:
    """Compute every metric of a text; what float64 cannot hold is infinity."""
    return {name: metric.function(sums).value for name, metric in METRICS.items()}
