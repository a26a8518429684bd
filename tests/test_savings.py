"""What the zeros of a model save, measured on stand-ins."""

import pytest
import torch

from lottery.common.paths import project_root
from lottery.config.profile import Profile
from lottery.evaluation import savings as module
from lottery.evaluation.savings import packed, savings
from lottery.experiments.export import export
from lottery.experiments.study import Study
from lottery.models.blocks import prunable
from lottery.sparse import kernel
from lottery.sparse.bitmask import stored_bytes
from lottery.sparse.linear import SparseLinear
from tests.conftest import need_compiler

need_compiler()
CPU = torch.device("cpu")


@pytest.fixture
def study(toy) -> Study:
    return Study(Profile(**toy))


def pruned(study, sparsity=0.9):
    request = next(one for one in study.requests if one.sparsity == sparsity)
    return study.trials.prune(request, "test").model


def measured(study, model, pruned=True, device=CPU):
    return savings(model, study.trials._encode(study.starts[0]), 4, 3, study.stored_dtype, pruned, device)


def test_both_forms_are_measured(study):
    model = pruned(study)
    found = measured(study, model)
    assert (found.obstacle, found.kernel) == ("", kernel.kernel().instructions)
    assert found.sparse.stored < 0.6 * found.dense.stored
    assert found.sparse.read < found.dense.read
    assert found.sparse.memory >= sum(p.nbytes for p in packed(model).parameters()), "its weights are counted"
    for form in (found.dense, found.sparse):
        assert form.speed.new_tokens == 4
        assert len(form.speed.decode_tokens_per_second) == 3


def test_a_dense_model_has_no_packed_form(study):
    found = measured(study, study.trials.models.dense(), pruned=False)
    assert found.sparse is None
    assert found.dense.speed.new_tokens == 4


def test_stored_bytes_are_those_of_an_export(study):
    """But for the headers of its files."""
    found = measured(study, pruned(study, 0.5))
    folder = export(study.profile, "magnitude 50%")
    assert folder.is_relative_to(project_root())
    files = sum(path.stat().st_size for path in folder.glob("*.safetensors"))
    assert found.sparse.stored <= files < found.sparse.stored + 40_000


def test_what_rounds_to_zero_in_the_stored_dtype_is_not_stored():
    weight = torch.zeros(8, 64)
    weight[0, 0], weight[1, 1] = 1.0, 1e-12
    assert stored_bytes(weight) - stored_bytes(weight.half()) == 2 * 4 - 2


def test_the_packed_copy_shares_what_it_does_not_pack(study):
    model = pruned(study)
    twin = packed(model)
    layers = prunable(model)
    assert all(isinstance(twin.get_submodule(name), SparseLinear) for name in layers)
    assert all(isinstance(model.get_submodule(name), torch.nn.Linear) for name in layers), "the model stays as it is"
    assert twin.get_input_embeddings().weight is model.get_input_embeddings().weight
    tokens = torch.arange(20)[None]
    with torch.inference_mode():
        assert torch.allclose(model(tokens).logits, twin(tokens).logits, atol=1e-4)


def test_layers_that_would_grow_stay_dense(study):
    assert not [one for one in packed(study.trials.models.dense()).modules() if isinstance(one, SparseLinear)]


@pytest.mark.parametrize(
    ("broken", "said"),
    [
        ("device", "the kernel for GPUs has not been timed on one yet"),
        ("kernel", "LOTTERY_KERNEL is 'torch'"),
        ("family", "given 'gpt2'; the decoder knows llama"),
        ("room", "of main memory is free"),
        ("shortage", "main memory does not do for both forms at once"),
    ],
)
def test_what_cannot_be_timed_is_stored_all_the_same(study, monkeypatch, broken, said):
    model, device = pruned(study), CPU
    if broken == "device":
        device = torch.device("cuda")
    elif broken == "kernel":
        monkeypatch.setenv("LOTTERY_KERNEL", "torch")
        kernel.kernel.cache_clear()
    elif broken == "family":
        monkeypatch.setattr(model.config, "model_type", "gpt2", raising=False)
    elif broken == "room":
        monkeypatch.setattr(module.memory, "main_memory", lambda: module.memory.Room(1 << 10, 1 << 30))
    else:
        monkeypatch.setattr(module, "packed", _out_of_memory)
    found = measured(study, model, device=device)
    kernel.kernel.cache_clear()
    assert said in found.obstacle
    assert found.sparse.stored < found.dense.stored
    assert found.sparse.speed is found.dense.speed is None


def _out_of_memory(model):
    raise MemoryError


def test_other_errors_are_not_taken_for_a_lack_of_memory(study, monkeypatch):
    def broken(model):
        raise RuntimeError("a broken kernel")

    monkeypatch.setattr(module, "packed", broken)
    with pytest.raises(RuntimeError, match="a broken kernel"):
        measured(study, pruned(study))
