"""What an allocation gains over the uniform one: the same method at the same sparsity, paired over windows."""

import math
import re

import numpy as np
import pytest

from lottery.analysis.allocations import gains
from lottery.analysis.frame import frame
from lottery.common.format import NBSP
from lottery.report.figures import methods_compared
from lottery.report.sections.pruning import allocations
from tests.factory import record_of


def made(of_pairs, windows=20, noise=0.3):
    """Records of one model: for each method and sparsity bits per byte uniform and by OWL, hard windows hard for both."""
    wobble = [1 + noise * (-1) ** (i // 4) for i in range(windows)]
    found = [record_of("a", "dense", 0.0, bits_per_byte=1.0, windows=windows, window_nll=wobble)]
    for (method, sparsity), both in of_pairs.items():
        for allocation, bits in zip(("uniform", "owl"), both, strict=True):
            nll = [bits * one for one in wobble]
            found.append(record_of("a", method, sparsity, bits_per_byte=bits, allocation=allocation, windows=windows, window_nll=nll))
    return found


PAIRS = {("wanda", 0.5): (1.3, 1.2), ("wanda", 0.7): (3.0, 2.4), ("magnitude", 0.5): (2.0, 2.0), ("magnitude", 0.7): (4.0, 4.4)}


def test_each_method_and_sparsity_is_compared_with_itself():
    (gain,) = gains(made(PAIRS))
    assert (gain.model, gain.allocation) == ("a", "owl")
    assert list(gain.pairs["ratio"]) == pytest.approx([1.2 / 1.3, 0.8, 1.0, 1.1])
    assert gain.fewer == {"wanda": [0.5, 0.7]}
    assert gain.more == {"magnitude": [0.7]}
    assert gain.undecided == 1


def test_it_is_told_in_words_and_in_a_table():
    said, shown = allocations(made(PAIRS))
    assert said == (
        "**owl beside uniform** on a, by the same method at the same sparsity: owl needs fewer bits by wanda at 50% and 70%."
        " It needs more by magnitude at 70%. In 1 of 4 pairs the two cannot be told apart."
    )
    assert f"| wanda | 0.923{NBSP}(0.923–0.923) | 0.800{NBSP}(0.800–0.800) |" in re.sub(" +", " ", shown)
    assert "95% intervals allow for all 4 pairs." in shown


def test_the_figure_draws_the_uniform_allocation_or_the_only_one():
    records = made(PAIRS)
    both = methods_compared(frame(records))
    assert "a, wanda: 50% 1.30, 70% 3.00." in both.alt
    assert "owl" not in both.alt
    assert both.caption.endswith("All with the uniform allocation; the others are in the tables.")
    alone = methods_compared(frame([r for r in records if not r.request.sparsity or r.request.allocation == "owl"]))
    assert "a, wanda + owl: 50% 1.20, 70% 2.40." in alone.alt
    assert "allocation" not in alone.caption
    assert methods_compared(frame(records[:1])).alt, "nothing to draw is no error"


def test_what_was_measured_one_way_only_is_left_out():
    records = made({**PAIRS, ("ria", 0.9): (5.0, 6.0)})
    alone = [r for r in records if (r.request.method, r.request.allocation) != ("ria", "uniform")]
    assert len(gains(alone)[0].pairs) == 4
    assert gains([r for r in records if r.request.allocation == "uniform"]) == []
    assert allocations([]) == []


def test_too_few_windows_decide_nothing():
    (gain,) = gains(made(PAIRS, windows=8))
    assert not gain.has_interval
    assert (gain.fewer, gain.more, gain.undecided) == ({}, {}, 0)
    assert "there are too few windows" in allocations(made(PAIRS, windows=8))[0]


def test_luck_in_one_of_many_pairs_is_no_gain(few_draws):
    """Ten pairs, all alike but for chance: intervals for one pair each would find a gain or a loss in most studies."""
    drawn, called, plain, studies = np.random.default_rng(5), 0, 0, 60
    for _ in range(studies):
        records = [record_of("a", "dense", 0.0, windows=40)]
        for sparsity in np.linspace(0.1, 0.9, 10):
            for allocation in ("uniform", "owl"):
                nll = list(2 * (1 + drawn.normal(0, 0.02, 40)))
                bits = float(np.mean(nll))
                records.append(
                    record_of("a", "wanda", float(sparsity), bits_per_byte=bits, allocation=allocation, windows=40, window_nll=nll)
                )
        (gain,) = gains(records)
        called += bool(gain.fewer or gain.more)
        alone = [gains([r for r in records if r.request.sparsity in (0.0, s)])[0] for s in gain.pairs["sparsity"]]
        plain += any(one.fewer or one.more for one in alone)
    assert called <= 0.1 * studies
    assert plain > 0.2 * studies, "else this test could not fail"
    assert math.isfinite(gain.pairs["ratio_high"].max())
