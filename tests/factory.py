"""Records made by hand, for tests of what is said and drawn about them."""

from collections.abc import Callable, Iterable
from datetime import UTC, datetime

from lottery.common.paths import outputs
from lottery.config.checkpoint import checkpoint
from lottery.config.profile import Profile
from lottery.data.corpus import corpus
from lottery.evaluation.generation import Speed
from lottery.evaluation.metrics import METRICS
from lottery.evaluation.savings import Form, Savings
from lottery.experiments.imp.arms import DENSE
from lottery.experiments.imp.records import TicketRecord, TicketRequest, TicketResult
from lottery.experiments.records import Memory, Provenance, Record, Request, Result, Sample, Texts, requests, write_record

_LAYERS = [f"model.layers.{block}.{kind}" for block in range(2) for kind in ("self_attn.q_proj", "mlp.up_proj")]
BITS = {"coherent": 1.0, "degraded": 3.0, "broken": 7.5}  # a byte of a variant's texts; 1 for the dense model's, 8 for shuffled words
NOON = datetime(2026, 1, 1, 12, tzinfo=UTC)


def write_records(profile: Profile, model: str, records: Callable[[list[Request]], Iterable[Record]]) -> list[Request]:
    """Write records of the profile's own requests for one model, as many as ``records`` makes of them, and return those requests."""
    named = profile.with_model(model)
    asked = requests(named, checkpoint(named).identity, corpus(profile.text).sha256)
    for request, record in zip(asked, records(asked), strict=False):
        write_record(outputs(profile.profile) / model, record.model_copy(update={"request": request}))
    return asked


def record_of(
    model, method, sparsity, perplexity=10.0, *, bits_per_byte=1.0, verdict="coherent", speed=100.0, dense_speed=100.0, text="Once more.", device="a CPU", parameters=1000, window_nll=None, windows=1,
    allocation="uniform", pattern="unstructured", layers=None, quantization=None, savings=None, bits=None, recovery=None, loss="cross-entropy"
) -> Record:  # fmt: skip
    def sample(how, bits):
        return Sample(prompt="Once upon a time", text=text, how=how, bits=bits * max(1, len(text.encode())))

    def timed(middle):
        return Speed(
            new_tokens=4, tokens_per_second=[middle, middle * 1.01, middle * 0.99], prefill_tokens_per_second=[middle * 10] * 3,
            decode_tokens_per_second=[middle] * 3, device=device,
        )  # fmt: skip

    return Record(
        model=model,
        kind="stand-in",
        source=model,
        quantization=quantization,
        architecture="LlamaForCausalLM",
        request=Request(
            measurement=1, checkpoint=model, text_sha256="0" * 64, method=method, sparsity=sparsity, bits=bits, rounder="rtn" if bits else None,
            recovery=recovery, loss=loss if recovery else None, **({"recover_steps": 100, "recover_batch_size": 4, "recover_learning_rate": [1e-4]} if recovery else {}),
            allocation=allocation, pattern=pattern, calibration=None, calibration_samples=None, calibration_seq_len=512 if recovery else None, seq_len=8, max_windows=None,
            prompts=1, prompt_words=3, new_tokens=4, temperature=0.7, repeats=3, tasks=[], seed=0, dtype="auto", device="auto",
        ),
        result=Result(
            metrics={"perplexity": perplexity, "first_window": perplexity, "word_perplexity": perplexity**1.3, "bits_per_byte": bits_per_byte, "kl": 0.5, "agreement": 0.75},
            metric_versions={name: metric.version for name, metric in METRICS.items()},
            window_nll=window_nll or [bits_per_byte] * windows, window_kl=[3.5] * windows, window_agreed=[5.0] * windows, window_bytes=[20] * windows,
            window_words=[4] * windows, scored_tokens=7 * windows, parameters=parameters, prunable_parameters=parameters // 2,
            sparsity_prunable=sparsity, sparsity_model=sparsity / 2, sparsity_layers=layers or dict.fromkeys(_LAYERS, sparsity), layer_weights=dict.fromkeys(_LAYERS, parameters // 8), pruning_seconds=0.1,
            calibration_within_rows=None, recovery_distinct_tokens=None, recovery_learning_rate=1e-4 if recovery else None,
            bandwidth=1e9, decode_bytes=4 * parameters,
            speed=timed(speed), dense_speed=None if method == "dense" else timed(dense_speed), savings=savings,
            memory=Memory(kind="main memory", weights=4 * parameters, evaluation_peak=2**30, generation_peak=2**30, others=2**20),
            tasks={},
            texts=Texts(samples=[sample(how, BITS[verdict]) for how in ("greedy", "sampled")], dense=[sample("sampled", 1.0)], real=1.0, shuffled=8.0),
        ),
        provenance=Provenance(
            commit="c" * 40, dirty=False, versions={"torch": "2"}, machine="Linux", device=device, dtype="float32", dtype_reason="a CPU", memory_plan="resident", memory_reason="it fits", threads=2, batch_size=1,
            started=NOON, finished=NOON, slurm_job=None,
        ),
    )  # fmt: skip


def savings_of(sparse=None, dense=100.0, *, stored=0.6, obstacle="") -> Savings:
    """What zeros save: tokens per second of each round by packed and by dense weights; ``sparse`` is ``None`` for a dense model."""

    def form(share, speeds):
        speed = Speed(
            new_tokens=4, tokens_per_second=speeds, prefill_tokens_per_second=[10 * one for one in speeds], decode_tokens_per_second=speeds,
            device="a CPU",
        )  # fmt: skip
        timed = {} if obstacle else {"memory": int(share * 2**30), "read": int(share * 2**30), "speed": speed}
        return Form(stored=int(share * 2**29), **timed)

    rounds = [dense] * len(sparse or [1, 1, 1])
    return Savings(
        dense=form(1, rounds), sparse=form(stored, sparse) if sparse else None, dtype="float16", kernel="avx2", obstacle=obstacle
    )


KB = 1000


def stored(record: Record) -> Record:
    """A record whose nonzero weights take a kilobyte each in a file; in truth there is a mask besides."""
    whole = KB * record.result.parameters
    sparse = Form(stored=round(whole * (1 - record.result.sparsity_model))) if record.request.sparsity else None
    saved = Savings(dense=Form(stored=whole), sparse=sparse, dtype="float16", obstacle="made by hand")
    return record.model_copy(update={"result": record.result.model_copy(update={"savings": saved})})


def sweep_of(model, perplexities, *, bits=None, verdicts=None, **more) -> list[Record]:
    """Dense, 50, 70 and 90 per cent with the given perplexities."""
    steps = [("dense", 0.0), ("magnitude", 0.5), ("magnitude", 0.7), ("magnitude", 0.9)]
    return [
        record_of(model, method, sparsity, p, bits_per_byte=(bits or perplexities)[i], verdict=(verdicts or ["coherent"] * 4)[i], **more)
        for i, ((method, sparsity), p) in enumerate(zip(steps, perplexities, strict=False))
    ]


def ticket_of(model, arm, level, seed, loss, *, share=0.6, steps=100, curve=None, problem="", rewind=5) -> TicketRecord:
    """A run of the ticket procedure; its curve falls in a straight line from twice its loss, unless given."""
    request = TicketRequest(
        measurement=1, model=model, checkpoint=model, text_sha256="0" * 64, held_out_sha256="1" * 64, arm=arm, level=level, seed=seed,
        prune_fraction=share, scope="global", rewind=rewind, steps=steps, batch_size=2, seq_len=16, learning_rate=0.01, device="auto",
    )  # fmt: skip
    result = TicketResult(
        loss=loss, curve=curve or [(steps // 2, 1.5 * loss), (steps, loss)], parameters=1000, prunable_parameters=500,
        sparsity_layers={}, moved=0, seconds=6.0, problem=problem, no_next="",
    )  # fmt: skip
    return TicketRecord(request=request, result=result, provenance=record_of(model, "dense", 0.0).provenance)


def procedure_of(model, losses: dict[str, list[float]], noise: list[float]) -> list[TicketRecord]:
    """All runs of a model: of each arm its loss at each level, a dense one's a single one (the rewound one's is the other's, unless given);
    ``noise`` is what each seed adds to all, and a little more to each arm in another way."""
    found, losses = [], {**losses, "dense rewound": losses.get("dense rewound", losses["dense"])}
    for seed, extra in enumerate(noise):
        for index, (arm, values) in enumerate(losses.items()):
            for level, loss in enumerate(values, 0 if arm in DENSE else 1):
                if (arm, level) != ("one-shot", 1):
                    found.append(ticket_of(model, arm, level, seed, loss + extra + 0.001 * ((seed + index) % 3)))
    return found


GRID = (0.0, 0.3, 0.32, 0.5, 0.52, 0.7, 0.72)


def curve(model, *bits, noise=None, sparsities=GRID, windows=20, method="magnitude", **more):
    """The dense model and its variants at the sparsities of a grid, with the given bits per byte; ``noise`` moves the windows."""
    wobble = noise or [0.0] * windows
    return [
        record_of(
            model, method if s else "dense", s, 10 * b, bits_per_byte=b, windows=windows, window_nll=[b * (1 + n) for n in wobble], **more
        )
        for s, b in zip(sparsities, bits, strict=True)
    ]


GOOD = curve("good", 1, 1.01, 1.02, 1.03, 1.06, 1.9, 2.1)
BAD = curve("bad", 1, 1.04, 1.07, 1.9, 2.1, 4, 5)
COARSE = curve("coarse", 1, 1.5, 5, sparsities=(0.0, 0.5, 0.7))


def timed(model, *ratios, dense=100.0, **more):
    """A model's variants, each so many times as fast as the dense model beside it."""
    pruned = [record_of(model, "magnitude", (i + 1) / 20, speed=dense * r, dense_speed=dense, **more) for i, r in enumerate(ratios)]
    return [record_of(model, "dense", 0.0), *pruned]


def ways(model, **of_methods):
    """The dense model at one bit per byte and perplexity 10, and for each way of pruning its bits at 50% and 70%."""
    found = [record_of(model, "dense", 0.0, 10.0)]
    for method, bits in of_methods.items():
        found += [record_of(model, method, level, 10 * b, bits_per_byte=b) for level, b in zip((0.5, 0.7), bits, strict=True)]
    return found
