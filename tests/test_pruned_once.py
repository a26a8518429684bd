"""Trials that start from the same pruned model prune it once, and nothing but the time shows it."""

import re
from types import SimpleNamespace

import pytest

from lottery.config.profile import validated
from lottery.experiments import pruned as making
from lottery.experiments import pruned_once
from lottery.experiments.study import Study

WANTED = {
    "methods": ["wanda"], "sparsities": [0.5], "rounding": [8, 4], "rounding_sparsities": [0.5],
    "calibration_text": "training-stories", "calibration_samples": 2, "calibration_seq_len": 32,
}  # fmt: skip


class Killed(BaseException):
    pass


@pytest.fixture
def prunings(monkeypatch) -> list[str]:
    """What was pruned, in turn."""
    found, real = [], making.prune

    def prune(model, variant, *args, **how):
        if variant.one_shot:
            found.append(variant.unchanged.title.replace("\u00a0", " "))
        return real(model, variant, *args, **how)

    monkeypatch.setattr(making, "prune", prune)
    return found


def study(toy, **changes) -> Study:
    return Study(validated({**toy, **WANTED, **changes}))


def run(wanted: Study) -> Study:
    wanted.measure_dense()
    wanted.sweep()
    return wanted


def numbers(wanted: Study) -> list[dict]:
    moment = {"speed", "dense_speed", "savings", "memory", "bandwidth", "pruning_seconds", "recovery_seconds"}
    return [record.result.model_dump(exclude=moment) for record in wanted.records]


def test_trials_in_a_row_prune_once_and_the_numbers_are_those_of_pruning_every_time(toy, prunings, monkeypatch):
    wanted = {"sparsities": [0.5, 0.7], "rounding_sparsities": [0.5, 0.7]}
    once, held, cost, keep = study(toy, profile="once", memory="streamed", **wanted), [], {}, pruned_once.Kept.keep

    def watched(self, model, request, taken):
        keep(self, model, request, taken)
        held.append(len(list((once.folder / "pruned").iterdir())))
        cost[request.sparsity] = taken

    monkeypatch.setattr(pruned_once.Kept, "keep", watched)
    run(once)
    assert prunings == ["wanda 50%", "wanda 70%"] * 2, "all plain variants are measured before the first rounded one"
    assert held == [1, 1], "never two on disk"
    assert not any((once.folder / "pruned").iterdir())
    once.finish()
    assert not (once.folder / "pruned").exists()
    rounded = [record for record in once.records if record.request.bits and record.request.sparsity]
    assert len(rounded) == 4
    for record in rounded:
        taken = cost[record.request.sparsity]
        assert record.result.memory.pruning_peak >= taken.peak > 0, "also of the trial that pruned nothing itself"
        assert record.result.pruning_seconds > taken.seconds, "and rounding adds its own"

    monkeypatch.setattr(pruned_once, "asked_next", lambda *_: False)
    prunings.clear()
    again = run(study(toy, profile="again", **wanted))
    assert prunings == ["wanda 50%", "wanda 70%", *["wanda 50%"] * 2, *["wanda 70%"] * 2]
    assert numbers(once) == numbers(again)


def test_after_a_kill_the_next_run_prunes_anew_and_removes_what_was_left(toy, prunings, monkeypatch):
    """It may have other code, or another machine: a record names what made it."""
    first = study(toy)

    def killed(self, model, request, label):
        if request.variant.one_shot:
            assert any((self.study.folder / "pruned").iterdir())
            raise Killed
        return 0.0

    with monkeypatch.context() as patched:
        patched.setattr(making.PrunedModels, "_round", killed)
        with pytest.raises(Killed):
            run(first)
    (first.folder / "pruned" / "left").mkdir()
    prunings.clear()
    second = run(study(toy))
    assert prunings == ["wanda 50%"]
    second.finish()
    assert not (first.folder / "pruned").exists()
    assert not any(pruned_once.asked_next(second, request) for request in second.requests), "make verify prunes what it compares"


@pytest.mark.parametrize("full", ["before", "while"])
def test_what_cannot_be_kept_is_pruned_again_and_told(toy, prunings, monkeypatch, capsys, full):
    if full == "before":
        monkeypatch.setattr(pruned_once.shutil, "disk_usage", lambda _: SimpleNamespace(free=1000))
        reason = r"\(they take \d\.\d MiB, and 0\.0 MiB are free\)"
    else:
        monkeypatch.setattr(pruned_once, "save_file", lambda *_: raise_(OSError(28, "No space left on device")))
        reason = r"\(\[Errno 28\] No space left on device\)"
    wanted = run(study(toy))
    assert prunings == ["wanda 50%"] * 3
    said = capsys.readouterr().out.replace("\u00a0", " ")
    assert re.search(rf"wanda 50% \+ rtn 8 bit: its weights cannot be kept for the next trial {reason}, which prunes again\n", said)
    assert not any((wanted.folder / "pruned").iterdir())


def test_only_the_same_pruning_in_the_next_trial_is_worth_keeping(toy):
    wanted = study(
        toy, methods=["magnitude", "wanda"], sparsities=[0.5, 0.7], recover={"how": ["masked", "elsa"], "steps": 32, "batch_size": 1}
    )
    kept = [request.title.replace("\u00a0", " ") for request in wanted.requests if pruned_once.asked_next(wanted, request)]
    assert kept == ["wanda 50% + masked", "wanda 70% + masked", "wanda 50% + rtn 8 bit"], "magnitude takes less time than reading a file"
    names = {pruned_once.name(request) for request in wanted.requests}
    assert not {pruned_once.name(request) for request in study(toy, seed=1).requests} & names


def raise_(error: Exception):
    raise error
