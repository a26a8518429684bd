"""Trials that start from the same pruned model prune it once, and nothing but the time shows it."""

import pytest
import torch

from lottery.config.profile import validated
from lottery.experiments import pruned as making
from lottery.experiments import pruned_once
from lottery.experiments.records import read_record
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


def test_each_model_is_pruned_once_and_the_numbers_are_those_of_pruning_every_time(toy, prunings, monkeypatch):
    once = run(study(toy, profile="once", memory="streamed"))
    assert prunings == ["wanda 50%"]
    assert not (once.folder / "pruned").exists()
    plain, *rounded = (r.result for r in once.records if r.request.method == "wanda")
    assert len(rounded) == 2
    assert all(r.pruning_seconds > plain.pruning_seconds for r in rounded), "pruning and rounding"
    assert {r.memory.pruning_peak for r in rounded} == {plain.memory.pruning_peak}

    monkeypatch.setattr(pruned_once, "place", lambda *_: None)
    prunings.clear()
    again = run(study(toy, profile="again"))
    assert prunings == ["wanda 50%"] * 3
    assert numbers(once) == numbers(again)


def test_a_killed_run_leaves_the_pruned_weights_for_the_next_one_and_what_is_recorded_is_pruned_anew(toy, prunings, monkeypatch):
    first = study(toy)

    def killed(self, model, request, label):
        if request.variant.one_shot:
            raise Killed
        return 0.0

    with monkeypatch.context() as patched:
        patched.setattr(making.PrunedModels, "_round", killed)
        with pytest.raises(Killed):
            run(first)
    assert prunings.count("wanda 50%") == 1
    (left,) = (first.folder / "pruned").iterdir()
    (left.parent / f".{left.name}.half").mkdir()
    second = run(study(toy))
    assert len(second.records) == 6
    assert prunings.count("wanda 50%") == 1
    assert not left.parent.exists(), "the half written one went with it"
    request = second.requests[1]
    assert read_record(second.folder, request)
    assert pruned_once.place(second, request, second.skeleton.dtype) is None, "or make verify would compare a file with itself"


def test_what_cannot_be_kept_is_pruned_again_and_told(toy, prunings, monkeypatch, capsys):
    def full(*_):
        raise OSError(28, "No space left on device")

    monkeypatch.setattr(pruned_once, "save_file", full)
    wanted = run(study(toy))
    assert prunings.count("wanda 50%") == 3
    assert (
        "the pruned weights cannot be kept (OSError(28, 'No space left on device')), so later trials prune again" in capsys.readouterr().out
    )
    assert not (wanted.folder / "pruned").exists()


def test_only_the_same_pruning_is_shared(toy):
    wanted = study(toy, methods=["magnitude", "wanda"], sparsities=[0.5, 0.7], recover={"steps": 2, "batch_size": 1})
    by_name = {}
    for request in wanted.requests:
        if request.method == "wanda":
            by_name.setdefault(pruned_once.name(request), set()).add((request.method, request.sparsity))
    assert sorted(by_name.values(), key=min) == [{("wanda", 0.5)}, {("wanda", 0.7)}]
    kept = {request.method for request in wanted.requests if pruned_once.place(wanted, request, torch.float32)}
    assert kept == {"wanda"}, "magnitude pruning takes less time than reading a file"
    other = study(toy, seed=1)
    assert not {pruned_once.name(r) for r in other.requests} & set(by_name)
