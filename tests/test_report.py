import json
import math
import re
from html import unescape

import pytest

from lottery.common.paths import outputs
from lottery.config.checkpoint import checkpoint
from lottery.config.profile import Recovery, validated
from lottery.data.corpus import corpus, corpus_identity
from lottery.evaluation.savings import Form, Savings
from lottery.experiments.records import requests, write_record, write_state
from lottery.pruning.catalogue import ALLOCATIONS, METHODS
from lottery.report.builder import Report
from lottery.report.sections import method
from tests.conftest import TOY
from tests.factory import record_of, sweep_of, write_records

NAMES = ["mistral-7b", "phi-2"]


@pytest.fixture
def profile(project):
    return validated({**TOY, "model": None, "checkpoints": {name: f"stand-in:{name}" for name in NAMES}, "sparsities": [0.5, 0.7, 0.9]})


def fill(profile, name, perplexities, **more):
    """Writes records of the profile's own requests."""
    return write_records(profile, name, lambda asked: sweep_of(name, perplexities, **more))


def everything(report) -> str:
    parts = [
        report.answer(),
        report.tables(),
        report.answers(),
        report.methods(),
        report.savings(),
        report.samples(),
        report.size(),
        report.zeros(),
        report.published(),
        report.details(),
        report.protocol(),
        report.machines(),
    ]
    return "\n".join(part.data for part in [*parts, report.limits(), report.reproduce()] if part)


def test_complete_records_make_a_report_without_gaps(profile):
    for name in NAMES:
        fill(profile, name, [10, 12, 18, 500])
        write_state(outputs("toy") / name, "finished")
    report = Report(profile)
    said = everything(report)
    assert "Incomplete" not in said
    assert [model.problem for model in report.models] == ["", ""]
    assert len(report.data) == 8
    assert report.figure().alt.startswith("Line chart of bits per byte, times dense, over sparsity. mistral-7b: dense 1.00, 50% 1.20")
    assert "git checkout " + "c" * 40 in said
    assert "Memory: the peak during generation; main memory is the weights, and by how much the process grows" in said
    assert said.index("These are stand-ins") < said.index("**No model clearly has the best ticket**")
    mixed = profile.model_copy(update={"checkpoints": {**profile.checkpoints, "mine": "/mine"}})
    assert Report(mixed).stand_in_notice().startswith("> **Stand-ins: mistral-7b, phi-2.** Small models")
    assert not Report(profile.model_copy(update={"checkpoints": {"mine": "/mine"}})).stand_in_notice()


def test_what_was_rounded_or_retrained_has_sections_of_its_own(profile):
    whole = validated(
        {
            **profile.model_dump(exclude={"rounding", "rounding_sparsities", "recover"}),
            "checkpoints": {"phi-2": "stand-in:phi-2"},
            "calibration_text": "training-stories",
            "rounding": [8],
            "rounding_sparsities": [0.5],
            "recover": {"how": ["masked"], "steps": 100, "learning_rate": [0.001]},
        }
    )
    named = whole.with_model("phi-2")
    calibration = corpus_identity(whole.calibration_text, "calibration_text")
    for request in requests(named, checkpoint(named).identity, corpus(whole.text).sha256, calibration):
        sizes = {"rounded": 700} if request.bits else {"sparse": Form(stored=800) if request.sparsity else None}
        saved = Savings(dense=Form(stored=1000), dtype="float16", obstacle="made by hand", **{"sparse": None, **sizes})
        more = {"bits": request.bits, "recovery": request.recovery, "savings": saved}
        record = record_of("phi-2", request.method, request.sparsity, bits_per_byte=1 + request.sparsity, **more)
        write_record(outputs("toy") / "phi-2", record.model_copy(update={"request": request}))
    report = Report(whole)
    assert [model.problem for model in report.models] == [""]
    assert "magnitude 50% + masked" in report.recovery().data.replace("\u00a0", " ")
    said = report.size().data.replace("\u00a0", " ")
    assert "rtn 8 bit" in said
    assert "magnitude 50% + rtn 8 bit" in said
    assert "masked" not in said
    assert not any("masked" in name or "rtn" in name for name in report.data["method"]), "models are not compared by these"


def test_what_has_to_be_fetched_first_is_said(profile):
    fill(profile, NAMES[0], [10, 12, 18, 500])
    report = Report(profile)
    assert "make fetch" not in report.reproduce().data
    report.records[0].kind = "wheel"
    assert "\nmake fetch PROFILE=toy\nmake report PROFILE=toy\n" in report.reproduce().data


def test_nothing_at_all_still_makes_a_report(profile):
    report = Report(profile)
    assert "- mistral-7b: it has not run.\n- phi-2: it has not run." in report.answer().data
    assert "There is nothing to draw" in report.figure().data
    assert everything(report)


@pytest.mark.parametrize(
    ("state", "reason", "said"),
    [
        ("failed", "MemoryError: no memory left", "1 of 4 trials are recorded; it failed: MemoryError: no memory left"),
        ("running", "", "and is still running or was killed."),
        ("finished", "", "1 of 4 trials are recorded under the present profile; the profile changed since it ran."),
    ],
)
def test_a_half_done_model_is_named_with_the_reason_and_the_rest_appears(profile, state, reason, said):
    fill(profile, "mistral-7b", [10])
    write_state(outputs("toy") / "mistral-7b", state, reason)
    fill(profile, "phi-2", [10, 12, 18, 500])
    report = Report(profile)
    assert said in unescape(report.answer().data)
    assert said in unescape(report.tables().data)
    assert "Only **phi-2** can be judged so far" in report.answer().data


def test_a_corrupt_record_is_named_and_the_rest_appears(profile):
    asked = fill(profile, "phi-2", [10, 12, 18, 500])
    (outputs("toy") / "phi-2" / "records" / asked[2].file_name).write_text('{"half":')
    report = Report(profile)
    assert f"3 of 4 trials are recorded; {asked[2].file_name} cannot be read and will be measured again." in unescape(report.answer().data)
    assert len(report.data) == 3
    assert "70%" not in report.figure().alt


@pytest.mark.parametrize("older_than", ["the measurement", "its method", "its allocation"])
def test_records_of_an_older_version_are_named_and_measured_again(profile, older_than, monkeypatch):
    if older_than == "its method":
        monkeypatch.setitem(METHODS, "magnitude", METHODS["magnitude"]._replace(version=2))
    if older_than == "its allocation":
        monkeypatch.setitem(ALLOCATIONS, "uniform", ALLOCATIONS["uniform"]._replace(version=2))
    asked = fill(profile, "phi-2", [10, 12, 18, 500])
    path = outputs("toy") / "phi-2" / "records" / asked[3].file_name
    older = json.loads(path.read_text())
    if older_than.startswith("its "):
        del older["request"][f"{older_than.removeprefix('its ')}_version"]
    else:
        older["request"]["measurement"] -= 1
        del older["result"]["window_kl"]
    path.write_text(json.dumps(older))
    path.rename(path.with_name("magnitude-0.9-0123456789ab.json"))
    write_state(outputs("toy") / "phi-2", "finished")
    report = Report(profile)
    assert "3 of 4 trials are recorded; the others are of an older version, which measured otherwise, and" in report.answer().data
    assert "90%" not in report.figure().alt


def test_infinity_everywhere_is_drawn_and_said(profile):
    fill(profile, "phi-2", [10, math.inf, math.inf, math.inf])
    fill(profile, "mistral-7b", [math.inf] * 4)
    report = Report(profile)
    said = everything(report)
    assert "∞" in report.tables().data
    assert "<svg" in report.figure().svg
    assert "Only **phi-2** can be judged so far: its text costs 5% more bits per byte between dense and 50% sparsity" in said
    assert "or the dense model's is not finite: mistral-7b." in said
    assert "phi-2 takes between 0 and 50 points of sparsity from 5% more to twice as many." in said


def test_one_model_alone_is_told_without_a_comparison(profile):
    alone = profile.model_copy(update={"checkpoints": {"phi-2": "stand-in:phi-2"}})
    fill(alone, "phi-2", [10, 12, 18, 500])
    report = Report(alone)
    said = everything(report)
    assert "**phi-2** is the only model measured: its text costs" in said
    assert "**Do bigger models prune better?** One model alone cannot answer this." in said
    assert report.size() is report.size_figure() is None, "a question for several models"
    assert "Incomplete" not in said
    assert "phi-2: dense 1.00" in report.figure().alt


def test_all_models_failed_and_each_reason_is_told(profile):
    for name in NAMES:
        write_state(outputs("toy") / name, "failed", f"LotteryError: {name} broke")
    report = Report(profile)
    said = everything(report)
    for name in NAMES:
        assert f"- {name}: 0 of 4 trials are recorded; it failed: LotteryError: {name} broke" in unescape(said)
    assert "nothing to draw" in report.figure().data
    assert report.size_figure() is None
    assert report.zeros_figure() is None


def test_a_sparsity_that_only_one_model_has_compares_nothing_and_is_shown(profile):
    """The other stopped after 50%: the models are ranked by nobody's guess, and both curves are drawn as far as they go."""
    fill(profile, "mistral-7b", [10, 12, 18, 500])
    fill(profile, "phi-2", [10, 12])
    write_state(outputs("toy") / "phi-2", "stopped")
    report = Report(profile)
    said = everything(report)
    assert "Only **mistral-7b** can be judged so far" in said
    assert "Not compared, because a measurement is missing or the dense model's is not finite: phi-2." in said
    assert "2 of 4 trials are recorded; it was stopped between trials" in said
    assert "phi-2: dense 1.00, 50% 1.20." in report.figure().alt


def test_what_a_bisection_adds_for_one_model_leaves_the_others_in_the_comparison(profile):
    searching = profile.model_copy(update={"bisect": True, "methods": ["magnitude", "wanda"], "calibration_text": "training-stories"})
    for name, worst in zip(NAMES, (500, 400), strict=True):
        start = checkpoint(searching.with_model(name)).identity
        asked = requests(searching, start, corpus("stories").sha256, corpus("training-stories").sha256)
        if name == NAMES[0]:
            asked.append(asked[1].model_copy(update={"sparsity": 0.8, "prompts": 0, "repeats": 0}))
        for request in asked:
            bits = {0: 1, 0.5: 1.01, 0.7: 1.02, 0.8: 300, 0.9: worst}[request.sparsity]
            made = record_of(name, request.method, request.sparsity, 10.0 * bits, bits_per_byte=bits, windows=20)
            write_record(outputs("toy") / name, made.model_copy(update={"request": request}))
    report = Report(searching)
    assert 0.8 in set(report.data["sparsity"])
    assert "It is not decided whether the best ticket depends on the pruning method." in report.methods().data
    assert "By magnitude, wanda it cannot be told which model is best." in report.methods().data, "mistral-7b is in the comparison"
    latest = "Before bits double, most weights can go by magnitude; wanda cannot be told apart from it."
    assert latest not in report.answer().data, "with several models the question is which of them"
    single = Report(searching.model_copy(update={"checkpoints": {"phi-2": searching.checkpoints["phi-2"]}}))
    assert "Judged by magnitude: **phi-2** is the only model measured" in single.answer().data
    assert latest in single.answer().data
    assert latest in single.methods().data


def test_a_model_that_is_no_longer_there_is_named(profile):
    broken = profile.model_copy(update={"checkpoints": {**profile.checkpoints, "gone": "stand-in:gone"}})
    assert "- gone: checkpoints['gone']: given 'stand-in:gone'; allowed stand-ins: " in unescape(Report(broken).answer().data)


def test_a_report_can_be_made_where_the_text_is_not(profile, monkeypatch, tmp_path):
    """Records of a study on WikiText-2 are found again on a machine that never fetched it."""
    named = profile.with_model("phi-2")
    asked = requests(named, checkpoint(named).identity, corpus("stories").sha256)
    for request, record in zip(asked, sweep_of("phi-2", [10, 12, 18, 500]), strict=True):
        write_record(outputs("toy") / "phi-2", record.model_copy(update={"request": request}))
    monkeypatch.setattr("huggingface_hub.constants.HF_HUB_CACHE", str(tmp_path))
    corpus.cache_clear()
    assert len(Report(profile.model_copy(update={"text": "wikitext-2-raw"})).records) == 4


def test_a_reason_is_text_whatever_it_says(profile, tmp_path):
    """An error may quote a checkpoint's own files: no link, no picture, no formula comes of it, and the PDF is still made."""
    import nbformat

    from lottery.jobs.pipeline import render

    write_state(
        outputs("toy") / "phi-2", "failed", "KeyError: @foo [x](javascript:alert(1)) ![](http://evil.example/x.png) $x$ `` \x1b[31m <b>"
    )
    report = Report(profile)
    said = report.answer().data
    assert not re.search(r"[\x1b<$]|\[x\]\(", report.tables().data)
    output = nbformat.v4.new_output("execute_result", data={"text/markdown": said})
    nbformat.write(nbformat.v4.new_notebook(cells=[nbformat.v4.new_code_cell("x", outputs=[output])]), tmp_path / "n.ipynb")
    render(tmp_path / "n.ipynb", "lottery_html", tmp_path / "n.html")
    render(tmp_path / "n.ipynb", "lottery_pdf", tmp_path / "n.pdf")
    html = (tmp_path / "n.html").read_text()
    assert "@foo [x](javascript:alert(1)) ![](http://evil.example/x.png) $x$" in html
    assert not [tag for tag in ('<a href="java', '<a href="http', "<img", "<math", "\x1b", "<b>") if tag in html]


def test_records_outlive_the_folder_they_were_made_from(profile, tmp_path):
    """A local checkpoint that was moved away since: what is recorded is still told."""
    fill(profile, "phi-2", [10, 12, 18, 500])
    moved = profile.model_copy(update={"checkpoints": {"phi-2": "/gone"}})
    assert len(Report(moved).records) == 4


def test_records_of_several_texts_do_not_stand_in_for_one_that_is_gone(profile, project):
    """Which of them the profile's own text was, nobody can say; only the folder that is gone is taken from records."""
    (project / "a.txt").write_text("One text of a few words. " * 50)
    (project / "b.txt").write_text("Another text of a few words. " * 50)
    mine, other = (profile.model_copy(update={"text": name}) for name in ("a.txt", "b.txt"))
    fill(mine, "phi-2", [10, 12, 18, 500])
    fill(other, "phi-2", [99, 99, 99, 99])
    moved = mine.model_copy(update={"checkpoints": {"phi-2": "/gone"}})
    assert [record.result.perplexity for record in Report(moved).records] == [10, 12, 18, 500]
    (project / "a.txt").unlink()
    corpus.cache_clear()
    report = Report(mine.model_copy(update={"checkpoints": {"phi-2": "stand-in:phi-2"}}))
    assert not report.records
    assert "text: given 'a.txt'" in unescape(report.answer().data)


def test_several_devices_are_named_on_the_first_screen(profile):
    asked = fill(profile, "phi-2", [10, 12, 18, 500])
    other = sweep_of("phi-2", [10], device="another")[0]
    write_record(outputs("toy") / "phi-2", other.model_copy(update={"request": asked[0]}))
    assert "Not one measurement" in Report(profile).answer().data


def test_a_model_that_was_streamed_is_named_with_the_reason(profile):
    asked = fill(profile, "phi-2", [10, 12, 18, 500])
    assert "Every model was in memory as a whole." in Report(profile).machines().data
    dense = sweep_of("phi-2", [10])[0]
    dense.provenance.memory_plan, dense.provenance.memory_reason = "streamed", "it does not fit"
    write_record(outputs("toy") / "phi-2", dense.model_copy(update={"request": asked[0]}))
    assert "Streamed block by block: phi-2: it does not fit." in Report(profile).machines().data


def test_the_report_never_loads_a_model():
    """It imports neither the study nor what loads models."""
    import subprocess
    import sys

    code = """
import sys, lottery.report.builder, lottery.jobs.pipeline
print([m for m in ("transformers", "lottery.experiments.study", "lottery.models.loading") if m in sys.modules])
"""
    assert subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True).stdout.strip() == "[]"


def test_several_methods_stand_side_by_side_and_models_are_judged_by_the_first(project):
    several = validated(
        {
            **TOY,
            "model": None,
            "checkpoints": {name: f"stand-in:{name}" for name in NAMES},
            "sparsities": [0.5, 0.7],
            "methods": ["magnitude", "wanda", "random"],
            "allocation": ["uniform", "owl"],
            "pattern": ["unstructured", "2:4"],
            "calibration_text": "training-stories",
        }
    )
    for name, lost in zip(NAMES, (1.2, 1.1), strict=True):
        named = several.with_model(name)
        asked = requests(named, checkpoint(named).identity, corpus("stories").sha256, corpus("training-stories").sha256)
        for index, request in enumerate(asked):
            perplexity = 10 * lost**index if request.method != "random" else math.inf
            made = record_of(name, "dense", 0.0, perplexity, bits_per_byte=lost**index if request.method != "random" else math.inf)
            write_record(outputs("toy") / name, made.model_copy(update={"request": request}))
        write_state(outputs("toy") / name, "finished")
    report = Report(several)
    said = everything(report)
    assert "Incomplete" not in said
    assert report.answer().data.index("Judged by magnitude: **No model clearly has the best ticket**: there are too few windows") > 0
    assert "By 6 ways it cannot be told which model is best." in said
    assert report.figure().alt.count("50%") == 2, "one line a model"
    picture = report.methods_figure()
    assert "mistral-7b, wanda: 50%" in picture.alt
    assert "owl" not in picture.alt
    assert "2:4" in picture.alt
    assert "mistral-7b, random" not in picture.alt, "what is infinite is in the tables"
    assert "wanda + owl" in report.methods().data.replace("\u00a0", " ")
    for claim in (
        "arXiv 2306.11695",
        "arXiv 2310.05175",
        "of every M neighbouring inputs",
        "calibration data: 128 samples of 2,048 tokens from training-stories",
    ):
        assert claim in said, claim


def test_the_method_says_where_calibration_samples_came_from(profile):
    calibrated = profile.model_copy(update={"methods": ["wanda"], "calibration_text": "c4", "recover": Recovery(steps=3)})

    def said(*within):
        """For each model, whether the samples to prune by lie within rows."""
        records = [record_of(name, "wanda", 0.5) for name in NAMES]
        for record, found in zip(records, within, strict=True):
            record.result.calibration_within_rows = found
        return "\n".join(method.paragraphs(calibrated, records))

    assert "from c4, seed 0, each within one row of the text\n" in said(True, True)
    assert "from c4, seed 0, from all rows joined, because too few are long enough\n" in said(False, False)
    assert "from c4, seed 0, each within one row of the text; for phi-2 from all rows joined, because too few are long enough\n" in said(
        True, False
    )


def test_what_was_not_asked_for_has_nothing_to_say(profile):
    fill(profile, "phi-2", [10, 12, 18, 500])
    report = Report(profile)
    assert [report.methods(), report.methods_figure(), report.winning_tickets(), report.bridge()] == [None] * 4


def test_rounded_weights_are_named_in_the_caption_and_among_the_limits(profile):
    asked = fill(profile, "phi-2", [10, 12, 18, 500])
    for request, record in zip(asked, sweep_of("phi-2", [10, 12, 18, 500], quantization="Q4_1"), strict=True):
        write_record(outputs("toy") / "phi-2", record.model_copy(update={"request": request}))
    report = Report(profile)
    for record in report.records:
        record.kind, record.source = "wheel", f"wheel:a==1.0,b==1.0/tiny.Q4_1.gguf#sha256={'0' * 64}"
    assert "tiny.Q4_1.gguf of a==1.0 and 1 more, LlamaForCausalLM, 1,000 parameters" in report.tables().data, "short where it is shown"
    assert "1,000 parameters, weights rounded to Q4_1 before anything was pruned" in report.tables().data
    assert "Weights that were rounded to few bits before anything was pruned: phi-2 (Q4_1). The results hold" in report.limits().data
