"""Retraining of pruned models with their zeros kept, of the dense one as a control, and what studies and reports say of it."""

import copy
import json
from dataclasses import replace

import pytest
import torch
from transformers import AutoModelForCausalLM

from lottery.analysis.recovery import recovered
from lottery.common.errors import DivergedError, ImpossibleTrialError, LotteryError, ParamsError, TrialMemoryError
from lottery.common.format import NBSP
from lottery.config.profile import load_profile, validated
from lottery.experiments import pruned as making
from lottery.experiments.records import requests, write_record
from lottery.experiments.study import Study
from lottery.models import loading
from lottery.models.blocks import prunable
from lottery.models.standins.architectures import ARCHITECTURES
from lottery.pruning.prune import prune
from lottery.pruning.variants import Variant, retrained, variants
from lottery.report.builder import Report
from lottery.training.recovery import recover
from tests.conftest import TOY, need_data

RECOVER = {"recover": {"steps": 3}, "calibration_text": "training-stories", "calibration_seq_len": 64}


def pruned(dtype=torch.float32):
    torch.manual_seed(0)
    model = AutoModelForCausalLM.from_config(copy.deepcopy(ARCHITECTURES["phi-2"]), dtype=dtype).eval()
    prune(model, Variant("magnitude", "uniform", "unstructured", 0.7))
    return model


@pytest.mark.parametrize("dtype", [torch.float32, torch.bfloat16])
def test_what_is_left_learns_and_nothing_else_moves(dtype):
    model, steps = pruned(dtype), []
    before = {name: parameter.detach().clone() for name, parameter in model.named_parameters()}
    samples = torch.randint(1, 800, (20, 32), generator=torch.Generator().manual_seed(0))
    recover(model, samples, 4, 1e-2, progress=lambda done, total: steps.append((done, total)))
    weights = {f"{name}.weight" for name in prunable(model)}
    for name, parameter in model.named_parameters():
        zero = before[name] == 0
        assert torch.equal(parameter[zero], before[name][zero]) if name in weights else torch.equal(parameter, before[name])
        if name in weights:
            assert (parameter != before[name])[~zero].float().mean() > 0.9
        assert parameter.requires_grad
        assert parameter.grad is None
    assert steps == [(done, 5) for done in range(1, 6)]
    assert not model.training
    assert not model.is_activation_checkpointing


@pytest.mark.parametrize(("how", "steps"), [("masked", 3), ("elsa", 3), ("elsa", 33)])
def test_a_retraining_that_diverges_is_one_line(how, steps):
    """ELSA looks for the lowest weights in the end, and every 32 steps."""
    with pytest.raises(
        DivergedError, match=r"^recover: the retraining diverged at a learning rate of 1e\+30; lower recover.learning_rate$"
    ):
        recover(pruned(), torch.randint(1, 800, (4 * steps, 16)), 4, 1e30, how)


def test_a_real_model_at_70_per_cent_gets_better_and_keeps_its_zeros(project, tmp_path):
    """stories260K, retrained on half of the stories and scored on the others."""
    data = need_data()
    lines = (data / "tinystories" / "stories.jsonl").read_text(encoding="utf-8").splitlines(keepends=True)
    for name, some in (("train", lines[::2]), ("test", lines[1::2])):
        (tmp_path / f"{name}.jsonl").write_text("".join(some), encoding="utf-8")
    shared = {**TOY, "model": str(data / "stories260K"), "text": str(tmp_path / "test.jsonl"), "sparsities": [0.7], "max_windows": 60}
    recovery = {
        "recover": {"steps": 60, "learning_rate": 0.001},
        "calibration_text": str(tmp_path / "train.jsonl"),
        "calibration_seq_len": 128,
    }
    recovery["recover"] |= {"how": "elsa", "start": ["pruned", "dense"]}
    before, after = Study(validated(shared)), Study(validated({**shared, **recovery}))
    for study in (before, after):
        study.sweep()
    assert len(after.records) == len(list((after.folder / "records").iterdir())) == 6, "the dense record and the pruned one are shared"
    one, dense, masked, elsa, from_dense = (record.result for record in after.records[1:])
    assert one == before.records[1].result
    for other in (masked, elsa):
        assert other.perplexity < 0.5 * one.perplexity
        assert other.sparsity_layers == one.sparsity_layers
        assert other.sparsity_prunable == pytest.approx(0.7, abs=1e-3)
        assert other.recovery_seconds > 0
    assert set(from_dense.sparsity_layers.values()) == set(one.sparsity_layers.values())
    assert from_dense.perplexity < one.perplexity
    assert dense.sparsity_prunable < 0.01
    assert dense.perplexity < 1.1 * after.records[0].result.perplexity
    assert one.recovery_seconds == 0
    found = recovered(after.records)
    assert list(found["title"].str.replace(NBSP, " ")) == ["dense + masked", "magnitude 70% + masked", "magnitude 70% + elsa", "elsa 70%"]
    assert list(found["tokens"]) == [60 * 4 * 128] * 4
    assert masked.recovery_moved == 0
    assert 0 < elsa.recovery_moved < 0.5
    assert from_dense.recovery_moved is None
    assert found["beside_masked"].iloc[2] == pytest.approx(elsa.bits_per_byte / masked.bits_per_byte)
    assert found["before"].iloc[1] == found["before"].iloc[2] == pytest.approx(one.bits_per_byte / after.records[0].result.bits_per_byte)


def test_of_several_learning_rates_each_variant_takes_its_best(toy, capsys):
    """Chosen on text that is not trained on; one that diverges is out, and the trial is the one that its rate alone would give."""
    few = {**toy, "sparsities": [0.7], "calibration_text": "training-stories", "calibration_seq_len": 32}
    study = Study(validated({**few, "recover": {"steps": 24, "batch_size": 2, "learning_rate": [1e30, 1e-9, 1e-3]}}))
    study.sweep()
    said = capsys.readouterr().out.replace(NBSP, " ")
    assert "magnitude 70% + masked: learning rate 1e+30, loss ∞ on held-back text after 6 windows" in said
    *_, control, masked = (record.result for record in study.records)
    assert (masked.recovery_learning_rate, control.recovery_learning_rate) == (1e-3, 1e-9), "the dense model is best left as it is"
    alone = Study(validated({**few, "profile": "alone", "recover": {"steps": 24, "batch_size": 2, "learning_rate": 1e-3}}))
    alone.sweep()
    assert alone.records[-1].result.window_nll == masked.window_nll
    held_back = {tuple(window) for window in study.recovery.held_back.tolist()}
    assert held_back
    assert not held_back & {tuple(window) for window in study.recovery.tokens.tolist()}


def test_a_rate_that_diverges_late_gives_way_to_the_next_best(toy, monkeypatch, capsys):
    few = {**toy, "sparsities": [0.7], "calibration_text": "training-stories", "calibration_seq_len": 32}
    late = Study(validated({**few, "recover": {"steps": 16, "batch_size": 2, "learning_rate": [1e-9, 1e-4, 1e-3]}}))

    def diverging(model, samples, batch, rate, *more, **named):
        recover(model, samples, batch, rate, *more, **named)
        if rate == 1e-3 and len(samples) == 32:
            raise DivergedError("late")

    monkeypatch.setattr("lottery.experiments.pruned.recover", diverging)
    late.sweep()
    said = capsys.readouterr().out.replace(NBSP, " ")
    assert "magnitude 70% + masked: diverged at a learning rate of 0.001; goes on with 0.0001" in said
    found = late.records[-1].result
    assert found.recovery_learning_rate == 1e-4
    alone = Study(validated({**few, "profile": "alone", "recover": {"steps": 16, "batch_size": 2, "learning_rate": 1e-4}}))
    alone.sweep()
    assert alone.records[-1].result.window_nll == found.window_nll, "it began again from what pruning left"


@pytest.mark.parametrize(
    ("windows", "asked", "message"),
    [
        (3, {}, r"^samples: given 3; allowed: at least one batch, 4$"),
        (4, {"sparsity": 0.7}, r"^given sparsity 0\.7 and pattern None; allowed with masked: neither"),
    ],
)
def test_what_would_do_nothing_in_silence_is_refused(windows, asked, message):
    with pytest.raises(ValueError, match=message):
        recover(pruned(), torch.randint(1, 800, (windows, 16)), 4, 1e-3, **asked)


def test_records_without_it_are_found_as_before_and_with_it_are_others(project):
    plain = requests(validated(TOY), "c", "t")
    keyed = json.loads(plain[1].model_dump_json())
    keyed.pop("recover_steps")
    keyed.pop("recover_learning_rate")
    keyed.pop("recover_batch_size")
    keyed.pop("recovery")
    keyed.pop("loss")
    assert type(plain[1]).model_validate(keyed).key == plain[1].key
    with_it = requests(validated({**TOY, **RECOVER}), "c", "t", "calibration")
    assert with_it[:3] == plain, "what is not retrained stays, to tell what retraining gave"
    assert [request.title.replace(NBSP, " ") for request in with_it[3:]] == [
        "dense + masked", "magnitude 50% + masked", "magnitude 90% + masked",
    ]  # fmt: skip
    assert with_it[4].key != plain[1].key
    assert with_it[4].calibration == "calibration"
    assert with_it[4].calibration_samples is None
    other = requests(validated({**TOY, **RECOVER, "recover": {"steps": 3, "learning_rate": 0.01}}), "c", "t", "calibration")
    assert other[4].key != with_it[4].key


def test_whatever_moves_zeros_stands_beside_what_keeps_them_and_the_dense_control():
    pruned = variants(["magnitude"], ["uniform"], ["unstructured", "2:4"], [0.5])
    found = retrained(pruned, ["elsa"], ["dense", "pruned"], ["cross-entropy", "distillation"])
    assert [variant.title.replace(NBSP, " ") for variant in found] == [
        "dense + masked", "dense + masked (distilled)",
        "magnitude 50% + masked", "magnitude 50% + masked (distilled)", "magnitude 50% + elsa", "magnitude 50% + elsa (distilled)",
        "magnitude 2:4 + masked", "magnitude 2:4 + masked (distilled)", "magnitude 2:4 + elsa", "magnitude 2:4 + elsa (distilled)",
        "elsa 50%", "elsa (distilled) 50%", "elsa 2:4", "elsa (distilled) 2:4",
    ]  # fmt: skip
    assert len({variant.label for variant in found if variant.sparsity}) == 12
    assert not any(variant.calibrated or variant in pruned for variant in found)
    assert [variant.one_shot for variant in found] == [False] * 2 + [True] * 8 + [False] * 4


@pytest.mark.parametrize(
    ("changes", "message"),
    [
        ({"recover": {"steps": 0}}, r"^recover\['steps'\]: given 0; allowed: a whole number of steps, 1 to 1000000"),
        ({"recover": {"learning_rate": 0.1}}, r"^recover\['steps'\]: not given; allowed: a whole number of steps"),
        (
            {"recover": {"steps": 1, "learning_rote": 1}},
            r"^unknown key 'recover.learning_rote' \(given 1\), did you mean 'learning_rate'\?; allowed: how, start, loss, steps, learning_rate, batch_size$",
        ),
        (
            {"recover": {"steps": 1, "how": "lora"}},
            r"^recover\['how'\]\[0\]: given 'lora'; allowed: masked, elsa, elsa-identity, or a list",
        ),
        (
            {"recover": {"steps": 1, "start": "sparse"}},
            r"^recover\['start'\]\[0\]: given 'sparse'; allowed: pruned, dense, or a list of both",
        ),
        (
            {"recover": {"steps": 1, "start": ["pruned", "dense"]}},
            r"^recover\['start'\]: given \['pruned', 'dense'\], with how: masked, which starts pruned; allowed: pruned$",
        ),
        (
            {"recover": {"steps": 1, "how": ["elsa", "elsa"]}},
            r"^recover\['how'\]: given \['elsa', 'elsa'\], with repeats; allowed: each value once$",
        ),
        (
            {"recover": {"steps": 31, "how": "elsa"}},
            r"^recover\['steps'\]: given 31; allowed with elsa: at least 32, since it projects every 32 steps$",
        ),
        (
            {"recover": {"steps": 255, "how": "elsa", "learning_rate": [1e-4, 1e-3]}},
            r"^recover\['steps'\]: given 255; allowed with elsa and several learning rates: at least 256, since",
        ),
        ({"calibration_text": None}, r"^calibration_text: not given, but recover needs it; allowed: "),
        ({"calibration_text": "stories"}, r"^calibration_text: given 'stories', the text that is scored"),
        ({"dtype": "float16"}, r"^dtype: given 'float16', in which recover cannot train; allowed: auto, float32, bfloat16$"),
    ],
)
def test_bad_values_are_one_line(project, changes, message):
    with pytest.raises(ParamsError, match=message):
        validated({**TOY, **RECOVER, **changes})


def test_a_gpu_without_bfloat16_is_found_out_before_the_first_trial(project, monkeypatch):
    monkeypatch.setattr(
        "lottery.models.loading._dtype", lambda *_: (torch.float16, "no native bfloat16 below compute capability 8.0, this is 7.0")
    )
    with pytest.raises(LotteryError, match=r"this is 7.0, and recover cannot train in float16; set dtype: float32$"):
        Study(validated({**TOY, **RECOVER}))


def test_what_is_streamed_to_a_gpu_is_not_retrained_elsewhere_in_silence(project, monkeypatch):
    plan = loading.Plan(torch.device("cuda"), torch.bfloat16, "as stored", streamed=True, memory_reason="it needs 15 of 12 GB")
    monkeypatch.setattr(Study, "_planned", lambda study: plan)
    with pytest.raises(
        LotteryError, match=r"^memory: qwen2.5-0.5b is streamed to cuda \(it needs 15 of 12 GB\), and recover trains a whole"
    ):
        Study(validated({**TOY, **RECOVER}))


def test_out_of_memory_while_retraining_is_not_answered_by_streaming(toy, monkeypatch):
    def hungry(*_, **__):
        raise torch.OutOfMemoryError("CUDA out of memory. Tried to allocate 1.34 GiB.")

    study = Study(validated({**toy, **RECOVER, "rounding": [8]}))
    said = r"masked is impossible: out of memory while retraining; take a smaller recover\.batch_size or a device with .*; all else is"
    with monkeypatch.context() as patched:
        patched.setattr(making, "recover", hungry)
        patched.setattr(loading, "streaming_spares", lambda device: True)
        with pytest.raises(ImpossibleTrialError, match=said):
            study.sweep()
    assert [r.request.title for r in study.records] == [r.title for r in study.requests if not r.recovery], "what needs less is measured"
    assert [r.title for r in study.missing(study.requests)] == []
    again = Study(study.profile)
    assert [r.title for r in again.missing(again.requests)] == [r.title for r in again.requests if r.recovery], "it may have more memory"
    again.sweep()
    assert len(again.records) == len(again.requests)


def test_a_study_that_is_streamed_in_the_middle_retrains_nothing_in_main_memory(toy, monkeypatch):
    study = Study(validated({**toy, **RECOVER}))
    study.measure_dense()
    plan = replace(study.plan, device=torch.device("cuda"), streamed=True, memory_reason="out of memory while pruning")
    monkeypatch.setattr(study, "plan", plan)
    monkeypatch.setattr(making, "recover", lambda *_, **__: pytest.fail("it trains in main memory"))
    monkeypatch.setattr(making.PrunedModels, "_pruned_once", lambda *_: pytest.fail("and prunes for hours before"))
    request = next(request for request in study.requests if request.recovery)
    with pytest.raises(TrialMemoryError, match=r"^memory: qwen2.5-0.5b is streamed to cuda \(out of memory while pruning\), and recover"):
        study.trials.models._made(study.trials.models._taken(), request, "trial")


def test_too_little_memory_to_retrain_is_found_before_the_first_trial(toy, monkeypatch):
    monkeypatch.setattr(loading, "available", lambda device: 2 << 20)
    with pytest.raises(LotteryError, match=r"^recover: to train qwen2.5-0.5b takes [\d.]+ MiB or more, .* has 2.0 MiB free; take a device"):
        Study(validated({**toy, **RECOVER}))
    Study(validated(toy))


def test_a_text_too_short_to_retrain_on_is_found_before_the_first_trial(project):
    with open("brief.txt", "w") as file:
        file.write("Once upon a time there was a boy who had a dog and a ball. " * 5)
    with pytest.raises(LotteryError, match=r"^calibration_text: brief\.txt has \d+ tokens, fewer than two windows of 64 to retrain on"):
        Study(validated({**TOY, **RECOVER, "calibration_text": "brief.txt"}))


def test_where_every_learning_rate_diverges_the_others_are_measured_and_the_reason_is_said(toy):
    asked = {**toy, "sparsities": [0.7], "calibration_text": "training-stories", "calibration_seq_len": 32}
    study = Study(validated({**asked, "recover": {"steps": 8, "batch_size": 2, "learning_rate": [1e29, 1e30]}}))
    with pytest.raises(ImpossibleTrialError, match=r"every learning rate of 1e\+29, 1e\+30; lower .*; so is another trial; all else is"):
        study.sweep()
    assert len(study.records) == 2


def test_the_report_speaks_of_what_was_retrained_too(toy):
    """Its commits, its devices, and that each was retrained once."""
    study = Study(validated({**toy, **RECOVER}))
    study.sweep()
    record = study.records[-1]
    assert record.request.recovery
    other = record.provenance.model_copy(update={"commit": "f" * 40, "dirty": True})
    write_record(study.folder, record.model_copy(update={"provenance": other}))
    report = Report(study.profile)
    assert "Each retraining was run once." in report.limits().data
    said = report.reproduce().data
    assert "changes that are not committed" in said
    assert "The trials were made by 2 commits" in said
    assert "f" * 10 in report.machines().data


def test_the_method_says_that_it_was_done(project):
    assert "and the dense one as a control, was also retrained for 3 steps" in Report(load_profile("demo", **RECOVER)).protocol().data
    assert "Recovery" not in Report(load_profile("demo")).protocol().data
