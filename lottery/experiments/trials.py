"""The trials of one model, measured one after the other. They keep what they share, so that nothing is computed twice."""

from dataclasses import replace
from datetime import datetime
from functools import cached_property
from typing import NamedTuple

import torch

from lottery.common.errors import LotteryError, NotFiniteError, TrialMemoryError
from lottery.common.progress import progress
from lottery.evaluation import bootstrap, generation, lm_eval_tasks
from lottery.evaluation.evaluate import evaluate
from lottery.evaluation.generation import Continuation, Speed, continuations
from lottery.evaluation.likelihood import Likelihoods
from lottery.evaluation.savings import Savings, rounded_savings, savings
from lottery.experiments.provenance import provenance
from lottery.experiments.pruned import Pruned, PrunedModels
from lottery.experiments.records import Memory, Record, Request, Result, Sample, Texts
from lottery.models import loading, memory
from lottery.models.blocks import count_zeros
from lottery.models.shortage import ShortageError, is_about_memory, memory_for

GREEDY = 3  # beginnings that are also continued greedily, for show


class Generated(NamedTuple):
    """What a model gave where it generates.

    Attributes:
        tasks: Scores of tasks.
        savings: What its zeros save; ``None`` where no timing was asked for.
        written: Beginning, how, and continuation of each text.
        speed: By transformers' own loop; ``None`` where no timing was asked for.
        peak: Bytes of memory while it wrote; ``None`` if it did not.
        decode_bytes: Bytes of weights that are read for each token.
    """

    tasks: dict[str, dict[str, float]]
    savings: Savings | None
    written: list[tuple[str, str, Continuation]]
    speed: Speed | None
    peak: int | None
    decode_bytes: int


class Trials:
    """Runs the trials of a study.

    It decides how to run each, and keeps the dense model's hidden states. ``PrunedModels`` makes the models.
    """

    def __init__(self, study):
        memory.collect_quickly()
        self.study, self.profile = study, study.profile
        self.models = PrunedModels(study)
        self.batch_size = study.profile.batch_size
        self._dense_states: torch.Tensor | None = None

    def run(self, request: Request, label: str, earlier: Record | None = None) -> Record:
        """Run a trial and return its record. After running out of memory or overflowing, retry with less memory or a wider dtype.

        The record says which was done.

        Args:
            request: What is asked.
            label: What messages call the trial.
            earlier: A record of the same trial with other tasks of lm-evaluation-harness. Then only those that it lacks are run, and the
                record is the earlier one with their scores.
        """
        return self._retried(lambda: self._with_tasks(earlier, request, label) if earlier else self._run(request, label))

    def prune(self, request: Request, label: str) -> Pruned:
        """Return a model as a trial has it, and measure nothing; retry as ``run`` does."""
        return self._retried(lambda: self.models.pruned(request, label))

    def _retried(self, work):
        while True:
            try:
                with memory_for("at work", "a device with more memory"):
                    return work()
            except NotFiniteError as error:
                self._widen_dtype(error)
                self.forget()
            except ShortageError as error:
                shortage = error.without_frames()
                self.forget()
                self._take_less_memory(shortage)

    def _run(self, request: Request, label: str) -> Record:
        started, plan, study = datetime.now().astimezone(), self.study.plan, self.study
        study.say(f"{label}: {study.checkpoint.label} on {plan.device} as {plan.dtype}{', streamed' if plan.streamed else ''}")
        others, bandwidth = memory.others(plan.device), self._bandwidth  # the first time before anything is loaded
        scored, peak = self._score_dense(label) if self._dense_states is None else (None, 0)
        judged_by = self._judged_by if request.prompts else None
        model, seconds, recovered, rate, moved, pruning_peak, wider = self.models.pruned(request, label)
        if wider:
            plan = replace(plan, dtype_reason=f"{plan.dtype_reason}; {wider}")
        sparsity = count_zeros(model)
        if request.method != "dense" or scored is None:
            with memory.watched(plan.device, self.models.weights) as held:
                scored, _ = self._evaluated(model, label, dense=self._dense_states)
            peak = held.bytes
        if request.method != "dense" and plan.dtype == torch.float16 and not torch.isfinite(scored.nll).all():
            scored, how = self._scored_wider(model, scored, label)
            plan = replace(plan, dtype_reason=f"{plan.dtype_reason}; {how}")
        with self._memory_to_generate:
            model = self.models.for_generation(model)
        generated = self._generated(model, request, label)
        self.models.kept = model if request.method == "dense" else None
        del model
        dense_speed = self._dense_timed() if generated.speed and request.method != "dense" else None
        windows = study.windows
        return Record(
            model=self.profile.model_name,
            kind=study.checkpoint.kind,
            source=study.checkpoint.public_source,
            quantization=study.checkpoint.quantization,
            architecture=type(study.skeleton).__name__,
            request=request,
            result=Result(
                window_nll=bootstrap.finite(scored.nll).tolist(),
                window_kl=bootstrap.finite(scored.kl).tolist(),
                window_agreed=scored.agreed.tolist(),
                window_bytes=windows.scored_bytes.tolist(),
                window_words=windows.scored_words.tolist(),
                window_unigram=study.window_unigram if request.method == "dense" else None,
                scored_tokens=windows.tokens[:, 1:].size,
                parameters=sparsity.parameters,
                prunable_parameters=sparsity.prunable_parameters,
                sparsity_prunable=sparsity.prunable,
                sparsity_model=sparsity.model,
                sparsity_layers=sparsity.layers,
                layer_weights=sparsity.layer_weights,
                calibration_within_rows=study.calibration.within_rows if request.variant.calibrated else None,
                recovery_distinct_tokens=study.recovery.distinct if request.recovery else None,
                recovery_learning_rate=rate,
                recovery_moved=moved,
                pruning_seconds=seconds,
                recovery_seconds=recovered,
                bandwidth=bandwidth,
                decode_bytes=generated.decode_bytes,
                speed=generated.speed,
                dense_speed=dense_speed,
                savings=generated.savings,
                memory=Memory(
                    kind=memory.kind(plan.generates_on),
                    weights=self.models.weights,
                    evaluation_peak=peak,
                    generation_peak=generated.peak,
                    pruning_peak=pruning_peak if request.method != "dense" else None,
                    others=others,
                ),
                tasks=generated.tasks,
                texts=judged_by and judged_by.model_copy(update={"samples": self._samples(generated.written)}),
            ),
            provenance=provenance(plan, started, self.batch_size),
        )

    def _generated(self, model, request: Request, label: str) -> Generated:
        """Measure a model where it generates. The timing comes last, so that the dense model's follows at once."""
        tasks = self._scores_of_tasks(model, label, self.profile.tasks) if request.tasks else {}
        saved = self._saved(model, request) if request.repeats else None
        with self._memory_to_generate, memory.watched(self.study.plan.generates_on, self.models.weights) as held:
            written = self._written(model, request) if request.prompts else []
            speed = self._timed(model) if request.repeats else None
        return Generated(tasks, saved, written, speed, held.bytes if written or speed else None, generation.decode_bytes(model))

    def _with_tasks(self, earlier: Record, request: Request, label: str) -> Record:
        """Add the scores of missing tasks to an earlier record: prune in the same way once more, if any are, and measure nothing else."""
        started = datetime.now().astimezone()
        lacking = [task for task, identity in zip(self.profile.tasks, request.tasks, strict=True) if identity not in earlier.request.tasks]
        if not lacking:
            return earlier.model_copy(update={"request": request})
        model = self.models.pruned(request, label).model
        with self._memory_to_generate:
            model = self.models.for_generation(model)
        tasks = earlier.result.tasks | self._scores_of_tasks(model, label, lacking)
        self.models.kept = model if request.method == "dense" else None
        result = earlier.result.model_copy(update={"tasks": tasks})
        added = [*earlier.added, provenance(self.study.plan, started, self.batch_size)]
        return earlier.model_copy(update={"request": request, "result": result, "added": added})

    def _score_dense(self, label: str) -> tuple[Likelihoods, int]:
        """Score the dense model, and keep its hidden states for the comparison with the variants.

        Returns:
            Its likelihoods, and the peak of memory without those states.
        """
        model, device = self.models.dense(), self.study.plan.device
        with memory.watched(device, self.models.weights) as held:
            scored, self._dense_states = self._evaluated(model, f"{label}: dense", keep=True)
        self._check_finite(scored)
        return scored, held.bytes - (self._dense_states.nbytes if device.type == "cpu" else 0)

    def _scored_wider(self, model, scored: Likelihoods, label: str) -> tuple[Likelihoods, str]:
        """Score a variant that is not finite in float16 from the same weights in float32.

        A loss that is infinite only because of the dtype does not make a ticket broken.

        Returns:
            The likelihoods, or those given where memory does not suffice, and what was done.
        """
        self.study.say(f"{label}: not finite in float16, scored again in float32")
        try:
            loading.cast(model, torch.float32)
            wider, _ = self._evaluated(model, f"{label}: in float32", batch_size=1, dense=self._dense_states)
            return wider, "not finite in it, so the scores are of the same weights in float32, a window at a time"
        except (RuntimeError, MemoryError) as error:
            if not is_about_memory(error):
                raise
            return scored, "not finite in it, and float32 does not fit in memory"
        finally:
            loading.cast(model, torch.float16)  # exactly what they were: float32 holds every number of float16

    def _evaluated(self, model, label: str, batch_size: int | None = None, **how) -> tuple[Likelihoods, torch.Tensor | None]:
        """Score a model on the text, in its home."""
        plan, tokens = self.study.plan, self.study.windows.tokens
        progress = self._progress(f"{label}: {'block' if plan.streamed else 'window'}")
        step = f"with one window of {self.profile.seq_len} tokens at a time"
        with memory_for(step, "a smaller seq_len or another device", in_batches=True):
            return evaluate(model, tokens, batch_size or self.batch_size, **how, device=plan.streams_to, progress=progress)

    @property
    def _memory_to_generate(self):
        return memory_for("while it writes", "fewer new_tokens or a device with more memory", generating=True)

    @cached_property
    def _bandwidth(self) -> float:
        return memory.bandwidth(self.study.plan.generates_on)

    @cached_property
    def _judged_by(self) -> Texts:
        """What texts are judged against: the dense model's bits per byte on its own, on real and on shuffled text. No texts yet."""
        tokenizer = self.study.tokenizer
        with self._memory_to_generate:
            dense = self.models.for_generation(self.models.dense())
            real, shuffled = (generation.bits_per_byte(dense, tokenizer, pairs) for pairs in self.study.yardsticks)
            own = self._samples(self._written(dense, self.study.requests[0]))
        return Texts(samples=[], dense=[sample for sample in own if sample.how == "sampled"], real=real, shuffled=shuffled)

    def _written(self, model, request: Request) -> list[tuple[str, str, Continuation]]:
        """Return what a model writes: the beginning, how, and the continuation. All beginnings are sampled, the first few also greedy."""
        tokenizer, starts = self.study.tokenizer, self.study.starts
        greedy = continuations(model, tokenizer, starts[:GREEDY], request.new_tokens)
        drawn = continuations(model, tokenizer, starts, request.new_tokens, request.temperature, request.seed)
        return [(start, how, c) for how, found in (("greedy", greedy), ("sampled", drawn)) for start, c in zip(starts, found, strict=False)]

    def _samples(self, written: list[tuple[str, str, Continuation]]) -> list[Sample]:
        """Return texts with the dense model's surprise at each."""
        with self._memory_to_generate:
            dense = self.models.for_generation(self.models.dense())
            bits = [generation.bits(dense, c.beginning, c.tokens) for _, _, c in written]
        return [Sample(prompt=start, how=how, text=c.text, bits=b) for (start, how, c), b in zip(written, bits, strict=True)]

    def _scores_of_tasks(self, model, label: str, tasks: list[str]) -> dict[str, dict[str, float]]:
        self.study.say(f"{label}: {', '.join(tasks)}")
        with memory_for("at the tasks", "fewer tasks or a device with more memory", in_batches=True, generating=True):
            return lm_eval_tasks.scores(model, loading.tokenizer(self.study.checkpoint), tasks, self.batch_size)

    def _dense_timed(self) -> Speed:
        """Time the dense model now: minutes later the same machine runs at another pace."""
        with self._memory_to_generate:
            return self._timed(self.models.for_generation(self.models.dense()))

    def _timed(self, model) -> Speed:
        return generation.speed(model, self._encode(self.study.starts[0]), self.profile.new_tokens, self.profile.repeats)

    def _saved(self, model, request: Request) -> Savings:
        """Measure what the zeros of a model save, on the prompt and the number of tokens of the timing, or count what rounding saves."""
        profile, study = self.profile, self.study
        if request.bits:
            return rounded_savings(model, request.bits, study.stored_dtype)
        with self._memory_to_generate:
            prompt, pruned = self._encode(study.starts[0]), request.variant.pruned
            return savings(model, prompt, profile.new_tokens, profile.repeats, study.stored_dtype, pruned, study.plan.generates_on)

    def _encode(self, text: str) -> torch.Tensor:
        return self.study.tokenizer(text, return_tensors="pt").input_ids.to(self.study.plan.generates_on)

    def _check_finite(self, dense: Likelihoods) -> None:
        """Raise where the dense model's losses are not finite: a broken dtype must never be taken for a broken ticket."""
        if not torch.isfinite(dense.nll).all():
            raise NotFiniteError(f"the dense model's losses are not finite in {self.study.plan.dtype}")

    def _widen_dtype(self, error: NotFiniteError) -> None:
        study = self.study
        if study.plan.dtype == torch.float32:
            raise NotFiniteError(f"{error}: the checkpoint is damaged") from error
        if self.profile.dtype != "auto":
            raise NotFiniteError(f"{error}: it overflows; set dtype: float32, or auto") from error
        reason = f"{study.plan.dtype} overflows: {error}"
        study.say(f"{reason}; going on in float32")
        study.plan = loading.plan(self.profile, study.skeleton, raised=reason)

    def _take_less_memory(self, error: ShortageError) -> None:
        study, plan = self.study, self.study.plan
        if error.in_batches and self.batch_size > 1:
            self.batch_size //= 2
            study.say(f"out of memory; going on with {self.batch_size} windows at a time")
        elif not plan.streamed and not error.whole and loading.streaming_spares(plan.device):
            reason = f"out of memory {error.step} and the whole model resident"
            streamed = loading.plan(self.profile, study.skeleton, streamed=reason)
            study.plan = replace(streamed, dtype=plan.dtype, dtype_reason=plan.dtype_reason)
            study.say(f"{reason}; streaming it block by block")
        elif error.generating and plan.generates_on != plan.home:
            study.plan = replace(plan, generates_on=plan.home, memory_reason=f"{plan.memory_reason}; texts and speed on the CPU, too")
            study.say(f"out of memory {error.step}; going on with texts and speed on the CPU")
        else:
            raise (TrialMemoryError if error.whole else LotteryError)(str(error))

    def forget(self) -> None:
        """Release the model and what is kept of the dense one."""
        self.models.kept = self._dense_states = None
        for kept in ("_judged_by", "_bandwidth"):
            self.__dict__.pop(kept, None)
        memory.release()

    def _progress(self, label: str):
        return progress(self.study.say, label)
