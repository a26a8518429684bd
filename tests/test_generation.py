import itertools
import math

import psutil
import pytest
import torch
from torch.utils._python_dispatch import TorchDispatchMode

from lottery.data.corpus import corpus, prompts
from lottery.evaluation.generation import bits, continuations, decode_bytes, generate, greedy, sampler, speed
from lottery.models import memory
from tests.test_likelihood import loaded


def prompt_for(tokens):
    return tokens(prompts(corpus("stories"), 1, 20)[0], return_tensors="pt").input_ids


def test_greedy_equals_transformers_own_generate_token_by_token():
    for name in ("mistral-7b", "phi-2", "qwen2.5-0.5b"):
        model, tokens = loaded(name)
        prompt = prompt_for(tokens)
        expected = model.generate(prompt, max_new_tokens=30, min_new_tokens=30, do_sample=False, pad_token_id=0)[0, prompt.shape[1] :]
        found = generate(model, prompt, 30, greedy)
        assert found.tokens[0].tolist() == expected.tolist(), name
        assert min(found.prefill, found.decode) > 0


def test_exactly_so_many_tokens_even_after_an_end_of_text():
    model, tokens = loaded("phi-2")
    found = generate(model, prompt_for(tokens), 12, lambda logits: torch.tensor([0]))
    assert found.tokens.tolist() == [[0] * 12]


@pytest.mark.parametrize("name", ["mistral-7b", "phi-2", "qwen2.5-0.5b"])
@pytest.mark.parametrize("temperature", [0.0, 0.7])
def test_texts_written_in_one_batch_are_those_written_alone(name, temperature):
    """Beginnings of different lengths are padded on the left; neither that nor the company shows in a text."""
    model, tokens = loaded(name)
    starts = [start[:cut] for start, cut in zip(prompts(corpus("stories"), 4, 20), (30, 60, 45, 200), strict=True)]
    together = continuations(model, tokens, starts, 20, temperature, seed=3)
    alone = [continuations(model, tokens, [start], 20, temperature, seed=3 + i)[0] for i, start in enumerate(starts)]
    assert [c.tokens for c in together] == [c.tokens for c in alone]
    assert [c.beginning for c in together] == [tokens(start).input_ids for start in starts]
    assert all(len(c.tokens) == 20 and c.text for c in together)


def test_the_surprise_of_a_text_is_that_of_its_tokens():
    model, tokens = loaded("phi-2")
    found = continuations(model, tokens, prompts(corpus("stories"), 1, 20), 15, 0.7)[0]
    ids = torch.tensor([found.beginning + found.tokens])
    with torch.no_grad():
        logs = model(input_ids=ids).logits[0].double().log_softmax(-1)
    expected = -sum(float(logs[i - 1, ids[0, i]]) for i in range(len(found.beginning), ids.shape[1])) / math.log(2)
    assert bits(model, found.beginning, found.tokens) == pytest.approx(expected, rel=1e-5)


def test_one_seed_draws_alike_and_never_a_banned_token():
    logits = torch.randn(1, 50)
    draw = lambda seed: [int(choose(logits)) for choose in [sampler(1.5, [seed], banned=[3, 4])] for _ in range(200)]  # noqa: E731
    assert draw(1) == draw(1) != draw(2)
    assert not {3, 4} & set(draw(1))


def test_broken_logits_still_give_a_token():
    for value in (torch.nan, torch.inf, -torch.inf):
        assert 0 <= int(sampler(0.7, [0], banned=[0])(torch.full((1, 8), value))) < 8


def test_speed_times_every_repeat_as_a_whole_and_in_its_two_halves():
    model, tokens = loaded("qwen2.5-0.5b")
    prompt = prompt_for(tokens)
    measured = speed(model, prompt, 6, 4)
    halves = zip(measured.prefill_tokens_per_second, measured.decode_tokens_per_second, strict=True)
    seconds = [prompt.shape[1] / prefill + 5 / decode for prefill, decode in halves]
    assert measured.tokens_per_second == pytest.approx([6 / second for second in seconds])
    assert len(measured.tokens_per_second) == 4
    assert "cores" in measured.device or torch.cuda.is_available()


def test_an_embedding_that_is_not_the_head_is_not_read_while_decoding():
    tied, _ = loaded("qwen2.5-0.5b")
    assert decode_bytes(tied) == sum(p.numel() * p.element_size() for p in tied.parameters())
    own, _ = loaded("mistral-7b")
    embedding = own.get_input_embeddings().weight
    assert decode_bytes(own) == sum(p.numel() * p.element_size() for p in own.parameters()) - embedding.numel() * embedding.element_size()


def test_memory_peaks_and_bandwidth_are_those_of_this_machine():
    device = torch.device("cpu")
    torch.ones(64 << 20, dtype=torch.uint8)  # before: does not count
    with memory.watched(device, 1000) as held:
        kept = torch.ones(32 << 20, dtype=torch.uint8)
        torch.ones(16 << 20, dtype=torch.uint8)
    assert 46 << 20 <= held.bytes - 1000 < 60 << 20
    with memory.watched(device, 1000) as held:
        kept.add_(1)
    assert held.bytes - 1000 < 2 << 20, "what was there already is told by its weights"
    assert 1e8 < memory.bandwidth(device) < 1e13
    assert 0 <= memory.others(device) < psutil.virtual_memory().total


def test_bandwidth_is_that_of_a_read(monkeypatch):
    """Decoding writes no weights. By a clock that goes on by a second at each look, it is the number of bytes that one run reads."""

    class Watch(TorchDispatchMode):
        def __torch_dispatch__(self, function, types, arguments=(), named=None):
            done.append((function.overloadpacket, arguments))
            return function(*arguments, **(named or {}))

    done, clock = [], itertools.count()
    monkeypatch.setattr(memory.time, "perf_counter", lambda: float(next(clock)))
    with Watch():
        found = memory.bandwidth(torch.device("cpu"))
    (made, _), *runs = done
    assert made == torch.ops.aten.ones
    assert {what for what, _ in runs} == {torch.ops.aten.sum}
    assert {arguments[0].nbytes for _, arguments in runs} == {found} == {256 << 20}


def groups(folder, own: str, files: dict[str, str]):
    folder.mkdir()
    (folder / "own").write_text(own)
    for name, content in files.items():
        (folder / "mounted" / name).parent.mkdir(parents=True, exist_ok=True)
        (folder / "mounted" / name).write_text(content)
    return list(memory._limits(folder / "mounted", folder / "own"))


def test_the_limits_of_control_groups_are_found_in_both_versions(tmp_path):
    """A job of Slurm's: the step's own group has no limit, the job's has, and cached files do not count as used."""
    job = "slurm/job_1"
    second = {
        f"{job}/memory.max": "64000\n", f"{job}/memory.current": "5000\n", f"{job}/memory.stat": "anon 1\ninactive_file 2000\n",
        f"{job}/step_0/memory.max": "max\n", f"{job}/step_0/memory.current": "4000\n",
    }  # fmt: skip
    assert groups(tmp_path / "a", f"0::/{job}/step_0\n", second) == [(64000, 3000)]
    first = {
        f"memory/{job}/memory.limit_in_bytes": "32000\n", f"memory/{job}/memory.usage_in_bytes": "9000\n",
        f"memory/{job}/memory.stat": "total_inactive_file 1000\n",
    }  # fmt: skip
    assert groups(tmp_path / "b", f"5:cpu,cpuacct:/\n4:memory:/{job}/step_0\n0::/\n", first) == [(32000, 8000)]
    assert groups(tmp_path / "c", "0::/\n", {"memory.max": "8000\n", "memory.current": "1000\n"}) == [(8000, 1000)], "in a container"
    assert groups(tmp_path / "d", "0::/gone\n", {}) == []


def test_a_slurm_without_control_groups_is_believed_too(monkeypatch):
    """It kills what takes more, and tells a job how much that is: per node, or for each of its cores."""
    own = psutil.Process().memory_info().rss
    for told in (
        {"MEM_PER_NODE": "700"},
        {"MEM_PER_CPU": "350", "CPUS_ON_NODE": "2"},
        {"MEM_PER_NODE": "0", "MEM_PER_CPU": "350", "CPUS_ON_NODE": "2"},
    ):
        ((limit, used),) = memory._of_job({f"SLURM_{name}": value for name, value in told.items()})
        assert limit == 700 << 20
        assert used == pytest.approx(own, rel=0.2)
    assert list(memory._of_job({"SLURM_MEM_PER_NODE": "all", "SLURM_MEM_PER_CPU": "1"})) == []
    monkeypatch.setenv("SLURM_MEM_PER_NODE", "700")
    assert memory.main_memory().total == 700 << 20


def test_main_memory_is_within_the_machine_and_its_limits(monkeypatch):
    machine = psutil.virtual_memory()
    found = memory.main_memory()
    assert 0 < found.free <= found.total <= machine.total
    monkeypatch.setattr(memory, "_limits", lambda *_: iter([(10**9, 4 * 10**8), (2 * 10**9, 19 * 10**8)]))
    assert memory.main_memory() == (10**8, 10**9)
    monkeypatch.setattr(memory, "_limits", lambda *_: iter([(10**9, 2 * 10**9)]))
    assert memory.main_memory().free == 0
