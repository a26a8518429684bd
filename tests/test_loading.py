import pytest
import torch
from accelerate import dispatch_model
from transformers import LlamaConfig

from lottery.common.errors import LotteryError, NoRoomError
from lottery.config.profile import validated
from lottery.data.corpus import corpus, windows
from lottery.evaluation.evaluate import evaluate
from lottery.experiments.study import Study
from lottery.models import loading
from lottery.models.memory import Room
from tests.conftest import TOY
from tests.test_checkpoints import of


def planned(weights=1, **changes):
    """The plan for a model of so many weights, which exist on the meta device only."""
    model = torch.nn.Linear(weights, 1, bias=False, device="meta")
    model.config = LlamaConfig(hidden_size=4096, intermediate_size=14336)
    return loading.plan(validated({**TOY, **changes}), model)


@pytest.fixture
def gpu(monkeypatch):
    """A GPU that only answers questions: its name, its capability, what torch is built for, how much is free."""

    def pretend(name, capability, built_for, free=2**34, share=1.0):
        monkeypatch.setattr(torch.cuda, "is_available", lambda: True)
        monkeypatch.setattr(torch.cuda, "get_device_name", lambda *_: name)
        monkeypatch.setattr(torch.cuda, "get_device_capability", lambda *_: capability)
        monkeypatch.setattr(torch.cuda, "get_arch_list", lambda: built_for)
        monkeypatch.setattr(torch.cuda, "mem_get_info", lambda *_: (free, free))
        monkeypatch.setattr(torch.cuda, "get_per_process_memory_fraction", lambda *_: share)
        monkeypatch.setattr(torch.cuda, "memory_reserved", lambda *_: 0)
        monkeypatch.setattr(torch.cuda, "device_count", lambda: 1)

    return pretend


OLD = ["sm_70", "sm_75", "sm_80", "sm_86", "sm_90", "sm_100", "sm_120"]
NEW = ["sm_75", "sm_80", "sm_86", "sm_90", "sm_100", "sm_120"]


@pytest.mark.parametrize(
    ("name", "capability", "dtype"),
    [
        ("Tesla T4", (7, 5), torch.float16),
        ("Tesla V100", (7, 0), torch.float16),
        ("NVIDIA H100", (9, 0), torch.bfloat16),
        ("NVIDIA L4", (8, 9), torch.bfloat16),
    ],
)
def test_bfloat16_only_where_it_is_native_and_the_reason_is_given(gpu, name, capability, dtype):
    gpu(name, capability, OLD)
    plan = planned()
    assert (plan.device.type, plan.dtype) == ("cuda", dtype)
    assert f"this is {capability[0]}.{capability[1]}" in plan.dtype_reason


def test_a_gpu_that_this_build_cannot_drive_is_refused_with_the_cure(gpu):
    gpu("Tesla V100", (7, 0), NEW)
    with pytest.raises(
        LotteryError,
        match=r"cannot drive Tesla V100 \(sm_70\); install torch==2\.10\.\*, the last release whose default build drives a V100",
    ):
        planned()


def test_weights_that_fit_nowhere_are_refused_before_loading(gpu, monkeypatch):
    gpu("Tesla T4", (7, 5), OLD, free=int(14.5 * 2**30))
    monkeypatch.setattr(loading.memory, "main_memory", lambda: Room(2**33, 2**33))
    with pytest.raises(
        LotteryError,
        match=r"the weights need 18\.6 GiB in float16, Tesla T4 has 14\.5 GiB free; take a machine with more memory or memory: streamed",
    ):
        planned(weights=10**10, memory="resident")
    with pytest.raises(
        LotteryError, match=r"the weights need 18\.6 GiB in float16, .* has 8\.0 GiB free; take a machine with more memory$"
    ):
        planned(weights=10**10)


MISTRAL = 7_241_732_096


def test_a_model_that_fits_with_its_work_is_resident_and_one_that_does_not_is_streamed(gpu):
    gpu("Tesla V100", (7, 0), OLD, free=32 * 2**30)
    plan = planned(weights=MISTRAL)
    assert not plan.streamed
    assert plan.memory_reason == "weights of 13.5 GiB and 0.5 GiB of work fit in the 32.0 GiB free on Tesla V100"
    gpu("Tesla V100", (7, 0), OLD, free=32 * 2**30, share=0.4)  # what torch was told to keep to counts
    assert planned(weights=MISTRAL).streamed
    gpu("Tesla T4", (7, 5), OLD, free=int(13.9 * 2**30))
    plan = planned(weights=MISTRAL)
    assert (plan.streamed, plan.generates_on.type) == (True, "cuda")
    assert plan.memory_reason == "weights of 13.5 GiB and 0.5 GiB of work do not fit in the 13.9 GiB free on Tesla T4"


def test_what_does_not_fit_a_gpu_even_by_itself_generates_on_the_cpu(gpu, monkeypatch):
    gpu("Tesla T4", (7, 5), OLD, free=12 * 2**30)
    monkeypatch.setattr(loading.memory, "main_memory", lambda: Room(2**36, 2**36))
    plan = planned(weights=MISTRAL)
    assert (plan.streamed, plan.device.type, plan.generates_on.type) == (True, "cuda", "cpu")
    assert "texts and speed on the CPU" in plan.memory_reason


def test_a_cpu_never_streams_unasked_since_blocks_would_wait_where_they_work(monkeypatch):
    monkeypatch.setattr(loading.memory, "main_memory", lambda: Room(int(27.2 * 2**30), 2**36))
    plan = planned(weights=MISTRAL, device="cpu", dtype="float32")
    assert not plan.streamed
    assert "do not safely fit" in plan.memory_reason
    assert planned(weights=MISTRAL, device="cpu", dtype="float32", memory="streamed").streamed


def test_several_gpus_share_what_one_does_not_hold(gpu, monkeypatch):
    gpu("Tesla T4", (7, 5), OLD, free=12 * 2**30)
    monkeypatch.setattr(torch.cuda, "device_count", lambda: 4)
    plan = planned(weights=MISTRAL)
    assert (plan.spread, plan.streamed) == (True, False)
    assert "spread over 4 GPUs" in plan.memory_reason
    assert planned(weights=MISTRAL, memory="streamed").streamed


def test_a_model_whose_modules_accelerate_moves_is_scored_alike(tmp_path):
    """What several GPUs come to: hooks on every block. Here blocks are kept on disk and brought in by the same hooks."""
    checkpoint = of()
    tokens = windows(loading.tokenizer(checkpoint), corpus("stories"), 64, 3).tokens
    whole, _ = evaluate(loading.load(checkpoint, planned(device="cpu")), tokens, 2)
    model = loading.load(checkpoint, planned(device="cpu"))
    moved = {"model.embed_tokens": "cpu", "model.norm": "cpu", "model.rotary_emb": "cpu", "lm_head": "cpu"}
    moved |= {f"model.layers.{i}": "disk" for i in range(len(model.model.layers))}
    hooked = dispatch_model(model, moved, offload_dir=tmp_path, main_device="cpu")
    assert torch.equal(evaluate(hooked, tokens, 2)[0].nll, whole.nll)


def test_a_gpu_that_is_not_there_is_said(monkeypatch):
    monkeypatch.setattr(torch.cuda, "is_available", lambda: False)
    with pytest.raises(LotteryError, match="device: given 'cuda', but torch sees no GPU; set device: auto or cpu, or load the GPU driver"):
        planned(device="cuda")
    assert planned().device.type == "cpu"


def test_a_cpu_takes_float32_while_it_fits_and_says_why(monkeypatch):
    monkeypatch.setattr(torch.cuda, "is_available", lambda: False)
    assert planned(weights=10**6).dtype == torch.float32
    monkeypatch.setattr(loading.memory, "main_memory", lambda: Room(2**30, 2**30))
    plan = planned(weights=2**28)
    assert (plan.dtype, plan.dtype_reason) == (torch.bfloat16, "a CPU, and float32 would take more than half of the memory")
    assert planned(dtype="float16").dtype_reason == "asked for in the profile"


def test_a_study_that_goes_on_keeps_its_dtype(toy, monkeypatch):
    """Recorded in bfloat16 on a machine where float32 took too much; there is more room today."""
    monkeypatch.setattr(torch.cuda, "is_available", lambda: False)
    monkeypatch.setattr(loading.memory, "main_memory", lambda: Room(2**33, 2**20))
    study = Study(validated(toy))
    study.measure_dense()
    assert study.records[0].provenance.dtype == "bfloat16"
    monkeypatch.setattr(loading.memory, "main_memory", lambda: Room(2**33, 2**33))
    again = Study(validated(toy))
    assert again.plan.dtype == torch.bfloat16
    assert again.plan.dtype_reason == "a CPU, and float32 would take more than half of the memory"
    again.sweep()
    assert {record.provenance.dtype for record in again.records} == {"bfloat16"}
    assert Study(validated({**toy, "profile": "new"})).plan.dtype == torch.float32


def test_runs_that_share_a_model_keep_the_dtype_of_the_first(toy, monkeypatch):
    """One begins while another takes most of the memory, and another records the dense model before its first trial."""
    monkeypatch.setattr(torch.cuda, "is_available", lambda: False)
    shared = {"methods": ["magnitude"], "recover": {"steps": 1, "batch_size": 1}, "calibration_text": "training-stories"}
    shared |= {"calibration_samples": 2, "calibration_seq_len": 32}
    monkeypatch.setattr(loading.memory, "main_memory", lambda: Room(2**33, 2**20))
    late = Study(validated({**toy, **shared}))
    monkeypatch.setattr(loading.memory, "main_memory", lambda: Room(2**33, 2**33))
    Study(validated({**toy, **shared})).measure_dense()
    late.share(lambda: False)
    assert {record.provenance.dtype for record in late.records} == {"float32"}


def test_what_is_free_at_the_moment_does_not_choose_the_dtype(monkeypatch):
    """Else a study would hang on what else ran when it began. Where it does not fit now, that is said."""
    monkeypatch.setattr(torch.cuda, "is_available", lambda: False)
    monkeypatch.setattr(loading.memory, "main_memory", lambda: Room(2**28, 2**33))
    with pytest.raises(NoRoomError, match=r"^the weights need 0\.5 GiB in float32, .* has 0\.2 GiB free; take .* or dtype: float16"):
        planned(weights=2**27)


def test_loaded_weights_are_those_of_the_file_in_the_planned_dtype():
    from safetensors.torch import load_file

    checkpoint = of()
    model = loading.load(checkpoint, planned(device="cpu"))
    stored = load_file(checkpoint.folder / "model.safetensors")
    loaded = dict(model.named_parameters())
    assert not model.training
    assert all(torch.equal(loaded[name], value.float()) for name, value in stored.items())
