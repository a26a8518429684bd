"""The tables of the report, from records made by hand."""

import math
import re

import numpy as np
import pytest

from lottery.analysis import findings
from lottery.analysis.frame import frame
from lottery.common.format import number, percent, size
from lottery.report.render.pdf import legible
from lottery.report.tables import about, all_models, by_method, by_sparsity, cliffs, cost, quality, samples, side_by_side, summary, trials
from tests.factory import BAD, COARSE, GOOD, curve, record_of, sweep_of, timed, ways


def data(*sweeps):
    return frame([record for sweep in sweeps for record in sweep])


def summarized(*records) -> str:
    return summary(data(*records), findings.scores([r for model in records for r in model], "magnitude"))


def test_the_summary_has_a_row_a_model_and_its_scores_as_far_as_they_are_known():
    tough = curve("tough", 1, 1, 1, 1, 1, 1, 1)
    rows = summarized(GOOD, COARSE, tough).splitlines()
    cells = [[cell.strip() for cell in row.strip("|").split("|")] for row in rows]
    assert cells[0] == ["Model", "Bits 5% more at", "Bits twice at", "Keeps working at", "Dense perplexity", "Parameters"]
    assert cells[2:5] == [
        ["tough", "above 72%", "above 72%", "all up to 72%", "10.0", "1.00\u00a0K"],
        ["good", "51.3% (95%: 50% to 52%)", "71% (95%: 70% to 72%)", "all up to 52%", "10.0", "1.00\u00a0K"],
        ["coarse", "between dense and 50%", "between 50% and 70%", "none", "10.0", "1.00\u00a0K"],
    ]
    few = summarized(curve("a", 1, 1.01, 1.02, 1.03, 1.06, 1.9, 2.1, windows=19))
    assert "51.3% (measured at 50% and 52%)" in few
    assert "19 windows are too few for 95% ranges" in few
    broken = curve("b", 1, 1.01, 2.02, 1.03, 1.06, 1.9, 2.1)
    assert summarized(broken).splitlines()[2].split("|")[4].strip() == "30%, 50%, 52%", "not all up to 50%: one below it fails"


def test_one_step_behind_come_quality_and_cost():
    shown = quality(data(GOOD)).splitlines()
    assert "Times dense" in shown[0]
    assert "0.500" in shown[3]  # KL
    assert "75%" in shown[3]  # top-1
    cells = [cell.strip() for cell in cost(GOOD, "m/records").splitlines()[3].strip("|").split("|")]
    assert cells[1:5] == ["99.0–101", "1.00", "1,000", "100"]
    assert cells[0] == f"[magnitude\u00a030%](m/records/{GOOD[1].request.file_name})"


def test_what_was_scored_only_has_no_row_among_texts_and_costs_and_is_named():
    scored = GOOD[2].model_copy(update={"result": GOOD[2].result.model_copy(update={"speed": None, "texts": None})})
    records = [*GOOD[:2], scored]
    assert "32%" not in cost(records, "m")
    assert trials(records).data.endswith("Scored only, to find where the bits rise: 32%.")
    assert "32%" in quality(frame(records))
    assert "32%" not in samples(records).data + side_by_side(records)
    assert math.isnan(frame(records).iloc[2]["tokens_per_second"])


def test_no_table_holds_a_character_that_paper_cannot_show():
    infinite = sweep_of("over", [5.25, 1e9, math.inf, math.inf], bits=[1, 3, math.inf, math.inf], windows=20)
    scores = summarized(GOOD, BAD)
    for text in (quality(data(GOOD, BAD)), quality(data(infinite)), cost(GOOD, "m"), scores, trials(infinite).data):
        assert legible(text) == text


@pytest.mark.parametrize(
    ("value", "text"),
    [(0, "0.00"), (1, "1.00"), (5.2531, "5.25"), (48.4, "48.4"), (999.6, "1,000"), (48419.12, "48,419"), (99_999, "99,999"), (123_456, "1.23×10⁵"), (0.0123, "0.0123"), (2.5e9, "2.50×10⁹"), (math.inf, "∞"), (math.nan, "not a number")],
)  # fmt: skip
def test_numbers_are_shown_with_three_figures(value, text):
    assert number(value) == text


def test_shares_and_sizes():
    assert [percent(0.5), percent(0.905), percent(1 / 3)] == ["50%", "90.5%", "33.3%"]
    assert [percent(0.0), percent(0.00004), percent(0.0046), percent(0.9996), percent(0.99996), percent(1.0)] == [
        "0%", "0.004%", "0.46%", "99.96%", "99.996%", "100%",
    ], "all and nothing are said of all and nothing only"  # fmt: skip
    assert len({percent(0.8**level) for level in range(1, 41)}) == 40, "levels of the ticket procedure"
    assert [size(2**30), size(50 * 2**20), size(5 * 2**20)] == ["1.00 GiB", "50 MiB", "5.0 MiB"]


def test_the_table_has_the_five_columns():
    records = sweep_of("a", [5.25, math.inf, 7, 8])
    head, _, dense, half, *_, caption = trials(records).data.splitlines()
    assert [cell.strip() for cell in head.strip("|").split("|")] == ["Sparsity", "Perplexity", "Tokens/sec", "Memory", "Coherent?"]
    assert [cell.strip() for cell in dense.strip("|").split("|")] == [
        f"[dense](records/{records[0].request.file_name})", "5.25", "100", "1.00 GiB", "yes; 1.00 bits per new byte"
    ]  # fmt: skip
    assert "∞" in half
    assert caption == (
        "Table: Tokens/sec and memory: with dense weights, by transformers; memory is the peak of main memory during generation. Coherent: by the bits that the dense model needs for each new byte;"
        " 1.00 for its own texts, 8.00 for shuffled words."
    )


def test_all_models_share_one_table_and_each_is_named_once():
    rows = all_models({"a": sweep_of("a", [5.25, 6, 7, 8]), "b": sweep_of("b", [5, 6, 7, 8])}).splitlines()
    models = [row.strip("|").split("|")[0].strip() for row in rows[2:10]]
    assert models == ["**a**", "", "", "", "**b**", "", "", ""]
    assert "](b/records/" in rows[6]
    assert [row.strip("|").split("|")[1].strip()[:5] for row in rows[2:6]] == ["[dens", "[50%]", "[70%]", "[90%]"]
    assert rows[-1].startswith(
        "Table: All models, pruned by magnitude. Tokens/sec and memory: with dense weights, by transformers; memory is"
    )
    several = all_models({"a": [*sweep_of("a", [1, 2, 3, 4]), record_of("a", "wanda", 0.5)]})
    assert "[wanda\u00a050%]" in several
    assert "pruned by" not in several
    records = sweep_of("a", [1, 2, 3, 4])
    assert about(records) == "Bits per new byte: 1.00 of its own texts, 8.00 of shuffled words."
    records[0].result.sparsity_prunable = 0.0496
    assert about(records).startswith("5% of the weights that can be pruned are zero in the dense model. Bits per new byte")


def test_samples_stand_beside_their_verdict():
    shown = samples(sweep_of("a", [1, 2, 3, 4], verdicts=["coherent", "coherent", "degraded", "broken"], text="A <b>text</b>.")).data
    assert shown.count("A <b>text</b>.") == 8
    assert "70%, greedy: degraded" in shown
    beside = side_by_side(GOOD)
    assert beside.count("Once more.") == len(GOOD), "one beginning, drawn texts only"
    assert "How good and its tickets continue: Once upon a time …" in beside
    hostile = side_by_side(sweep_of("a", [1, 2, 3, 4], text="<b>*x*</b> $y$ \u202e\x1b[31m | [z](javascript:1)"))
    assert not re.search("[<*$\u202e\x1b]|javascript:1\\)", hostile.split("Table:")[0].replace("**", ""))


def test_the_table_of_methods_marks_the_lowest_of_each_model():
    records = [*ways("a", magnitude=(1.5, 4.0), wanda=(1.4, 5.0)), record_of("a", "wanda", 0.5, 20.0, bits_per_byte=2.0, pattern="2:4")]
    records += ways("b", magnitude=(1.5, 4.0), wanda=(1.6, 5.0))
    lines = by_method(frame(records), 0.5, findings.least_by_model(frame(records), records)).split("\n\n")[0].splitlines()
    cells = [[cell.strip() for cell in line.strip("|").split("|")] for line in lines]
    assert cells[0] == ["Method", "a", "b", "Pruning"]
    assert cells[2:] == [
        ["dense", "10.0", "10.0", ""],
        ["magnitude", "15.0", "**15.0**", "0.100 s"],
        ["wanda", "**14.0**", "16.0", "0.100 s"],
        ["wanda\u00a02:4", "20.0", "", "0.100 s"],
    ]


def test_of_one_model_a_table_has_all_sparsities():
    records = [*ways("a", magnitude=(1.5, 4.0), wanda=(1.4, 5.0)), record_of("a", "wanda", 0.5, 20.0, bits_per_byte=2.0, pattern="2:4")]
    lines = by_sparsity(frame(records), findings.least_by_model(frame(records), records)).splitlines()
    cells = [[cell.strip() for cell in line.strip("|").split("|")] for line in lines if line.startswith("|")]
    assert cells[0] == ["Method", "50%", "70%", "Pruning"]
    assert cells[2:] == [
        ["magnitude", "15.0", "**40.0**", "0.100 s"],
        ["wanda", "**14.0**", "50.0", "0.100 s"],
        ["wanda\u00a02:4", "20.0", "", "0.100 s"],
    ]
    assert "Perplexity by method and sparsity, dense 10.0. Bold" in lines[-1]


def test_what_cannot_be_told_apart_from_the_lowest_is_in_bold_too():
    """What is hard in the text is hard by all ways: only differences window by window count, and magnitude's is in all of them."""
    noise = np.random.default_rng(0).normal(0, 0.3, (2, 40))
    shared, own = 1 + noise[0], 0.02 * noise[1]
    nll = {"dense": shared, "alps": shared + 0.5, "admm": shared + 0.501 + own, "magnitude": shared + 0.6 + own}
    records = [record_of("a", way, 0.5 * (way != "dense"), np.exp(7 * of.mean()), bits_per_byte=of.mean() / (20 * math.log(2)), windows=40, window_nll=list(of)) for way, of in nll.items()]  # fmt: skip
    lines = by_sparsity(frame(records), findings.least_by_model(frame(records), records)).splitlines()
    assert [line.count("**") for line in lines if line.startswith(("| alps", "| admm", "| magnitude"))] == [2, 2, 0]


def test_the_cost_table_shows_speed_in_times_of_the_dense_model():
    said = cost(timed("a", 0.97), "a/records")
    head, _, dense, half = (line.split("|") for line in said.splitlines() if line.startswith("|"))
    at = [cell.strip() for cell in head].index("Times dense")
    assert [dense[at].strip(), half[at].strip()] == ["", "0.970"]


def test_cliffs_stand_best_first_with_what_pruning_takes():
    """Wanda passes 5% later than magnitude; what a dense model takes is nobody's pruning."""
    records = [*curve("a", 1, 1.01, 1.02, 1.03, 1.06, 1.9, 2.1), *curve("a", 1, 1.0, 1.01, 1.02, 1.02, 1.03, 1.1, method="wanda")]
    for record in records:
        record.result.memory.pruning_peak = None if record.request.method == "dense" else 3 * 2**29
    shown = cliffs(frame(records), {way: findings.scores(records, way)["a"] for way in ("magnitude", "wanda")}).splitlines()
    first, second = ([cell.strip() for cell in row.strip("|").split("|")] for row in shown[2:4])
    assert first[0] == "wanda"
    assert first[2] == "above 72%"
    assert second[0] == "magnitude"
    assert second[1].startswith("51.3%")
    assert second[3:] == ["0.100 s", "1.50 GiB"]
