"""What a study does when memory runs out or the dtype overflows: it tries again, says so, and loses nothing."""

import itertools
import math
import weakref
from functools import reduce

import pytest
import torch

from lottery.common.errors import CalibrationNotFiniteError, LotteryError, NotFiniteError
from lottery.config.checkpoint import checkpoint
from lottery.config.profile import validated
from lottery.evaluation.generation import Speed
from lottery.evaluation.likelihood import Likelihoods
from lottery.experiments import pruned as making
from lottery.experiments import trials
from lottery.experiments.study import Study
from lottery.models import loading
from lottery.models.shortage import is_about_memory
from lottery.pruning import activations


def run(toy, **changes) -> Study:
    study = Study(validated({**toy, **changes}))
    study.measure_dense()
    study.sweep()
    return study


def without_figures(record):
    """A record's numbers that do not depend on the moment."""
    return record.result.model_dump(
        exclude={"speed", "dense_speed", "savings", "memory", "bandwidth", "pruning_seconds", "recovery_seconds"}
    )


def test_streamed_and_resident_studies_record_the_same_numbers(toy):
    wanted = {
        "methods": ["magnitude", "wanda"],
        "calibration_text": "training-stories",
        "calibration_samples": 2,
        "calibration_seq_len": 32,
    }
    resident, streamed = (run(toy, profile=how, memory=how, **wanted) for how in ("resident", "streamed"))
    for a, b in zip(resident.records, streamed.records, strict=True):
        assert without_figures(a) == without_figures(b)
    assert {r.provenance.memory_plan for r in streamed.records} == {"streamed"}
    assert {r.provenance.memory_reason for r in streamed.records} == {"asked for in the profile"}


def test_a_streamed_trial_prunes_once_and_what_it_scores_is_what_it_writes_with(toy, monkeypatch):
    pruned, scored, spoken = [], [], []
    reals = making.prune, trials.evaluate, trials.generation.speed
    monkeypatch.setattr(making, "prune", lambda model, *a, **k: (pruned.append(model), reals[0](model, *a, **k))[1])
    monkeypatch.setattr(trials, "evaluate", lambda model, *a, **k: (scored.append((model, k["device"])), reals[1](model, *a, **k))[1])
    monkeypatch.setattr(trials.generation, "speed", lambda model, *a: (spoken.append(model), reals[2](model, *a))[1])
    study = Study(validated({**toy, "memory": "streamed", "sparsities": [0.5, 0.7], "repeats": 1}))
    study.sweep()
    assert len(pruned) == len(scored) == 3, "the dense model and two variants"
    assert {device for _, device in scored} == {torch.device("cpu")}
    own, dense_again = [spoken[0], *spoken[1::2]], spoken[2::2]
    assert all(a is b is c for a, (b, _), c in zip(pruned, scored, own, strict=True))
    assert len(dense_again) == 2


def test_out_of_memory_while_pruning_is_answered_at_pruning(toy, monkeypatch, capsys):
    real = making.prune

    def hungry(model, variant, *arguments, device=None, **keywords):
        if variant.method != "dense" and (device is None or never):
            raise torch.OutOfMemoryError("CUDA out of memory. Tried to allocate 1.34 GiB.")
        real(model, variant, *arguments, device=device, **keywords)

    monkeypatch.setattr(making, "prune", hungry)
    monkeypatch.setattr(loading, "streaming_spares", lambda device: True)
    never = False
    found = run(toy, profile="once", batch_size=4)
    said = capsys.readouterr().out.replace("\N{NO-BREAK SPACE}", " ")
    assert "windows at a time" not in said, "the text was not to blame"
    assert "out of memory while pruning by magnitude and the whole model resident; streaming it block by block" in said
    assert [r.provenance.memory_plan for r in found.records] == ["resident", "streamed", "streamed"]
    never = True
    with pytest.raises(
        LotteryError,
        match=r"^out of memory while pruning by magnitude; take fewer calibration_samples, another method \(magnitude needs least\)",
    ):
        run(toy, profile="never", batch_size=4)


def test_memory_is_that_of_the_model_and_its_work_dense_or_pruned(toy):
    """Not that of Python, of loading, or of the states that are kept of the dense model."""
    ballast = torch.ones(256 << 20, dtype=torch.uint8)
    found = [record.result.memory for record in run(toy, profile="ballast").records]
    del ballast
    assert {memory.kind for memory in found} == {"main memory"}
    assert all(memory.weights <= memory.evaluation_peak < memory.weights + (64 << 20) for memory in found)
    assert all(memory.weights <= memory.generation_peak < memory.weights + (64 << 20) for memory in found)
    assert max(m.evaluation_peak for m in found) - min(m.evaluation_peak for m in found) < 16 << 20


def test_variants_share_the_dense_pass(toy, monkeypatch):
    passes, real = [], trials.evaluate
    monkeypatch.setattr(trials, "evaluate", lambda *a, **k: (passes.append(1), real(*a, **k))[1])
    run(toy)
    assert len(passes) == 3


def test_out_of_memory_halves_the_batch_then_streams_then_says_so(toy, monkeypatch, capsys):
    real = trials.evaluate

    def small(model, tokens, batch_size=1, *more, device=None, **keywords):
        if batch_size > limit and device is None:
            raise RuntimeError("[enforce fail at alloc_cpu.cpp] DefaultCPUAllocator: can't allocate memory: you tried to allocate 1 byte")
        return real(model, tokens, batch_size, *more, device=device, **keywords)

    at_once = run(toy, profile="expected", batch_size=4).records
    assert {r.provenance.batch_size for r in at_once} == {4}
    expected = [without_figures(r) for r in at_once]
    monkeypatch.setattr(trials, "evaluate", small)
    limit = 2
    halved = run(toy, profile="halved", batch_size=4)
    assert "out of memory; going on with 2 windows at a time" in capsys.readouterr().out
    for record, wanted in zip(halved.records, expected, strict=True):
        assert record.provenance.batch_size == 2
        assert record.result.perplexity == pytest.approx(wanted["metrics"]["perplexity"], rel=1e-5)
    limit = 0
    with pytest.raises(
        LotteryError, match=r"^out of memory with one window of 64 tokens at a time; take a smaller seq_len or another device"
    ):
        run(toy, profile="whole", batch_size=2)
    monkeypatch.setattr(loading, "streaming_spares", lambda device: True)
    streamed = run(toy, profile="streams", batch_size=2)
    assert "streaming it block by block" in capsys.readouterr().out
    assert {r.provenance.memory_plan for r in streamed.records} == {"streamed"}
    assert "out of memory with one window of 64 tokens at a time and the whole model" in streamed.records[0].provenance.memory_reason


# Where memory is asked for, and the words that say so.
SITES = {
    "trials.memory.bandwidth": r"at work; take a device with more memory",
    "loading.load": r"while loading the model; take a device with more memory or dtype: float16",
    "trials.evaluate": r"with one window of 64 tokens at a time; take a smaller seq_len or another device",
    "making.prune": r"while pruning by .*; take fewer calibration_samples, another method .*",
    "trials.continuations": r"while it writes; take fewer new_tokens or a device with more memory",
    "trials.generation.bits": r"while it writes; take fewer new_tokens or a device with more memory",
    "trials.generation.bits_per_byte": r"while it writes; take fewer new_tokens or a device with more memory",
    "trials.generation.speed": r"while it writes; take fewer new_tokens or a device with more memory",
    "making.recover": r"while retraining; take a smaller recover.batch_size or a device with more memory",
}


@pytest.mark.parametrize("site", SITES)
@pytest.mark.parametrize("times", [1, 10**9])
def test_wherever_memory_runs_out_the_trial_is_recorded_or_one_true_line_says_why(toy, monkeypatch, site, times):
    """On a device that streaming spares, at every place that asks for memory in turn: once, and for good."""
    monkeypatch.setattr(trials.memory, "bandwidth", lambda device: 1e10)  # its seconds would be most of the test's
    holder, name = site.rsplit(".", 1)
    module, *path = holder.split(".")
    owner = reduce(getattr, path, {"trials": trials, "loading": loading, "making": making}[module])
    real = getattr(owner, name)
    left, held = times, []

    def full(*arguments, **keywords):
        nonlocal left
        if left and not (name == "prune" and arguments[1].method == "dense"):
            left -= 1
            tensor = torch.empty(1)
            held.append(weakref.ref(tensor))
            raise torch.OutOfMemoryError("CUDA out of memory. Tried to allocate 2.00 GiB.")
        return real(*arguments, **keywords)

    def planned(*arguments, **keywords):
        assert not held or held[-1]() is None, "what the failed trial held is let go of before what is free is asked for"
        return plan(*arguments, **keywords)

    plan = loading.plan
    monkeypatch.setattr(loading, "plan", planned)
    monkeypatch.setattr(loading, "streaming_spares", lambda device: True)
    monkeypatch.setattr(owner, name, full)
    wanted = {**toy, "methods": ["wanda"], "sparsities": [0.5], "batch_size": 2, "repeats": 1, "calibration_text": "training-stories"}
    wanted |= {
        "max_windows": 2,
        "prompts": 1,
        "new_tokens": 4,
        "calibration_samples": 2,
        "calibration_seq_len": 32,
        "recover": {"steps": 1, "learning_rate": 1e-4},
    }
    if times == 1 and site != "making.recover":  # what is retrained is whole on its device, so streaming it would only move it to the CPU
        assert len(run(wanted).records) == 4
    else:
        said = f"out of memory {SITES[site]}"
        if site == "making.recover":  # the others need less
            said = rf"dense.\+.masked is impossible: {said}; (so is another trial; )?all else is recorded"
        with pytest.raises(LotteryError, match=f"^{said}$"):
            run(wanted)


def test_an_error_that_is_not_about_memory_is_not_swallowed(toy, monkeypatch):
    monkeypatch.setattr(trials, "evaluate", lambda *_, **__: (_ for _ in ()).throw(RuntimeError("something else")))
    with pytest.raises(RuntimeError, match="something else"):
        run(toy)


def test_a_dtype_that_overflows_is_stepped_up_and_the_records_say_so(toy, monkeypatch, capsys):
    monkeypatch.setattr(loading, "_dtype", lambda *_: (torch.float16, "a test"))
    real = trials.evaluate

    def overflows(model, *arguments, **keywords):
        scored, kept = real(model, *arguments, **keywords)
        return (scored if model.dtype == torch.float32 else Likelihoods(scored.nll * torch.nan, *scored[1:])), kept

    monkeypatch.setattr(trials, "evaluate", overflows)
    study = run(toy)
    assert "overflows: the dense model's losses are not finite in torch.float16; going on in float32" in capsys.readouterr().out
    assert {r.provenance.dtype for r in study.records} == {"float32"}
    assert all("torch.float16 overflows" in r.provenance.dtype_reason for r in study.records)


def test_a_dtype_that_was_asked_for_is_not_changed_and_a_damaged_checkpoint_is_named(toy, monkeypatch):
    real = trials.evaluate

    def broken(*arguments, **keywords):
        scored, kept = real(*arguments, **keywords)
        return Likelihoods(scored.nll * torch.nan, *scored[1:]), kept

    monkeypatch.setattr(trials, "evaluate", broken)
    study = Study(validated(toy))
    with pytest.raises(NotFiniteError, match=r"the dense model's losses are not finite in torch\.float32: the checkpoint is damaged"):
        study.measure_dense()
    assert study.records == []
    half = Study(validated({**toy, "dtype": "float16"}))
    with pytest.raises(NotFiniteError, match=r"not finite in torch\.float16: it overflows; set dtype: float32, or auto"):
        half.measure_dense()


def test_a_pruned_model_that_is_not_finite_is_a_broken_ticket(toy, monkeypatch):
    """Recorded as infinite; only the dense model speaks for the dtype."""
    real, calls = trials.evaluate, []

    def broken(*arguments, **keywords):
        scored, kept = real(*arguments, **keywords)
        calls.append(1)
        return (scored if len(calls) == 1 else Likelihoods(scored.nll * torch.nan, scored.kl * torch.nan, scored.agreed)), kept

    monkeypatch.setattr(trials, "evaluate", broken)
    dense, *others = run(toy).records
    assert dense.result.perplexity < 100
    assert [r.result.perplexity for r in others] == [float("inf")] * 2
    assert [r.result.metrics["kl"] for r in others] == [float("inf")] * 2


def overflowing(monkeypatch):
    """Pruning that leaves a model whose hidden states float16 cannot hold and float32 can."""
    real = making.prune

    def prune(model, variant, *arguments, **keywords):
        real(model, variant, *arguments, **keywords)
        if variant.method != "dense":
            for block in model.model.layers:
                block.mlp.up_proj.weight.data.mul_(3000)
                block.mlp.down_proj.weight.data.mul_(300)

    monkeypatch.setattr(making, "prune", prune)


def test_a_variant_that_only_float16_makes_infinite_is_scored_in_float32(toy, monkeypatch, capsys):
    overflowing(monkeypatch)
    dense, *others = run({**toy, "dtype": "float16"}).records
    assert dense.provenance.dtype_reason == "asked for in the profile"
    for record in others:
        assert math.isfinite(record.result.perplexity)
        assert math.isfinite(record.result.metrics["kl"])
        assert record.provenance.dtype == "float16", "its texts and its speed"
        assert record.provenance.dtype_reason.endswith(
            "not finite in it, so the scores are of the same weights in float32, a window at a time"
        )
    assert "magnitude 50%: not finite in float16, scored again in float32" in capsys.readouterr().out.replace("\u00a0", " ")
    whole = run({**toy, "dtype": "float32", "profile": "whole"}).records
    for record, exact in zip(others, whole[1:], strict=True):
        assert record.result.bits_per_byte == pytest.approx(exact.result.bits_per_byte, rel=0.02)


def test_a_calibration_that_only_float16_makes_infinite_is_of_float32(toy, monkeypatch, capsys):
    """Once blocks are pruned their outputs may grow beyond float16 on the calibration text, though not on the text that is scored."""
    wanted = {"methods": ["wanda"], "calibration_text": "training-stories", "calibration_samples": 2, "calibration_seq_len": 32}
    real = activations.ActivationStats.check

    def overflows(stats, name):
        if dtypes[-1] == torch.float16 and "layers.1" in name:
            raise CalibrationNotFiniteError(f"{name}: its inputs are not finite")
        real(stats, name)

    dtypes, prune = [], making.prune

    def watched(model, variant, *arguments, **keywords):
        dtypes.append(model.dtype)
        prune(model, variant, *arguments, **keywords)

    monkeypatch.setattr(activations.ActivationStats, "check", overflows)
    monkeypatch.setattr(making, "prune", watched)
    dense, *others = run({**toy, **wanted, "dtype": "float16"}).records
    assert dense.provenance.dtype_reason == "asked for in the profile"
    assert dtypes == [torch.float16, *[torch.float16, torch.float32] * 2]
    for record in others:
        assert record.provenance.dtype == "float16"
        assert record.provenance.dtype_reason.endswith("; it overflowed on the calibration text, so the model was pruned in float32")
    assert "not finite on the calibration text in float16, made again in float32" in capsys.readouterr().out
    whole = run({**toy, **wanted, "dtype": "float32", "profile": "whole"}).records
    for record, exact in zip(others, whole[1:], strict=True):
        assert record.result.sparsity_layers == exact.result.sparsity_layers
        assert record.result.bits_per_byte == pytest.approx(exact.result.bits_per_byte, rel=0.02)
    dtypes.append(torch.float16)
    monkeypatch.setattr(making, "prune", prune)
    with pytest.raises(LotteryError, match="its inputs are not finite"):
        run({**toy, **wanted, "dtype": "bfloat16", "profile": "other"})


@pytest.mark.parametrize(
    "words",
    [
        "CUDA out of memory. Tried to allocate 2.00 GiB.",
        "CUDA error: out of memory\nCUDA kernel errors might be asynchronously reported",
        "CUDA error: CUBLAS_STATUS_ALLOC_FAILED when calling `cublasCreate(handle)`",
        "cusolver error: CUSOLVER_STATUS_ALLOC_FAILED, when calling `cusolverDnCreate(handle)`",
        "std::bad_alloc",
        "[enforce fail at alloc_cpu.cpp] DefaultCPUAllocator: can't allocate memory: you tried to allocate 1 byte",
    ],
)
def test_memory_that_runs_out_is_known_by_its_words(words):
    assert is_about_memory(RuntimeError(words))
    assert not is_about_memory(RuntimeError("CUDA error: an illegal memory access was encountered"))


def test_only_parameters_change_their_dtype_and_come_back_as_they_were(toy):
    """The frequencies of rotary positions are buffers in float32; in float16 they would be other positions."""
    model = loading.load(checkpoint(validated(toy)), loading.Plan(torch.device("cpu"), torch.float16, ""))
    before = {name: value.clone() for name, value in model.state_dict(keep_vars=True).items()}
    buffers = {name: (value.dtype, value.clone()) for name, value in model.named_buffers()}
    assert "model.rotary_emb.inv_freq" in buffers
    loading.cast(model, torch.float32)
    assert {p.dtype for p in model.parameters()} == {torch.float32}
    loading.cast(model, torch.float16)
    assert all(torch.equal(value, before[name]) for name, value in model.state_dict(keep_vars=True).items())
    assert all(value.dtype == buffers[name][0] and torch.equal(value, buffers[name][1]) for name, value in model.named_buffers())


def test_where_float32_does_not_fit_infinity_is_recorded_with_the_reason(toy, monkeypatch):
    overflowing(monkeypatch)

    real = loading.cast

    def full(model, dtype):
        if dtype == torch.float32:
            raise RuntimeError("CUDA out of memory. Tried to allocate 9 GiB.")
        real(model, dtype)

    monkeypatch.setattr(loading, "cast", full)
    _, *others = run({**toy, "dtype": "float16"}).records
    assert [record.result.perplexity for record in others] == [math.inf] * 2
    assert others[0].provenance.dtype_reason.endswith("not finite in it, and float32 does not fit in memory")


def test_the_dense_model_is_timed_right_after_each_variant_and_loaded_no_more_often_for_it(toy, monkeypatch):
    happened, speeds = [], iter(range(1, 99))
    real_load, real_bits = loading.load, trials.generation.bits

    def zeros(model):
        return round(float((model.model.layers[0].mlp.up_proj.weight == 0).float().mean()), 1)

    def timed(_, model):
        happened.append(("timed", zeros(model)))
        rate = [float(next(speeds))]
        return Speed(new_tokens=8, device="a", **dict.fromkeys(rates, rate))

    rates = ["tokens_per_second", "prefill_tokens_per_second", "decode_tokens_per_second"]
    monkeypatch.setattr(trials.Trials, "_timed", timed)
    monkeypatch.setattr(loading, "load", lambda *given: happened.append(("loaded",)) or real_load(*given))
    monkeypatch.setattr(trials.generation, "bits", lambda *given: happened.append(("judged",)) or real_bits(*given))
    dense, half, most = run(toy).records
    order = [what for what, *_ in itertools.groupby(happened)]
    assert order == [
        ("loaded",), ("judged",), ("timed", 0.0), ("judged",),
        ("timed", 0.5), ("loaded",), ("timed", 0.0), ("judged",),
        ("timed", 0.9), ("loaded",), ("timed", 0.0), ("judged",),
    ]  # fmt: skip
    assert dense.result.dense_speed is None
    assert [r.result.speed.tokens_per_second[0] for r in (dense, half, most)] == [1, 2, 4]
    assert [r.result.dense_speed.tokens_per_second[0] for r in (half, most)] == [3, 5]


def test_a_cliff_is_bisected_and_a_second_run_measures_nothing(toy, capsys):
    wanted = {"bisect": True, "sparsities": [0.3, 0.9], "max_windows": 2, "prompts": 1, "repeats": 1}
    study = run(toy, **wanted)
    assert len(study.records) == len(study.requests) > 5
    assert all(r.result.dense_speed is None for r in study.records if not r.request.repeats), "what is scored only is not timed"
    study.finish()
    capsys.readouterr()
    run(toy, **wanted).finish()
    assert "recorded already" in capsys.readouterr().out


def test_bandwidth_is_measured_before_anything_is_loaded(toy, monkeypatch):
    order = []
    real_bandwidth, real_load = trials.memory.bandwidth, loading.load
    monkeypatch.setattr(trials.memory, "bandwidth", lambda device: order.append("bandwidth") or real_bandwidth(device))
    monkeypatch.setattr(loading, "load", lambda *given: order.append("load") or real_load(*given))
    run(toy)
    assert order[0] == "bandwidth"
    assert order.count("bandwidth") == 1
