"""With as few bytes, who predicts best: what is pruned, what is rounded, both, or a smaller dense model."""

import math

import numpy as np
import pytest

from lottery.analysis.comparison import Interval, bits_ratio, widened
from lottery.analysis.equal_bytes import SHARES, at_equal_bytes
from lottery.analysis.frame import frame
from lottery.common.format import NBSP
from lottery.evaluation.bootstrap import wider
from lottery.evaluation.savings import Form, Savings
from lottery.pruning.variants import ROUNDED
from lottery.report.sections import size
from lottery.report.sentences import paragraphs
from tests.factory import record_of


def made(rows, quantization=None, windows=20):
    """Records of one model: method, sparsity, bits, stored layers as a share of the dense ones', bits per byte; half of it is layers."""
    found = []
    for method, sparsity, bits, share, cost, *noise in rows:
        nll = [cost * (1 + (noise[0] if noise else 0.0) * (-1) ** (i // 5)) for i in range(windows)]
        whole, stored = 2000, round(1000 + 1000 * share)
        saved = Savings(
            dense=Form(stored=whole), sparse=Form(stored=stored) if sparsity and not bits else None, rounded=stored if bits else None,
            dtype="float16", obstacle="made by hand",
        )  # fmt: skip
        record = record_of("a", method, sparsity, 10 * cost, bits_per_byte=cost, bits=bits, windows=windows, window_nll=nll, savings=saved)
        found.append(record.model_copy(update={"quantization": quantization}))
    return found


ROWS = [
    ("dense", 0.0, None, 1, 1.0),
    ("wanda", 0.5, None, 0.56, 1.3),
    ("magnitude", 0.5, None, 0.56, 2.0),
    ("wanda", 0.9, None, 0.16, 9.0),
    (ROUNDED, 0.0, 8, 0.51, 1.01),
    (ROUNDED, 0.0, 4, 0.26, 1.1),
    (ROUNDED, 0.0, 2, 0.13, 12.0),
    ("wanda", 0.5, 4, 0.2, 1.5),
]


def test_at_each_share_the_best_of_each_way_stands_the_best_of_all_first():
    (found,) = compared(made(ROWS)).values()
    assert [(at.share, [(one.way, one.variant.replace(NBSP, " ")) for one in at.contenders]) for at in found] == [
        ("half", [("rounded", "rtn 8 bit"), ("pruned", "wanda 50%"), ("pruned and rounded", "wanda 50% + rtn 4 bit")]),
        ("a quarter", [("rounded", "rtn 4 bit"), ("pruned and rounded", "wanda 50% + rtn 4 bit"), ("pruned", "wanda 90%")]),
        ("a fifth", [("pruned and rounded", "wanda 50% + rtn 4 bit"), ("pruned", "wanda 90%"), ("rounded", "rtn 2 bit")]),
        ("a sixth", [("pruned", "wanda 90%"), ("rounded", "rtn 2 bit")]),
    ]
    assert all(at.decided for at in found)
    assert compared(made(ROWS[:4])) == {}  # nothing was rounded


OVERLAP = [ROWS[0], ("wanda", 0.5, None, 0.56, 1.3, 0.9), (ROUNDED, 0.0, 8, 0.51, 1.29, -0.9)]
PAIRED = [ROWS[0], ("wanda", 0.5, None, 0.56, 1.3, 0.9), (ROUNDED, 0.0, 8, 0.51, 1.2, 0.9)]


def test_whoever_is_better_in_other_windows_only_is_not_decided():
    (found,) = compared(made(OVERLAP)).values()
    assert not found[0].decided


def test_windows_are_paired_so_what_is_hard_in_the_text_cancels():
    """The two intervals overlap by far, since some windows cost both ten times as much. One is worse by a twelfth in each of them."""
    (found,) = compared(made(PAIRED)).values()
    first, second = found[0].contenders
    assert first.high > second.low
    assert found[0].decided
    assert (found[0].low, found[0].high) == pytest.approx((1.3 / 1.2, 1.3 / 1.2))


def test_the_luckiest_of_several_is_not_the_better_way(few_draws):
    """One rounded, six that are pruned and rounded, all alike: plain intervals call the best of the six better in 11 of 100 studies."""
    drawn, called = np.random.default_rng(3), 0
    for _ in range(150):
        base = drawn.normal(0, 0.02, 40)

        def alike(method, sparsity, bits, share, cost=1.2, base=base):
            nll = cost * (1 + base + drawn.normal(0, 0.02, 40))
            saved = Savings(
                dense=Form(stored=2000), sparse=Form(stored=1), rounded=round(1000 + 1000 * share), dtype="float16", obstacle="made by hand"
            )
            return record_of(
                "a", method, sparsity, bits_per_byte=float(nll.mean()), bits=bits, windows=40, window_nll=list(nll), savings=saved
            )

        records = [alike("dense", 0.0, None, 1, 1.0)]
        records += [alike(ROUNDED, 0.0, 8, 0.5)] + [alike("wanda", 0.5, bits, 0.5) for bits in (8, 7, 6, 5, 4, 3)]
        (found,) = compared(records).values()
        assert found[0].pairs == 6
        called += found[0].decided
    assert called <= 0.05 * 150


def test_an_interval_for_several_pairs_is_no_wider_than_it_must_be(few_draws):
    assert wider(1, 40) == 1
    assert wider(6, 40) == pytest.approx(3.364 / 2.262, abs=1e-3)  # of Student's t for ten blocks, at 1 - 0.025/6 and at 1 - 0.025
    assert wider(6, 4000) == pytest.approx(2.638 / 1.960, abs=1e-2)  # of the normal law
    assert widened(Interval(1.21, 1.1, 1.21 * 1.1), 1, 40) == pytest.approx((1.21, 1.1, 1.331))
    drawn, called = np.random.default_rng(6), 0
    for _ in range(100):  # a difference of five standard errors is seen, also where it is the best of six
        base = drawn.normal(0, 0.02, 40)
        one, other = (
            record_of("a", method, 0.5, bits_per_byte=float(nll.mean()), windows=40, window_nll=list(nll))
            for method, nll in (("x", 1.2 * (1 + base)), ("y", 1.2 * (1 + 5 * 0.02 / 40**0.5 + base + drawn.normal(0, 0.02, 40))))
        )
        called += bits_ratio(other, one, 6).low > 1
    assert called >= 90


def test_the_interval_holds_the_truth_also_between_two_models(few_draws):
    """Two models read other windows of one text: their ratio is 1.1, and passages that are hard are hard for both."""
    drawn, held = np.random.default_rng(4), 0
    for _ in range(200):
        hard = np.repeat(drawn.normal(0, 0.1, 60), 2)  # a passage is half a window of the one, a third of the other

        def read(model, cost, windows, hard=hard):
            nll = cost * (1 + hard.reshape(windows, -1).mean(1) + drawn.normal(0, 0.02, windows))
            return record_of(model, "dense", 0.0, bits_per_byte=float(nll.mean()), windows=windows, window_nll=list(nll))

        _, low, high = bits_ratio(read("a", 1.1, 40), read("b", 1.0, 60))
        held += low <= 1.1 <= high
    assert held >= 0.95 * 200


def test_a_smaller_dense_model_competes_by_its_whole_file():
    small = [
        record_of("b", "dense", 0.0, bits_per_byte=1.05, savings=Savings(dense=Form(stored=1500), sparse=None, dtype="float16"), windows=20)
    ]
    (found,) = compared([*made(ROWS), *small]).values()
    assert [one.variant.replace(NBSP, " ") for one in found[0].contenders[:2]] == ["rtn 8 bit", "b, dense"]
    assert all(one.way != "a smaller dense model" for one in found[1].contenders), "a quarter of the layers leaves 1,300 bytes of the file"
    assert found[0].contenders[1].factor == pytest.approx(1.05)


def compared(records):
    return at_equal_bytes(frame(records), records)


def told(rows, quantization=None, windows=20, in_float32=()):
    values = {"found": compared(made(rows, quantization, windows)), "limits": SHARES}
    values |= {"quantization": {"a": quantization} if quantization else {}, "in_float32": in_float32}
    return " ".join(paragraphs("equal_bytes", **values)).replace(NBSP, " ")


def test_the_answer_in_words():
    assert told(ROWS).startswith(
        "**With as few bytes, a predicts best:** - given half of the layers' bytes (at most 60%) as **rtn 8 bit**, 1.010 times the dense"
        " bits (95%: 1.010 to 1.010), 51% of the bytes; then wanda 50%, 1.30 times, 56% of the bytes: 1.29 times as many bits as the first"
        " (95%: 1.29 to 1.29), the best of 9 pairs; then wanda 50% + rtn 4 bit (1.50, 20% of the bytes). - given a quarter of the layers'"
        " bytes (at most 30%) as **rtn 4 bit**, 1.10 times"
    )
    assert "better to round" not in told(ROWS)
    assert told(ROWS, in_float32=["a"]).endswith("Of a model in 16 bits the same rounded weights are twice as large a share.")
    assert told([*ROWS[:6], (ROUNDED, 0.0, 3, 0.17, 1.6)]).endswith("At every one of these sizes it is better to round than to prune.")
    few = [ROWS[0], ("wanda", 0.5, None, 0.56, 1.3), *ROWS[4:6], (ROUNDED, 0.0, 3, 0.17, 1.6)]
    assert few[1] in ROWS
    assert "better to round" not in told(few), "nothing that is only pruned is as small as a quarter"
    assert ", so the two cannot be told apart." in told(OVERLAP)
    assert "; no other way takes as few." in told(few)
    endless = told([*ROWS[:3], ("wanda", 0.9, None, 0.16, math.inf), *ROWS[4:6]])
    assert "wanda 90%, ∞ times, 16% of the bytes: ∞ times as many bits as the first." in endless

    assert (
        "rtn 8 bit**, 1.010 times the dense bits, 51% of the bytes; then wanda 50%, 1.30 times, 56% of the bytes: 1.29 times as many bits as"
        " the first, the best of 9 pairs," in (few_windows := told(ROWS, windows=3))
    )
    assert "pairs, with too few windows to tell them apart; then wanda 50% + rtn 4 bit (1.50, 20% of the bytes)." in few_windows
    assert "told apart" not in told(ROWS)
    assert "nan" not in few_windows
    assert "Its weights had been rounded before (Q4_1)" in told(ROWS, "Q4_1")


def test_texts_that_are_not_clearly_coherent_are_named_with_their_verdict():
    records = made(ROWS)
    doubtful = record_of("a", "dense", 0.0, verdict="degraded").result.texts
    records[4].result.texts = doubtful
    (found,) = compared(records).values()
    said = " ".join(paragraphs("equal_bytes", found={"a": found}, limits=SHARES, quantization={}, in_float32=()))
    assert f"(95%: 1.010 to 1.010), 51% of the bytes, texts {doubtful.verdict.said}; then" in said
    assert said.count("texts degraded") == 1


def test_rounding_is_called_better_than_pruning_only_where_it_was_held_against_pruning():
    """Second is what is pruned and rounded; what is only pruned is worse in the mean, and much better in some windows."""
    rows = [ROWS[0], (ROUNDED, 0.0, 3, 0.17, 1.2), ("wanda", 0.5, 3, 0.15, 1.21), ("wanda", 0.9, None, 0.16, 1.25)]
    assert told(rows).endswith("it is better to round than to prune.")
    noisy = [*rows[:3], (*rows[3], 0.9)]
    (found,) = compared(made(noisy)).values()
    assert all(at.decided for at in found)
    assert "better to round" not in told(noisy)


def test_the_table_and_the_picture_have_all_of_them():
    data = frame(made(ROWS))
    written = size.by_bytes(data).replace(NBSP, " ")
    assert "[rtn 4 bit](a/records/rtn-4-bit-0-" in written
    assert written.index("dense") < written.index("wanda 50%") < written.index("rtn 2 bit")
    assert written.count("26%") == 1
    picture = size.picture(data)
    assert "rtn\u00a04\u00a0bit 0.0 MiB 1.10" in picture.alt
    assert "Without filling: weights rounded to few bits, dashed by rtn; half filled" in picture.caption
    assert picture.svg.count("<!-- 50% -->") == 1, "two methods reach it, and their names would cover each other"
    assert picture.svg.count("<!-- 4 bit -->") == 1
    assert picture.svg.count("<!-- 50% + 4 bit -->") == 1, "it is on the front"
    half_filled = [line for line in picture.figure.axes[0].lines if line.get_fillstyle() == "left"]
    assert [len(line.get_xdata()) for line in half_filled] == [1]
    assert size.by_bytes(frame(made(ROWS[:4]))) == ""
