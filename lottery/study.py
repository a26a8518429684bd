"""One model, many trials: what to run next, progress, resume. Nothing is drawn here; notebooks show what lies on disk."""

import time
from contextlib import contextmanager
from datetime import datetime
from functools import cached_property

import torch

from lottery import coherence, generation, loading, perplexity, tables
from lottery.calibration import calibration
from lottery.checkpoints import checkpoint
from lottery.corpus import corpus, corpus_identity, prompts, windows
from lottery.errors import LotteryError
from lottery.figures import curve
from lottery.params import Profile, profile_of_this_notebook
from lottery.paths import outputs
from lottery.provenance import provenance
from lottery.pruning import check_pattern, count_zeros, prune
from lottery.records import Record, Request, Result, Sample, read_record, read_state, requests, write_record, write_state

_PROGRESS_SECONDS = 15


class Study:
    """The trials of one model under one profile. Records that exist are never measured again; a killed run goes on after them."""

    def __init__(self, profile: Profile):
        self.profile = profile
        self.checkpoint = checkpoint(profile)
        self.folder = outputs(profile.profile) / profile.model_name
        with self._failures_recorded():
            self.checkpoint.check()
            self.text = corpus(profile.text)
            source = profile.calibration_text if profile.calibrated else None
            identity = corpus_identity(source, "calibration_text") if source else None
            self.requests = requests(profile, self.checkpoint.identity, self.text.sha256, identity)
            self.skeleton = loading.skeleton(self.checkpoint)
            for variant in profile.variants:
                check_pattern(self.skeleton, variant)  # also: whether it can be pruned at all
            self.tokenizer = loading.tokenizer(self.checkpoint)
            self.starts = prompts(self.text, profile.prompts, profile.prompt_words)
            self._check_context()
            self.windows = windows(self.tokenizer, self.text, profile.window, profile.max_windows)
            self.calibration = self._calibration()

    @classmethod
    def from_notebook(cls) -> "Study":
        """The study that this notebook's parameters ask for."""
        return cls(profile_of_this_notebook())

    @cached_property
    def plan(self) -> loading.Plan:
        return loading.plan(self.profile, sum(p.numel() for p in self.skeleton.parameters()))

    @property
    def records(self) -> list[Record]:
        """The records on disk that belong to this study, in the order of its trials."""
        found = (read_record(self.folder, request) for request in self.requests)
        return [record for record in found if record]

    def describe(self):
        """What is studied, on what, and how much of it is done."""
        return tables.description(self)

    def measure_dense(self) -> None:
        """Measures the dense model, unless its record is there."""
        self._measure(self.requests[:1])

    def sweep(self) -> None:
        """Measures every pruned variant whose record is not there."""
        self._measure(self.requests)

    def table(self):
        return tables.trials(self.records)

    def curve(self):
        return curve(self.records)

    def samples(self):
        return tables.samples(self.records)

    def finish(self) -> None:
        """Says, as the last thing that a run writes, that all trials are recorded; else raises."""
        missing = len(self.requests) - len(self.records)
        if missing:
            raise LotteryError(f"{missing} of {len(self.requests)} trials are not recorded; run the cells above")
        state = read_state(self.folder)
        if state is None or state.state != "finished":
            write_state(self.folder, "finished")
        self._say(f"finished: {len(self.requests)} trials are recorded")

    def _measure(self, wanted: list[Request]) -> None:
        todo = [request for request in wanted if read_record(self.folder, request) is None]
        if not todo:
            return self._say(f"{', '.join(map(tables.variant, wanted))}: recorded already")
        with self._failures_recorded():
            write_state(self.folder, "running")
            for request in todo:
                label = f"trial {self.requests.index(request) + 1} of {len(self.requests)}, {tables.variant(request)}"
                record = self._trial(request, label)
                write_record(self.folder, record)
                result = record.result
                speed = tables.median(result.speed.tokens_per_second)
                self._say(f"{label}: perplexity {tables.number(result.perplexity)}, {tables.number(speed)} tokens/s, recorded")

    def _trial(self, request: Request, label: str) -> Record:
        """Loads the dense model, prunes it, measures it. Each trial starts from the checkpoint, so none depends on another."""
        started = datetime.now().astimezone()
        self._say(f"{label}: loading {self.checkpoint.source} to {self.plan.device} as {self.plan.dtype}")
        model = loading.load(self.checkpoint, self.plan)
        began = time.monotonic()
        prune(model, request.variant, self.calibration, seed=request.seed, progress=self._progress(f"{label}: pruned block"))
        pruning_seconds = time.monotonic() - began
        sparsity = count_zeros(model)
        nll = perplexity.negative_log_likelihood(model, self.windows.tokens, request.batch_size, self._progress(f"{label}: window"))
        if request.method == "dense" and not torch.isfinite(nll).all():
            # A broken dtype must never be taken for a broken ticket.
            cure = "the checkpoint is damaged" if self.plan.dtype == torch.float32 else "it overflows; set dtype: float32"
            raise LotteryError(f"the dense model's losses are not finite in {self.plan.dtype}: {cure}")
        score = perplexity.score(nll, self.windows)
        texts = [self._continue(model, start, request, index) for index, start in enumerate(self.starts)]
        timed = generation.speed(model, self._encode(self.starts[0]), request.new_tokens, request.repeats)
        weight_bytes = sum(p.numel() * p.element_size() for p in model.parameters())
        del model
        return Record(
            model=self.profile.model_name,
            kind=self.checkpoint.kind,
            source=self.checkpoint.source if self.checkpoint.kind != "folder" else self.checkpoint.identity,
            architecture=type(self.skeleton).__name__,
            request=request,
            result=Result(
                **score._asdict(),
                parameters=sparsity.parameters,
                prunable_parameters=sparsity.prunable_parameters,
                sparsity_prunable=sparsity.prunable,
                sparsity_model=sparsity.model,
                sparsity_layers=sparsity.layers,
                pruning_seconds=pruning_seconds,
                weight_bytes=weight_bytes,
                speed=timed,
                coherence=coherence.verdict(texts, self.text.text),
                samples=[Sample(prompt=start, text=text) for start, text in zip(self.starts, texts, strict=True)],
            ),
            provenance=provenance(self.plan, started),
        )

    def _calibration(self) -> torch.Tensor | None:
        """Calibration samples, where a trial that is still to be measured needs them."""
        profile = self.profile
        if not any(request.calibration and read_record(self.folder, request) is None for request in self.requests):
            return None
        text = corpus(profile.calibration_text, "calibration_text")
        return calibration(self.tokenizer, text, profile.calibration_samples, profile.calibration_tokens, profile.seed)

    def _check_context(self) -> None:
        """Beyond its context a model writes noise, and pruning would be blamed for it."""
        context = getattr(self.skeleton.config, "max_position_embeddings", None)
        longest = max(len(self.tokenizer(start).input_ids) for start in self.starts) + self.profile.new_tokens
        wanted = [("window", self.profile.window), ("calibration_tokens", self.profile.calibration_tokens * self.profile.calibrated)]
        for key, tokens in [*wanted, ("new_tokens: with the longest prompt", longest)]:
            if context and tokens > context:
                raise LotteryError(f"{key}: given {tokens} tokens; {self.profile.model_name} was made for at most {context}")

    def _encode(self, text: str) -> torch.Tensor:
        return self.tokenizer(text, return_tensors="pt").input_ids.to(self.plan.device)

    def _continue(self, model, start: str, request: Request, index: int) -> str:
        """The model's continuation of a prompt: exactly ``new_tokens`` drawn tokens, none of them a special one."""
        prompt = self._encode(start)
        choose = generation.sampler(request.temperature, request.seed + index, banned=self.tokenizer.all_special_ids)
        tokens, _ = generation.generate(model, prompt, request.new_tokens, choose)
        before = self.tokenizer.decode(prompt[0], skip_special_tokens=True)
        whole = self.tokenizer.decode(torch.cat([prompt[0], tokens]), skip_special_tokens=True)
        # Decoded together, because some tokenizers drop the space in front of a text's first word.
        return whole[len(before) :] if whole.startswith(before) else self.tokenizer.decode(tokens, skip_special_tokens=True)

    def _progress(self, label: str):
        """A line now and then, so that a log file of a long trial stays short and a short trial prints none."""
        began = last = time.monotonic()

        def tick(done: int, total: int) -> None:
            nonlocal last
            now = time.monotonic()
            if now - last >= _PROGRESS_SECONDS and done < total:
                last = now
                self._say(f"{label} {done} of {total}, {(now - began) / done * (total - done):.0f} s left")

        return tick

    def _say(self, line: str) -> None:
        print(f"{self.profile.model_name}: {line}", flush=True)

    @contextmanager
    def _failures_recorded(self):
        """Leaves the reason of a failure on disk for the report, and lets the failure through."""
        try:
            yield
        except BaseException as error:
            write_state(self.folder, "failed", f"{type(error).__name__}: {error}".splitlines()[0])
            raise
