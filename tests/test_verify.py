import json
import os

import pytest

from lottery.__main__ import main
from lottery.common.errors import LotteryError
from lottery.common.paths import outputs
from lottery.config.profile import validated
from lottery.experiments import verify
from lottery.experiments.imp.study import TicketStudy
from lottery.experiments.study import Study
from tests.conftest import TOY
from tests.factory import record_of
from tests.test_ticket_run import SMALL


@pytest.fixture
def study(project):
    profile = validated(
        {
            **TOY,
            "methods": ["magnitude", "wanda"],
            "calibration_text": "training-stories",
            "calibration_samples": 2,
            "calibration_seq_len": 32,
        }
    )
    done = Study(profile)
    done.measure_dense()
    done.sweep()
    return done


def test_recorded_trials_come_out_the_same_and_a_changed_one_does_not(study, capsys, monkeypatch):
    """All of them, calibrated ones too; then one record says less than was measured."""
    profile = study.profile
    before = {path: path.read_bytes() for path in study.folder.rglob("*.json")}
    assert verify.verify(profile, 99, 0) == 0
    out = capsys.readouterr().out
    assert "measuring 5 of 5 recorded trials again, drawn with seed 0" in out
    assert out.count("\nsame: ") == 5
    assert "again, texts the same" in out
    assert out.endswith("5 of 5 trials are the same\n")
    assert before == {path: path.read_bytes() for path in study.folder.rglob("*.json")}, "no record is touched"

    path = study.folder / "records" / study.requests[1].file_name
    record = json.loads(path.read_text())
    record["result"]["metrics"]["bits_per_byte"] *= 1.001
    path.write_text(json.dumps(record))
    assert verify.verify(profile, 99, 0) == 1
    assert "DIFFERENT: qwen2.5-0.5b, magnitude\u00a050%: perplexity " in capsys.readouterr().out
    monkeypatch.setattr("lottery.__main__.load_profile", lambda _: profile)
    monkeypatch.setattr("sys.argv", ["lottery", "verify", "toy", "--trials", "5"])
    assert main() == 1


def test_runs_of_the_ticket_procedure_are_made_again_too(project, capsys):
    profile = validated({**TOY, "model": None, "tickets": {**SMALL, "levels": 1}})
    TicketStudy(profile).train()
    folder = outputs(profile.profile) / "winning-ticket"
    before = {path: path.read_bytes() for path in folder.rglob("*") if path.is_file()}
    capsys.readouterr()
    assert verify.verify(profile, 99, 0) == 0
    out = capsys.readouterr().out
    assert out.count("\nsame: qwen2.5-0.5b, seed 0, ") == len(list(folder.glob("records/*.json"))) == 7
    assert "same: qwen2.5-0.5b, seed 0, shuffled mask at " in out
    assert before == {path: path.read_bytes() for path in folder.rglob("*") if path.is_file()}, "nothing is touched"

    path = next(folder.glob("records/*-ticket-1-*.json"))
    record = json.loads(path.read_text())
    loss = record["result"]["loss"]
    record["result"]["loss"] *= 1.001
    path.write_text(json.dumps(record))
    assert verify.verify(profile, 99, 0) == 1
    assert "DIFFERENT: qwen2.5-0.5b, seed 0, ticket at 40% left: loss " in capsys.readouterr().out
    record["result"]["loss"] = loss
    layer = next(iter(record["result"]["sparsity_layers"]))
    record["result"]["sparsity_layers"][layer] -= 0.1
    path.write_text(json.dumps(record))
    assert verify.verify(profile, 99, 0) == 1
    assert "again, zeros in other layers" in capsys.readouterr().out
    next(folder.glob("weights/*/rewind.safetensors")).unlink()
    assert verify.verify(profile, 99, 0) == 4, "dense, pruned and new weights start from something else"
    assert (
        "DIFFERENT: qwen2.5-0.5b, seed 0, random mask at 40% left: cannot be made again: rewind.safetensors, which"
        in capsys.readouterr().out
    )


def test_the_draw_is_of_its_seed(study, capsys):
    verify.verify(study.profile, 1, 3)
    first = capsys.readouterr().out
    verify.verify(study.profile, 1, 3)
    assert capsys.readouterr().out == first
    assert first.startswith("measuring 1 of 5 recorded trials again, drawn with seed 3")


def test_with_nothing_recorded_or_nothing_asked_there_is_one_line(project, monkeypatch, capsys):
    with pytest.raises(LotteryError, match=r"nothing is recorded under .*toy; run make report PROFILE=toy first"):
        verify.verify(validated({**TOY}), 3, 0)
    monkeypatch.setattr("sys.argv", ["lottery", "verify", "demo", "--trials", "0"])
    assert main() == 1
    assert "--trials: given 0; allowed: a whole number of trials, at least 1" in capsys.readouterr().err
    assert not os.path.exists(outputs("toy"))


def test_what_differs_is_said():
    was = record_of("m", "magnitude", 0.5, 10.0)
    close = record_of("m", "magnitude", 0.5, 10.0, bits_per_byte=1 + 0.9e-4)
    assert verify.compared(was, close)[1]
    for far in ({"bits_per_byte": 1 + 2e-4}, {"layers": {"model.layers.0.x": 0.1}}):
        assert not verify.compared(was, record_of("m", "magnitude", 0.5, 10.0, **far))[1], far
    now = record_of("m", "magnitude", 0.5, 10.5, bits_per_byte=1.1, text="Other.", device="another", layers={"model.layers.0.x": 0.1})
    said, same = verify.compared(was, now)
    assert not same
    assert said == (
        "perplexity 10.0 recorded, 10.5 now, by +5.0e-02 of it, other texts, zeros in other layers"
        " (recorded on a CPU, float32; now another, float32)"
    )
