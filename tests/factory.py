"""Records made by hand, for tests of what is said and drawn about them."""

from datetime import UTC, datetime

from lottery.records import Coherence, Provenance, Record, Request, Result, Sample, Speed

NOON = datetime(2026, 1, 1, 12, tzinfo=UTC)


def record_of(
    model, method, sparsity, perplexity=10.0, *, bits_per_byte=1.0, coherent=True, speed=100.0, text="Once more.", device="a CPU", parameters=1000, window_nll=None,
    allocation="uniform", pattern="unstructured"
) -> Record:  # fmt: skip
    return Record(
        model=model,
        kind="stand-in",
        source=model,
        architecture="LlamaForCausalLM",
        request=Request(
            measurement=1, checkpoint=model, text_sha256="0" * 64, method=method, sparsity=sparsity,
            allocation=allocation, pattern=pattern, calibration=None, calibration_samples=None, calibration_tokens=None, window=8, max_windows=None, batch_size=1,
            prompts=1, prompt_words=3, new_tokens=4, temperature=0.7, repeats=3, seed=0, dtype="auto", device="auto",
        ),
        result=Result(
            perplexity=perplexity, first_window_perplexity=perplexity, bits_per_byte=bits_per_byte, window_nll=window_nll or [1.0], scored_tokens=7,
            scored_bytes=20, parameters=parameters, prunable_parameters=parameters // 2, sparsity_prunable=sparsity, sparsity_model=sparsity / 2,
            sparsity_layers={"block.0": sparsity}, pruning_seconds=0.1,
            weight_bytes=4 * parameters,
            speed=Speed(
                new_tokens=4, tokens_per_second=[speed, speed * 1.01, speed * 0.99], decode_tokens_per_second=[speed] * 3, peak_bytes=2**30,
                peak_kind="resident memory",
            ),
            coherence=Coherence(coherent=coherent, reason="because"),
            samples=[Sample(prompt="Once upon a time", text=text)],
        ),
        provenance=Provenance(
            commit="c" * 40, dirty=False, versions={"torch": "2"}, machine="Linux", device=device, dtype="float32", dtype_reason="a CPU", threads=2,
            started=NOON, finished=NOON, slurm_job=None,
        ),
    )  # fmt: skip


def sweep_of(model, perplexities, *, bits=None, coherent=None, **more) -> list[Record]:
    """Dense, 50, 70 and 90 per cent with the given perplexities."""
    steps = [("dense", 0.0), ("magnitude", 0.5), ("magnitude", 0.7), ("magnitude", 0.9)]
    return [
        record_of(model, method, sparsity, p, bits_per_byte=(bits or perplexities)[i], coherent=(coherent or [True] * 4)[i], **more)
        for i, ((method, sparsity), p) in enumerate(zip(steps, perplexities, strict=False))
    ]
