"""The decoder for a GPU, as far as a CPU can tell: its numbers, and that a step asks the device for none. Captured where there is a GPU."""

import pytest
import torch
from torch.utils._python_dispatch import TorchDispatchMode

from lottery.evaluation import graph_decoder
from lottery.evaluation.decoder import decode
from lottery.evaluation.generation import generate, greedy
from lottery.evaluation.graph_decoder import GraphDecoder
from lottery.models.blocks import prunable
from lottery.sparse.kernel import KernelError
from tests.test_decoder import CONFIGS, random_model, sparsified, stepped

on_a_gpu = pytest.mark.skipif(not torch.cuda.is_available(), reason="torch sees no GPU")
TOKENS = torch.randint(300, (1, 40), generator=torch.Generator().manual_seed(1))


def model_of(name, sparse, attention="sdpa"):
    model = random_model(CONFIGS[name])
    model.set_attn_implementation(attention)
    return sparsified(model) if sparse else model


@pytest.mark.parametrize("sparse", [False, True])
@pytest.mark.parametrize("name", CONFIGS)
def test_its_logits_are_those_of_transformers(name, sparse):
    model = model_of(name, sparse)
    with torch.inference_mode():
        want = model(TOKENS).logits[0]
    decoder = GraphDecoder(model, 40)
    for start in (1, 11, 40):
        got = stepped(decoder, TOKENS, start)
        assert torch.allclose(got, want[start - 1 :], atol=2e-5 * float(want.abs().max())), start


def test_it_writes_what_transformers_writes():
    model = model_of("one head of keys", True)
    assert torch.equal(decode(GraphDecoder(model, 60), TOKENS[:, :9], 50).tokens, generate(model, TOKENS[:, :9], 50, greedy).tokens)


class NothingAsked(TorchDispatchMode):
    """Fails where a number is read from a device, for which a graph cannot wait."""

    def __torch_dispatch__(self, function, types, args=(), kwargs=None):
        assert function not in (torch.ops.aten._local_scalar_dense.default, torch.ops.aten.nonzero.default), function
        return function(*args, **kwargs or {})


@pytest.mark.parametrize("name", CONFIGS)
def test_a_step_asks_the_device_for_no_number(name):
    """And finds its keys where it left them: a graph reads and writes the same places each time."""
    decoder = GraphDecoder(model_of(name, False), 20)
    with torch.no_grad():  # a dispatch mode sees nothing in inference mode
        GraphDecoder.prefill.__wrapped__(decoder, TOKENS[:, :8])
        before = [layer.keys.data_ptr() for layer in decoder._cache.layers]
        with NothingAsked():
            for _ in range(3):
                decoder._forward()
        with pytest.raises(AssertionError), NothingAsked():
            TOKENS[0, 0].item()
    assert [layer.keys.data_ptr() for layer in decoder._cache.layers] == before


def test_more_tokens_than_there_is_room_for_are_refused():
    decoder = GraphDecoder(model_of("one head of keys", False), 8)
    with pytest.raises(ValueError, match="given 9; allowed: as many as the cache has room for, 8"):
        decoder.prefill(TOKENS[:, :9])
    decoder.prefill(TOKENS[:, :8])
    with pytest.raises(ValueError, match="the cache has room for 8 tokens, and they are there; make a GraphDecoder with more room"):
        decoder.step(1)


def test_it_counts_what_a_token_reads():
    model = model_of("one head of keys", False)
    layers = sum(layer.weight.nbytes for layer in prunable(model).values())
    assert GraphDecoder(model, 8).read_bytes() == layers + model.lm_head.weight.nbytes
    assert GraphDecoder(sparsified(model), 8).read_bytes() < layers + model.lm_head.weight.nbytes


@on_a_gpu
@pytest.mark.parametrize("sparse", [False, True])
@pytest.mark.parametrize("name", CONFIGS)
def test_on_a_gpu_a_captured_step_gives_the_logits_of_transformers(name, sparse):
    model = model_of(name, sparse)
    with torch.inference_mode():
        want = model(TOKENS).logits[0]
    decoder = GraphDecoder(model.cuda(), 40)
    for start in (1, 11, 40):
        assert torch.allclose(stepped(decoder, TOKENS, start).cpu(), want[start - 1 :], atol=1e-3 * float(want.abs().max())), start


@on_a_gpu
def test_on_a_gpu_without_a_kernel_a_sparse_model_is_refused(monkeypatch):
    monkeypatch.setattr(graph_decoder.gpu, "why_not", lambda architecture: "there is no NVRTC")
    with pytest.raises(KernelError, match="no sparse kernel for this GPU: there is no NVRTC"):
        GraphDecoder(model_of("one head of keys", True).cuda(), 8)
