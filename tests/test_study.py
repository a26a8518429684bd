import errno
import os
import signal
import subprocess
import sys
import time
from contextlib import nullcontext

import pytest
import torch

from lottery.common.errors import HeldError, ImpossibleTrialError, LotteryError, StoppedError
from lottery.common.format import NBSP
from lottery.common.paths import outputs
from lottery.config.profile import validated
from lottery.experiments import impossible
from lottery.experiments import pruned as module
from lottery.experiments.records import read_state, write_record, write_state
from lottery.experiments.status import run_status
from lottery.experiments.study import Study
from lottery.experiments.trials import Trials
from lottery.jobs.pipeline import measure as run_model


def run(toy, **changes) -> Study:
    study = Study(validated({**toy, **changes}))
    study.measure_dense()
    study.sweep()
    return study


@pytest.fixture
def counted(monkeypatch) -> list:
    """The trials that were really measured, as they happen."""
    done, real = [], Trials.run

    def trial(self, request, label, earlier=None):
        record = real(self, request, label, earlier)
        done.append((request.method, request.sparsity))
        return record

    monkeypatch.setattr(Trials, "run", trial)
    return done


def test_a_study_measures_once_and_a_second_run_measures_nothing(toy, counted, capsys):
    study = run(toy)
    study.finish()
    assert counted == [("dense", 0.0), ("magnitude", 0.5), ("magnitude", 0.9)]
    assert read_state(study.folder).state == "finished"
    again = run(toy)
    assert len(counted) == 3
    assert again.records == study.records
    assert "recorded already" in capsys.readouterr().out


def test_the_dense_record_says_what_token_frequencies_score_and_an_older_one_learns_it(toy, counted):
    study = run(toy)
    dense, *pruned = study.records
    assert dense.result.perplexity < dense.result.unigram_perplexity < len(study.tokenizer)
    assert dense.result.unigram_bits_per_byte > dense.result.bits_per_byte
    assert all(record.result.window_unigram is None for record in pruned)
    write_record(study.folder, dense.model_copy(update={"result": dense.result.model_copy(update={"window_unigram": None})}))
    assert Study(study.profile).records == [dense, *pruned]
    assert len(counted) == 3, "nothing was measured again"


def test_the_same_seed_gives_the_same_numbers_and_texts(toy):
    first = run(toy)
    second = run(toy, profile="again")
    for a, b in zip(first.records, second.records, strict=True):
        assert (a.result.perplexity, a.result.texts) == (b.result.perplexity, b.result.texts)


def test_a_changed_profile_measures_only_what_is_new(toy, counted):
    run(toy)
    counted.clear()
    run(toy, sparsities=[0.5, 0.6, 0.9])
    assert counted == [("magnitude", 0.6)]
    counted.clear()
    assert {r.provenance.batch_size for r in run(toy, batch_size=3).records} == {1}
    assert counted == [], "how many windows at a time changes no result"
    run(toy, seq_len=32)
    assert len(counted) == 3


def test_pruning_shows_in_the_record(toy):
    dense, half, most = run(toy).records
    assert (dense.result.sparsity_prunable, half.result.sparsity_prunable, most.result.sparsity_prunable) == pytest.approx(
        (0, 0.5, 0.9), abs=1e-3
    )
    assert most.result.sparsity_model < most.result.sparsity_prunable
    assert dense.result.perplexity < most.result.perplexity
    assert [sample.how for sample in dense.result.texts.samples] == ["greedy", "greedy", "sampled", "sampled"]
    assert dense.provenance.dtype == "float32" or torch.cuda.is_available()
    assert dense.result.speed.new_tokens == 8


def test_a_failure_is_recorded_with_its_reason_and_done_trials_stay(toy, monkeypatch):
    study = Study(validated(toy))
    study.measure_dense()

    def broken(*_, **__):
        raise OSError("no space left\nand a second line")

    monkeypatch.setattr(module, "prune", broken)
    with pytest.raises(OSError, match="no space left"):
        study.sweep()
    assert (read_state(study.folder).state, read_state(study.folder).reason) == ("failed", "OSError: no space left")
    assert len(study.records) == 1
    with pytest.raises(LotteryError, match="2 of 3 trials are not recorded; run the cells above"):
        study.finish()


def test_a_disk_that_fills_up_costs_the_trial_at_work_and_no_other(toy, monkeypatch):
    study = Study(validated(toy))
    study.measure_dense()
    real = os.fsync

    def full(*_):
        raise OSError(errno.ENOSPC, "No space left on device")

    monkeypatch.setattr(os, "fsync", full)
    with pytest.raises(LotteryError, match=r"no room left on the disk for .*; make some and run again"):
        study.sweep()
    assert len(study.records) == 1
    monkeypatch.setattr(os, "fsync", real)
    study.sweep()
    assert len(study.records) == 3


def test_records_that_do_not_read_back_end_the_run(toy, monkeypatch, counted):
    monkeypatch.setattr("lottery.experiments.study.write_record", lambda *_: None)
    with pytest.raises(LotteryError, match=r"^qwen2\.5-0\.5b: a record that was just written does not read back; look at "):
        Study(validated(toy)).sweep()
    assert len(counted) == 1, "it would be measured again and again"
    with pytest.raises(LotteryError, match="does not read back"):
        Study(validated(toy)).share(lambda: len(counted) > 5)
    assert len(counted) == 2


HOLD = """
import sys, time
from pathlib import Path
from lottery.experiments.lifecycle import held
with held(Path(sys.argv[1])):
    print("held", flush=True)
    time.sleep(600)
"""


def test_two_at_once_one_works_and_the_other_is_told_who(toy, capsys, monkeypatch):
    """Another process holds the folder; this one says so at once, and leaves its state alone. Killed, it lets go."""
    study = Study(validated(toy))
    study.measure_dense()
    write_state(study.folder, "running", "the other's")
    other = subprocess.Popen([sys.executable, "-c", HOLD, str(study.folder)], stdout=subprocess.PIPE, text=True)
    assert other.stdout.readline() == "held\n"
    with pytest.raises(HeldError, match=rf"^qwen2\.5-0\.5b: another run \(process {other.pid}, since [-\d: ]+\) is at work on it; wait"):
        study.sweep()
    bare = validated({**toy, "model": None, "sparsities": [0.4]})
    assert not run_model(bare, "qwen2.5-0.5b", "[1/2]")
    assert f"[1/2] qwen2.5-0.5b: another run (process {other.pid}" in capsys.readouterr().out
    assert (read_state(study.folder).state, read_state(study.folder).reason) == ("running", "the other's")
    assert not list(study.folder.glob("*.ipynb"))
    with pytest.raises(LotteryError, match="made for at most"):
        Study(validated({**toy, "seq_len": 9999}))  # as a command beside it may ask
    assert (read_state(study.folder).state, read_state(study.folder).reason) == ("running", "the other's")
    with pytest.raises(HeldError):
        Study(validated({**toy, "protocols": True})).measure_protocols()
    # It may begin between the look before the kernel starts and the kernel's own.
    monkeypatch.setattr("lottery.jobs.pipeline.held", lambda folder: nullcontext())
    monkeypatch.setattr("lottery.jobs.pipeline.execute", lambda *_: "HeldError: qwen2.5-0.5b: another run is at work on it")
    assert not run_model(bare, "qwen2.5-0.5b", "[1/2]")
    assert "[1/2] qwen2.5-0.5b: another run is at work on it" in capsys.readouterr().out
    assert (read_state(study.folder).state, read_state(study.folder).reason) == ("running", "the other's")
    other.kill()
    other.wait()
    study.sweep()
    assert len(study.records) == 3


def test_trials_are_shared_with_another_run_and_taken_over_once_it_is_killed(toy, counted):
    study = Study(validated(toy))
    last = study.requests[-1]
    code = HOLD.replace("held(Path(sys.argv[1]))", "held(Path(sys.argv[1]), sys.argv[2])")
    other = subprocess.Popen([sys.executable, "-c", code, str(study.folder), last.file_name], stdout=subprocess.PIPE, text=True)
    assert other.stdout.readline() == "held\n"
    looks = []

    def look() -> bool:
        looks.append(len(study.records))
        if len(looks) == 5:
            other.kill()
        return False

    study.share(look, wait=0.1)
    assert looks[:5] == [0, 1, 2, 2, 2], "what the other is at work on is waited for"
    assert len(study.records) == len(counted) == 3
    with pytest.raises(StoppedError, match=r"^stopped between trials, 3 of 4 are recorded; run again to continue$"):
        Study(validated({**toy, "sparsities": [*toy["sparsities"], 0.95]})).share(lambda: True)


def test_a_tokenizer_of_another_model_is_refused(toy, monkeypatch):
    study = Study(validated(toy))
    monkeypatch.setattr(type(study.tokenizer), "get_vocab", lambda self: {"a": 5000})
    with pytest.raises(
        LotteryError, match=r"^model: the tokenizer of qwen2\.5-0\.5b has 5,001 tokens, the model [\d,]+; they do not belong"
    ):
        Study(validated(toy))


def test_a_failure_before_the_first_trial_is_recorded_too(toy):
    (toy_folder := outputs("toy") / "qwen2.5-0.5b")
    with pytest.raises(LotteryError, match="looked for"):
        Study(validated({**toy, "text": "gone.txt"}))
    assert read_state(toy_folder).reason.startswith("ParamsError: text: given 'gone.txt'")


def test_where_nothing_can_be_written_the_reason_gets_through(toy, monkeypatch):
    def refused(*_, **__):
        raise PermissionError("read-only")

    monkeypatch.setattr("lottery.experiments.lifecycle.FileLock", refused)
    with pytest.raises(LotteryError, match=r"^text: given 'gone.txt'"):
        Study(validated({**toy, "text": "gone.txt"}))


def test_a_window_longer_than_the_context_is_refused(toy):
    with pytest.raises(LotteryError, match=r"^seq_len: given 513 tokens; qwen2\.5-0\.5b was made for at most 512"):
        Study(validated({**toy, "seq_len": 513}))
    with pytest.raises(
        LotteryError, match=r"^new_tokens: with the longest prompt: given \d+ tokens; qwen2\.5-0\.5b was made for at most 512"
    ):
        Study(validated({**toy, "new_tokens": 500}))


def test_a_pattern_that_does_not_fit_is_refused_before_the_first_trial(toy):
    with pytest.raises(
        LotteryError, match=r"^pattern: given '1:11', but 11 does not divide the \d+ inputs of model\.layers\.0\.self_attn\.q_proj"
    ):
        Study(validated({**toy, "pattern": "1:11", "sparsities": [10 / 11]}))


def test_calibrated_methods_allocations_and_patterns_run_through_a_study(toy):
    wanted = {"methods": ["magnitude", "wanda"], "allocation": ["uniform", "owl"], "sparsities": [0.5], "pattern": ["unstructured", "1:2"]}
    study = run(toy, **wanted, calibration_text="training-stories", calibration_samples=2, calibration_seq_len=32)
    labels = [r.request.variant.label for r in study.records]
    assert labels == ["dense", "magnitude", "magnitude 1:2", "magnitude + owl", "wanda", "wanda 1:2", "wanda + owl"]
    for record in study.records[1:]:
        assert record.result.sparsity_prunable == pytest.approx(0.5, abs=0.01)
        assert len(record.result.sparsity_layers) == 28
        assert (record.request.calibration is not None) == (
            "owl" in record.request.variant.label or "wanda" in record.request.variant.label
        )
    assert len({r.result.perplexity for r in study.records}) == 7


def test_records_say_whether_samples_lie_within_rows(toy):
    """Three stories have 510 tokens, so that four samples of as many come from all of them joined; what is retrained on is drawn apart."""
    wanted = {**toy, "methods": ["magnitude", "wanda"], "sparsities": [0.5], "calibration_text": "training-stories"}
    wanted |= {"calibration_samples": 4, "max_windows": 2, "prompts": 1, "repeats": 1}
    for length, within in ((32, True), (510, False)):
        dense, magnitude, wanda = (r.result for r in run(wanted, profile=f"of-{length}", calibration_seq_len=length).records)
        assert [r.calibration_within_rows for r in (dense, magnitude, wanda)] == [None, None, within]
        assert [r.recovery_distinct_tokens for r in (dense, magnitude, wanda)] == [None] * 3
    recover = {"steps": 1, "learning_rate": 1e-4, "batch_size": 1}
    dense, *_, control, magnitude, wanda = (
        r.result for r in run(wanted, profile="retrained", calibration_seq_len=32, recover=recover).records
    )
    assert [r.recovery_distinct_tokens for r in (dense, control, magnitude, wanda)] == [None, 32, 32, 32]
    assert [r.recovery_learning_rate for r in (dense, control, magnitude, wanda)] == [None, 1e-4, 1e-4, 1e-4]
    assert [r.calibration_within_rows for r in (dense, control, magnitude, wanda)] == [None, None, None, True]


def test_calibration_text_is_checked_before_the_first_trial(toy):
    wanted = {"methods": ["wanda"], "calibration_samples": 2, "calibration_seq_len": 32}
    with pytest.raises(LotteryError, match=r"^calibration_text: given 'gone\.txt'; allowed: stories"):
        Study(validated({**toy, **wanted, "calibration_text": "gone.txt"}))
    with open("short.txt", "w") as file:
        file.write("Too short.")
    with pytest.raises(LotteryError, match=r"^calibration_text: short\.txt has \d+ tokens, fewer than one sample of 32"):
        Study(validated({**toy, **wanted, "calibration_text": "short.txt"}))
    with pytest.raises(LotteryError, match=r"^calibration_seq_len: given 513 tokens; qwen2\.5-0\.5b was made for at most 512"):
        Study(validated({**toy, **wanted, "calibration_text": "training-stories", "calibration_seq_len": 513}))


def test_the_scored_text_is_no_calibration_text_by_whichever_name(toy):
    with open("scored.txt", "w") as file:
        file.write("There was a boy. He had a dog and a red ball. They went to the park to play all day long. " * 40)
    wanted = {**toy, "text": "scored.txt", "methods": ["wanda"], "calibration_samples": 2, "calibration_seq_len": 32}
    with pytest.raises(LotteryError, match=r"^calibration_text: given '\./scored\.txt', the text that is scored under another name; give"):
        Study(validated({**wanted, "calibration_text": "./scored.txt"}))


def test_a_text_with_words_that_are_too_long_to_judge_by_is_refused(toy):
    """What follows 40 words of a text without spaces lies beyond the context, where the model's own bits are noise."""
    with open("unspaced.txt", "w") as file:
        file.write("a " + " ".join(["Thereisafoxanditlikesmilk" * 4] * 400))
    wanted = {**toy, "text": "unspaced.txt", "prompt_words": 1}
    with pytest.raises(LotteryError, match=r"^text: with a stretch of 40 words to judge by: given \d+ tokens; qwen2\.5-0\.5b was made for"):
        Study(validated(wanted))


def test_what_a_bisection_no_longer_asks_for_is_passed_over(toy, counted):
    study = run(toy)
    count = len(counted)
    study._record(study.requests[-1].model_copy(update={"sparsity": 0.525}))
    assert len(counted) == count


def test_a_trial_that_is_impossible_ends_no_other(toy, capsys, monkeypatch):
    """DLP's range would take more than all weights of a block: all else is measured first, and the run fails with that reason."""
    wanted = {**toy, "methods": ["wanda"], "allocation": ["dlp", "uniform"], "sparsities": [0.5, 0.95]}
    study = Study(validated({**wanted, "calibration_text": "training-stories", "calibration_samples": 2, "calibration_seq_len": 32}))
    study.measure_dense()
    reason = (
        r"wanda \+ dlp 95% is impossible: allocation: dlp at sparsity 0\.95 would take 1\d\d\.\d% of block \d, .*; all else is recorded$"
    )
    for _ in range(2):
        with pytest.raises(ImpossibleTrialError, match=reason.replace(" ", r"[ \u00a0]")):
            study.sweep()
    assert [record.request.title.replace(NBSP, " ") for record in study.records] == ["dense", "wanda + dlp 50%", "wanda 50%", "wanda 95%"]
    assert "impossible" in read_state(study.folder).reason
    with pytest.raises(ImpossibleTrialError, match="wanda"):
        Study(study.profile).sweep()
    assert capsys.readouterr().out.count("going on with the others") == 1, "another run knows it, too"
    monkeypatch.setattr(impossible, "CODE", "other code")
    with pytest.raises(ImpossibleTrialError, match="wanda"):
        Study(study.profile).sweep()
    assert capsys.readouterr().out.count("going on with the others") == 1, "other code tries again"
    with pytest.raises(LotteryError, match=r"^1 of 5 trials are not recorded"):
        study.finish()


def test_a_bisection_ends_where_a_sparsity_cannot_be_made(toy, monkeypatch):
    """It asks for less than OWL can leave a block; nobody named that sparsity, so the study is whole without it."""
    wanted = {**toy, "methods": ["random"], "allocation": ["owl"], "sparsities": [0.5], "bisect": True}
    study = run({**wanted, "calibration_text": "training-stories", "calibration_samples": 2, "calibration_seq_len": 32})
    study.finish()
    (left,) = (study.folder / "impossible").iterdir()
    assert "owl at sparsity" in left.read_text()
    assert len(study.records) == len(study.requests) > 2
    monkeypatch.setattr(impossible, "CODE", "other code")
    assert run_status(study.profile, study.profile.model_name).problem == "", "whoever looks"


@pytest.mark.parametrize("how", [signal.SIGKILL, signal.SIGINT])
def test_killed_at_any_moment_the_next_run_goes_on_with_the_first_trial_that_is_not_recorded(toy, how, counted):
    """A real process, killed in its second trial."""
    code = f"from lottery.config.profile import validated\nfrom lottery.experiments.study import Study\nstudy = Study(validated({toy!r}))\nstudy.sweep()"
    process = subprocess.Popen(
        [sys.executable, "-c", code], stdout=subprocess.PIPE, stderr=subprocess.DEVNULL, text=True, env={**os.environ}
    )
    for line in process.stdout:
        if "trial 2 of 3" in line:
            time.sleep(0.05)
            process.send_signal(how)
            break
    process.wait(60)
    study = Study(validated(toy))
    files = [path.name for path in study.folder.rglob("*.json") if path.parent.name == "records"]
    assert 1 <= len(files) == len(study.records) <= 3
    before = len(files)
    study.sweep()
    study.finish()
    assert len(counted) == 3 - before
    assert read_state(study.folder).state == "finished"
