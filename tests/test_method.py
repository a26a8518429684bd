"""How a study was measured: what the records say of it, and how it is told."""

from lottery.analysis.method import measured
from lottery.config.profile import Recovery, validated
from lottery.report.sections.method import limits, paragraphs
from tests.conftest import TOY
from tests.factory import record_of, sweep_of

PROFILE = validated({**TOY, "model": None, "checkpoints": {"phi-2": "stand-in:phi-2"}, "sparsities": [0.5, 0.75], "methods": ["magnitude"]})


def test_what_the_records_say_of_the_measurement():
    rounded = sweep_of("a", [5, 6], windows=20, quantization="Q4_1")
    other = record_of("b", "wanda", 0.5, windows=7)
    other.result.calibration_within_rows, other.result.recovery_distinct_tokens = False, 1024
    found = measured([*rounded, other])
    assert (found.windows, found.memory_kinds, found.quantization) == ({"a": 20, "b": 7}, ["main memory"], {"a": "Q4_1"})
    assert (found.calibration_within_rows, found.distinct_tokens) == ({"b": False}, {"b": 1024})


def test_the_method_is_told_in_the_numbers_of_the_profile():
    records = [record_of(model, "magnitude", 0.5, windows=1500) for model in "ab"]
    ways, text = paragraphs(PROFILE.model_copy(update={"seq_len": 2048, "prompts": 4, "seed": 7}), records)
    assert ways.startswith("- magnitude: ")
    assert text == (
        f"Text: {PROFILE.text}. Windows of 2,048 tokens (1,500 for a, 1,500 for b). Sparsities: 50%, 75% of the linear layers inside the"
        f" blocks. Speed: {PROFILE.new_tokens} new tokens, batch 1, greedy, median of {PROFILE.repeats} repeats after a warm-up. Samples: 4"
        f" beginnings of {PROFILE.prompt_words} words, {PROFILE.new_tokens} tokens drawn at temperature 0.7, seed 7. Memory: the peak during"
        " generation; main memory is the weights, and by how much the process grows with its work, without Python and libraries."
    )
    assert "Windows of 2,048 tokens. Sparsities" in paragraphs(PROFILE.model_copy(update={"seq_len": 2048}), [])[1]


def test_recovery_and_tasks_are_told_where_they_were_asked_for():
    more = {"recover": Recovery(steps=3000, batch_size=4, learning_rate=[1e-4]), "tasks": ["arc_easy", "piqa"], "calibration_text": "c4"}
    _, _, recovery, tasks = paragraphs(PROFILE.model_copy(update=more), [])
    assert recovery == (
        "Recovery: every pruned model, and the dense one as a control, was also retrained for 3,000 steps of 4 windows of"
        f" {PROFILE.calibration_seq_len:,} tokens of c4, its rows joined and cut into windows that share no token. AdamW, only the linear layers"
        " inside the blocks, in float32 with products in the dtype of the study, peak learning rate 0.0001. masked trains what pruning left; zeros stay zero. What is learned: the text."
    )
    seen = record_of("a", "magnitude", 0.5, recovery="masked")
    seen.result.recovery_distinct_tokens = 5120
    several = {**more, "recover": Recovery(steps=3000, batch_size=4, learning_rate=[1e-4, 3e-4])}
    said = paragraphs(PROFILE.model_copy(update=several), [seen])[2]
    assert "windows that share no token (5,120 different tokens for a). AdamW" in said
    assert (
        "peak learning rate 0.0001, 0.0003: of these each variant takes the one with the lowest cross-entropy on held-back text after an"
        in said
    )
    assert tasks == "Tasks of lm-evaluation-harness, on each pruned model as it stands: arc_easy, piqa."


def test_rounding_is_told_with_each_rounder():
    rounding = paragraphs(PROFILE.model_copy(update={"rounding": [8, 3], "rounder": ["rtn", "gptq"]}), [])[2]
    assert rounding.startswith("Rounding: to evenly spaced levels, 8 and 3 bits a weight. 128 neighbouring inputs of a row share a scale")
    assert "rtn rounds each weight to the nearest level (as the baseline in Frantar et al. 2022, arXiv 2210.17323);" in rounding


def test_limits_name_what_was_rounded_and_stand_ins():
    said = limits(PROFILE, sweep_of("a", [5], quantization="Q4_1") + sweep_of("b", [5], quantization="Q8_0"))
    assert len(said) == 7
    assert said[0].startswith("One-shot pruning of finished models is measured")
    assert said[-2].startswith("Weights that were rounded to few bits before anything was pruned: a (Q4_1), b (Q8_0). The results hold for")
    assert said[-1] == "Stand-ins are not the models that they are named after."
    real = PROFILE.model_copy(update={"checkpoints": {"a": "/a"}})
    assert limits(real, sweep_of("a", [5])) == said[:-2]


def test_limits_name_what_no_interval_covers():
    part = PROFILE.model_copy(update={"max_windows": 20})
    said = " ".join(limits(part, sweep_of("a", [5], windows=20)))
    assert "Only its first 20 windows are scored" in said
    assert "draw" not in said
    assert "Only its first" not in " ".join(limits(part, sweep_of("a", [5], windows=19))), "the text has no more"
    one = limits(PROFILE.model_copy(update={"max_windows": 1}), sweep_of("a", [5]))
    assert "Only its first 1 window is scored" in " ".join(one)
    (record,) = sweep_of("a", [5])
    result = record.result.model_copy(update={"calibration_within_rows": True, "recovery_distinct_tokens": 7})
    said = " ".join(limits(PROFILE, [record.model_copy(update={"result": result})]))
    assert "Methods with calibration text saw one draw of it." in said
    assert "Each retraining was run once." in said
