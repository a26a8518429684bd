"""The trials of one model, measured one after the other: what they share is kept, so that nothing is computed twice."""

import time
from dataclasses import replace
from datetime import datetime
from functools import cached_property

import torch
from accelerate.utils.memory import should_reduce_batch_size

from lottery import coherence, generation, knowledge, loading, memory, perplexity
from lottery.errors import LotteryError, NotFiniteError
from lottery.evaluation import evaluate
from lottery.frame import quantiles
from lottery.generation import Continuation, continuations
from lottery.likelihood import Likelihoods
from lottery.methods import DENSE
from lottery.provenance import provenance
from lottery.pruning import count_zeros, prune
from lottery.records import Memory, Record, Request, Result, Sample, Speed, Steadiness, Texts
from lottery.recovery import recover
from lottery.streaming import evaluate_streamed
from lottery.weights import Weights

_PROGRESS_SECONDS = 15
GREEDY = 3  # beginnings that are also continued greedily, for show


class Trials:
    """Runs trials for a study: it decides how, keeps the dense model where the next trial starts from it, and its hidden states."""

    def __init__(self, study):
        self.study, self.profile = study, study.profile
        self.batch_size = study.profile.batch_size
        self._model: torch.nn.Module | None = None  # dense
        self._dense_states: torch.Tensor | None = None
        self._walked: dict[str, Likelihoods] = {}
        self._walk_peak = 0

    def run(self, request: Request, todo: list[Request], label: str) -> Record:
        """The record of a trial; of those in ``todo`` some may be scored along with it. Where memory or dtype do not do, it is tried
        again with less of the one or more of the other, and the record says so."""
        while True:
            try:
                return self._run(request, todo, label)
            except NotFiniteError as error:
                self._raise_dtype(error)
            except (RuntimeError, MemoryError) as error:
                if not (isinstance(error, MemoryError) or should_reduce_batch_size(error)):
                    raise
                self._take_less_memory(error)
            self.forget()

    def steadiness(self) -> Steadiness:
        """Times the dense model again. The machine was steady if both medians lie within the quartiles of the other, or within 3%."""
        first = next(r for r in self.study.records if r.request.method == "dense").result.speed
        last = self._timed(self._dense())
        low, middle, high = quantiles(last.tokens_per_second)
        before = quantiles(first.tokens_per_second)
        apart = abs(middle / before[1] - 1)
        steady = apart <= 0.03 or (low <= before[1] <= high and before[0] <= middle <= before[2])
        same = first.device == last.device
        return Steadiness(device=last.device, first=first.tokens_per_second, last=last.tokens_per_second, steady=steady and same)

    def _run(self, request: Request, todo: list[Request], label: str) -> Record:
        started, plan, study = datetime.now().astimezone(), self.study.plan, self.study
        study.say(f"{label}: {study.checkpoint.label} on {plan.device} as {plan.dtype}{', streamed' if plan.streamed else ''}")
        others, bandwidth = memory.others(plan.device), self._bandwidth  # the first time before anything is loaded
        if plan.streamed:
            scored, peak = self._score_streamed(request, todo, label)
        else:
            scored = self._score_dense(label) if self._dense_states is None else None
            peak, _ = memory.peak(plan.device)
        judged_by = self._judged_by if request.prompts else None
        model, self._model = self._dense(), None  # from here on it is no longer dense
        began = time.monotonic()
        prune(model, request.variant, study.calibration, seed=request.seed, progress=self._progress(f"{label}: pruned block"))
        seconds, recovered, began = time.monotonic() - began, 0.0, time.monotonic()
        if request.recover_steps and request.method != "dense":
            recover(model, study.recovery, request.recover_batch, request.recover_rate, self._progress(f"{label}: recovery, step"))
            recovered = time.monotonic() - began
        sparsity = count_zeros(model)
        if not plan.streamed and (request.method != "dense" or scored is None):
            memory.reset_peak(plan.device)
            progress = self._progress(f"{label}: window")
            scored, _ = evaluate(model, study.windows.tokens, self.batch_size, self._dense_states, progress=progress)
            peak, _ = memory.peak(plan.device)
        if request.method != "dense" and plan.dtype == torch.float16 and not torch.isfinite(scored.nll).all():
            scored, how = self._scored_wider(model, scored, label)
            plan = replace(plan, dtype_reason=f"{plan.dtype_reason}; {how}")
        memory.reset_peak(plan.speaker)
        written = self._written(model, request) if request.prompts else []
        speed = self._timed(model) if request.repeats else None
        generation_peak = memory.peak(plan.speaker)[0] if written or speed else None
        decode_bytes, weights = generation.decode_bytes(model), sum(p.numel() * p.element_size() for p in model.parameters())
        tasks = self._know(model, label) if request.tasks else {}
        self._model = model if request.method == "dense" else None
        del model
        windows = study.windows
        score = perplexity.score(*scored, windows.scored_bytes, windows.scored_words, windows.tokens.shape[1] - 1)
        return Record(
            model=self.profile.model_name,
            kind=study.checkpoint.kind,
            source=study.checkpoint.public_source,
            quantization=study.checkpoint.quantization,
            architecture=type(study.skeleton).__name__,
            request=request,
            result=Result(
                **score._asdict(),
                window_nll=perplexity.finite(scored.nll).tolist(),
                window_kl=perplexity.finite(scored.kl).tolist(),
                window_agreed=scored.agreed.tolist(),
                window_bytes=windows.scored_bytes.tolist(),
                window_words=windows.scored_words.tolist(),
                scored_tokens=windows.tokens[:, 1:].size,
                parameters=sparsity.parameters,
                prunable_parameters=sparsity.prunable_parameters,
                sparsity_prunable=sparsity.prunable,
                sparsity_model=sparsity.model,
                sparsity_layers=sparsity.layers,
                layer_weights=sparsity.layer_weights,
                pruning_seconds=seconds,
                recovery_seconds=recovered,
                bandwidth=bandwidth,
                decode_bytes=decode_bytes,
                speed=speed,
                memory=Memory(
                    kind=memory.peak(plan.device)[1], weights=weights, evaluation_peak=peak, generation_peak=generation_peak, others=others
                ),
                tasks=tasks,
                texts=judged_by and judged_by.model_copy(update={"samples": self._samples(written)}),
            ),
            provenance=provenance(plan, started),
        )

    def _score_dense(self, label: str) -> Likelihoods:
        """Scores the dense model, and keeps its hidden states for the comparison with the variants."""
        memory.reset_peak(self.study.plan.device)
        progress = self._progress(f"{label}: window, dense,")
        scored, states = evaluate(self._dense(), self.study.windows.tokens, self.batch_size, keep=True, progress=progress)
        self._check_finite(scored)
        self._dense_states = states
        return scored

    def _scored_wider(self, model, scored: Likelihoods, label: str) -> tuple[Likelihoods, str]:
        """The likelihoods of a variant that is not finite in float16, from the same weights in float32: a loss that only the dtype made
        infinite is no broken ticket. **Returns** them, or what there was where memory does not do, and what was done."""
        if self.study.plan.streamed:
            return scored, "not finite in it; streamed, it was not scored again in float32"
        self.study.say(f"{label}: not finite in float16, scored again in float32")
        tokens, progress = self.study.windows.tokens, self._progress(f"{label}: window, in float32,")
        try:
            _cast(model, torch.float32)
            return evaluate(model, tokens, 1, self._dense_states, progress=progress)[0], (
                "not finite in it, so the scores are of the same weights in float32"
            )
        except (RuntimeError, MemoryError) as error:
            if not (isinstance(error, MemoryError) or should_reduce_batch_size(error)):
                raise
            return scored, "not finite in it, and for float32 memory does not do"
        finally:
            _cast(model, torch.float16)  # exactly what they were: float32 holds every number of float16

    def _score_streamed(self, request: Request, todo: list[Request], label: str) -> tuple[Likelihoods, int]:
        """Scores the trial in a walk over the blocks, along with as many of the others as main memory has room for.

        **Returns** its likelihoods and the peak memory of the walk.
        """
        study, plan = self.study, self.study.plan
        if request.key not in self._walked:
            self._model, tokens = None, study.windows.tokens
            states = tokens.size * study.skeleton.config.hidden_size * plan.dtype.itemsize
            room = max(1, int(memory.main_memory().free / 2 / states) - 1)
            several = [r for r in todo[todo.index(request) :] if r.method != "dense"][:room]
            model = loading.skeleton(study.checkpoint, plan.dtype)
            memory.reset_peak(plan.device)
            walked = evaluate_streamed(
                model, Weights(study.checkpoint, model), [DENSE, *(r.variant for r in several)], tokens, plan.device,
                batch_size=self.batch_size, samples=study.calibration, seed=self.profile.seed, progress=self._progress(f"{label}: block"),
            )  # fmt: skip
            self._walk_peak, _ = memory.peak(plan.device)
            self._check_finite(walked[0])
            self._walked = dict(zip([study.requests[0].key, *(r.key for r in several)], walked, strict=True))
        return self._walked[request.key], self._walk_peak

    def _dense(self) -> torch.nn.Module:
        if self._model is None:
            self._model = loading.load(self.study.checkpoint, self.study.plan)
        return self._model

    @cached_property
    def _bandwidth(self) -> float:
        return memory.bandwidth(self.study.plan.speaker)

    @cached_property
    def _judged_by(self) -> Texts:
        """What texts are judged against: the dense model's bits per byte on its own, on real and on shuffled text. No texts yet."""
        tokenizer = self.study.tokenizer
        stretches = coherence.yardsticks(self.study.text.text, self.profile.prompt_words)
        real, shuffled = (generation.bits_per_byte(self._dense(), tokenizer, pairs) for pairs in stretches)
        own = self._samples(self._written(self._dense(), self.study.requests[0]))
        return Texts(samples=[], dense=[sample for sample in own if sample.how == "sampled"], real=real, shuffled=shuffled)

    def _written(self, model, request: Request) -> list[tuple[str, str, Continuation]]:
        """What a model writes: the beginning, how, and the continuation; all beginnings with drawn tokens, the first few greedily too."""
        tokenizer, starts = self.study.tokenizer, self.study.starts
        greedy = continuations(model, tokenizer, starts[:GREEDY], request.new_tokens)
        drawn = continuations(model, tokenizer, starts, request.new_tokens, request.temperature, request.seed)
        return [(start, how, c) for how, found in (("greedy", greedy), ("sampled", drawn)) for start, c in zip(starts, found, strict=False)]

    def _samples(self, written: list[tuple[str, str, Continuation]]) -> list[Sample]:
        """Texts with the dense model's surprise at each."""
        dense = self._dense()
        return [Sample(prompt=start, how=how, text=c.text, bits=generation.bits(dense, c.beginning, c.tokens)) for start, how, c in written]

    def _know(self, model, label: str) -> dict[str, dict[str, float]]:
        self.study.say(f"{label}: {', '.join(self.profile.tasks)}")
        return knowledge.scores(model, loading.tokenizer(self.study.checkpoint), self.profile.tasks, self.batch_size)

    def _timed(self, model) -> Speed:
        return generation.speed(model, self._encode(self.study.starts[0]), self.profile.new_tokens, self.profile.repeats)

    def _encode(self, text: str) -> torch.Tensor:
        return self.study.tokenizer(text, return_tensors="pt").input_ids.to(self.study.plan.speaker)

    def _check_finite(self, dense: Likelihoods) -> None:
        """A broken dtype must never be taken for a broken ticket."""
        if not torch.isfinite(dense.nll).all():
            raise NotFiniteError(f"the dense model's losses are not finite in {self.study.plan.dtype}")

    def _raise_dtype(self, error: NotFiniteError) -> None:
        study = self.study
        if study.plan.dtype == torch.float32:
            raise NotFiniteError(f"{error}: the checkpoint is damaged") from error
        if self.profile.dtype != "auto":
            raise NotFiniteError(f"{error}: it overflows; set dtype: float32, or auto") from error
        reason = f"{study.plan.dtype} overflows: {error}"
        study.say(f"{reason}; going on in float32")
        study.plan = loading.plan(self.profile, study.skeleton, raised=reason)

    def _take_less_memory(self, error: Exception) -> None:
        study, self._model = self.study, None
        if self.batch_size > 1:
            self.batch_size //= 2
            study.say(f"out of memory; going on with {self.batch_size} windows at a time")
        elif not study.plan.streamed and self.profile.can_stream:
            reason = "out of memory with one window at a time and the whole model resident"
            streamed = loading.plan(self.profile, study.skeleton, streamed=reason)
            study.plan = replace(streamed, dtype=study.plan.dtype, dtype_reason=study.plan.dtype_reason)
            study.say(f"{reason}; streaming it block by block")
        else:
            raise LotteryError(
                f"out of memory with one window of {self.profile.window} tokens at a time; take a smaller window or another device"
            ) from error

    def forget(self) -> None:
        """Lets go of the model and of what is kept of the dense one."""
        self._model = self._dense_states = None
        self._walked = {}
        self.__dict__.pop("_judged_by", None)
        if torch.cuda.is_available():
            torch.cuda.empty_cache()

    def _progress(self, label: str):
        """A line now and then, so that a log file of a long trial stays short and a short trial prints none."""
        began = last = time.monotonic()

        def tick(done: int, total: int) -> None:
            nonlocal last
            now = time.monotonic()
            if now - last >= _PROGRESS_SECONDS and done < total:
                last = now
                self.study.say(f"{label} {done} of {total}, {(now - began) / done * (total - done):.0f} s left")

        return tick


@torch.no_grad()
def _cast(model: torch.nn.Module, dtype: torch.dtype) -> None:
    """Gives a model's parameters another dtype; its buffers, the positions' frequencies among them, stay in float32."""
    for parameter in model.parameters():
        parameter.data = parameter.data.to(dtype)
