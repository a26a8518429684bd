"""One model, many trials: what to run next, progress, resume. Nothing is drawn here; notebooks show what lies on disk."""

import shutil
import statistics
import time
from collections.abc import Callable
from contextlib import suppress
from dataclasses import replace
from functools import cached_property
from pathlib import Path

import torch

from lottery.common.errors import HeldError, ImpossibleTrialError, LotteryError, TrialMemoryError
from lottery.common.format import number, size
from lottery.common.paths import outputs
from lottery.config.checkpoint import checkpoint
from lottery.config.profile import Profile
from lottery.data.calibration import Calibration, Retraining, calibration, retraining
from lottery.data.corpus import HUB_TEXTS, corpus, corpus_identity, prompts, windows
from lottery.evaluation import lm_eval_tasks
from lottery.evaluation.coherence import STRETCH_WORDS, yardsticks
from lottery.evaluation.unigram import unigram_nll
from lottery.experiments import pruned_once
from lottery.experiments.impossible import remember, remembered
from lottery.experiments.lifecycle import finish, held, raise_if_stop_requested, record_failure, stopped
from lottery.experiments.protocols import runs as protocol_runs
from lottery.experiments.protocols.records import ProtocolRecord
from lottery.experiments.pruned import check_whole
from lottery.experiments.records import Record, Request, read_record, requests, with_other_tasks, write_record, write_state
from lottery.experiments.threshold import with_bisections
from lottery.experiments.trials import Trials
from lottery.models import loading
from lottery.models.devices import describe
from lottery.models.gguf_files import convert
from lottery.pruning.prune import check_pattern
from lottery.training.recovery import least_memory


class Study:
    """The trials of one model under one profile. Existing records are never measured again; a killed run resumes after them."""

    def __init__(self, profile: Profile):
        self.profile = profile
        self.checkpoint = checkpoint(profile)
        self.folder = outputs(profile.profile) / profile.model_name
        self._impossible: dict[str, str] = {}  # key of a trial: why this run found that it cannot make it
        with record_failure(self.folder):
            if self.checkpoint.kind == "gguf":
                convert(Path(self.checkpoint.source))
            self.checkpoint.check()
            self.text = corpus(profile.text)
            source = profile.calibration_text if profile.calibrated else None
            identity = corpus_identity(source, "calibration_text") if source else None
            self._check_calibration_text(source)
            self._named = requests(profile, self.checkpoint.identity, self.text.sha256, identity)
            self.skeleton = loading.skeleton(self.checkpoint)
            for variant in profile.variants:
                check_pattern(self.skeleton, variant)  # also: whether it can be pruned at all
            if profile.tasks:
                lm_eval_tasks.check(profile.tasks)
            self.tokenizer = loading.tokenizer(self.checkpoint)
            self.starts = prompts(self.text, profile.prompts, profile.prompt_words)
            self._check_context()
            self._check_vocabulary()
            self.windows = windows(self.tokenizer, self.text, profile.seq_len, profile.max_windows)
            self._complete_dense()
            missing = self.missing(self.requests)
            if any(request.calibration for request in missing):
                self.calibration  # noqa: B018 - so that an unsuitable text fails now and not after hours
            if retrained := [request for request in missing if request.recovery]:
                self._check_recovery(retrained)

    @cached_property
    def plan(self) -> loading.Plan:
        """Where and how the model runs, as decided before its first trial here."""
        return self._planned()

    def _planned(self) -> loading.Plan:
        """Decide where and how the model runs, in the dtype of what is recorded: dtypes are never mixed within a model."""
        records = self.records
        if not records or self.profile.dtype != "auto":
            return loading.plan(self.profile, self.skeleton)
        first = records[0].provenance
        found = loading.plan(self.profile.model_copy(update={"dtype": first.dtype}), self.skeleton)
        return replace(found, dtype_reason=first.dtype_reason)

    @property
    def stored_dtype(self) -> torch.dtype:
        """The dtype in which a pruned model is stored: that of the checkpoint, or of the profile where it names one."""
        return self.skeleton.dtype if self.profile.dtype == "auto" else getattr(torch, self.profile.dtype)

    @property
    def requests(self) -> list[Request]:
        """The trials in their order; with ``bisect`` their number grows as they are measured."""
        return with_bisections(self._named, self.folder) if self.profile.bisect else self._named

    @cached_property
    def yardsticks(self) -> tuple[list[tuple[str, str]], list[tuple[str, str]]]:
        """The stretches of the text that texts are judged against, as they are and shuffled."""
        return yardsticks(self.text.text, self.profile.prompt_words)

    @cached_property
    def trials(self) -> Trials:
        return Trials(self)

    @property
    def records(self) -> list[Record]:
        """The records on disk that belong to this study, in the order of its trials."""
        found = (read_record(self.folder, request) for request in self.requests)
        return [record for record in found if record]

    def measure_dense(self) -> None:
        """Measure the dense model, unless its record exists."""
        self._measure(self.requests[:1])

    def measure_protocols(self) -> list[ProtocolRecord]:
        """Score the dense model by every protocol without a record, and return the records of all protocols."""
        with record_failure(self.folder):
            if "trials" in self.__dict__:
                self.trials.forget()  # the dense model that they keep need not be in memory twice
            return protocol_runs.measure(self.profile)

    def sweep(self) -> None:
        """Measure every pruned variant without a record; with ``bisect`` also what those results say to measure next.

        Raises:
            ImpossibleTrialError: Trials cannot be made; all others were.
        """
        self._measure(self.requests)
        while self.missing(self.requests):
            self._measure(self.requests)
        with record_failure(self.folder):
            self._raise_if_impossible()

    def finish(self) -> None:
        """Write, as the last thing of a run, that all trials are recorded; raise if they are not."""
        line = finish(self.folder, len(self.records), len(self.requests))
        self.__dict__.pop("trials", None)  # the dense model and its states are not needed any more
        shutil.rmtree(self.folder / pruned_once.FOLDER, ignore_errors=True)  # what a killed run left
        self.say(line)

    def missing(self, wanted: list[Request]) -> list[Request]:
        """Return the trials that are neither recorded nor found impossible."""
        return [request for request in wanted if read_record(self.folder, request) is None and not self._why_not(request)]

    def _why_not(self, request: Request) -> str | None:
        """Return why a trial cannot be made, as this run or one before it found out."""
        found = remembered(self.folder, request)
        return self._impossible.get(request.key) or (found.reason if found and found.by_this_code else None)

    def _raise_if_impossible(self) -> None:
        missing = (request for request in self.requests if read_record(self.folder, request) is None)
        if impossible := [(request.title, why) for request in missing if (why := self._why_not(request))]:
            title, error = impossible[0]
            others = len(impossible) - 1
            others = "" if not others else "; so is another trial" if others == 1 else f"; so are {others} other trials"
            raise ImpossibleTrialError(f"{title} is impossible: {error}{others}; all else is recorded")

    def _measure(self, wanted: list[Request]) -> None:
        todo = self.missing(wanted)
        if not todo:
            if all(read_record(self.folder, request) for request in wanted):
                self.say(f"{', '.join(request.title for request in wanted)}: recorded already")
            return
        with held(self.folder), record_failure(self.folder):
            write_state(self.folder, "running")
            for request in todo:
                raise_if_stop_requested(self.folder, len(self.records), len(self.requests))
                with held(self.folder, request.file_name):
                    self._record(request)

    def share(self, asked_to_stop: Callable[[], bool], wait: float = 5) -> None:
        """Measure what is missing along with other runs of the same model.

        Each run takes trials that no other is working on, the dense model first. It waits for the trials of the others until all are
        recorded, so that it takes over what a killed run leaves.

        Args:
            asked_to_stop: Says whether to stop; called between trials.
            wait: Seconds between two looks at what the others do.

        Raises:
            StoppedError: ``asked_to_stop`` said so.
            ImpossibleTrialError: As in ``sweep``.
        """
        dense = self.requests[0]
        with record_failure(self.folder):
            while missing := self.missing(self.requests):
                took = False
                for request in missing[:1] if missing[0] == dense else missing:  # its dtype is that of all
                    if asked_to_stop():
                        raise stopped(len(self.records), len(self.requests))
                    with suppress(HeldError), held(self.folder, request.file_name):
                        write_state(self.folder, "running")
                        self._record(request)
                        took = True
                if not took:
                    time.sleep(wait)
            self._raise_if_impossible()

    def _record(self, request: Request) -> None:
        """Measure a trial and write its record, unless another run just did; or remember why that is impossible."""
        requests = self.requests
        if not self.missing([request]) or request not in requests:  # nor what a bisection no longer asks for
            return
        label = f"trial {requests.index(request) + 1} of {len(requests)}, {request.title}"
        try:
            record = self.trials.run(request, label, with_other_tasks(self.folder, request))
        except (ImpossibleTrialError, TrialMemoryError) as error:
            self.trials.forget()  # a model that is half changed
            self._impossible[request.key] = str(error)
            if isinstance(error, ImpossibleTrialError):  # whatever the machine
                remember(self.folder, request, str(error))
            self.say(f"{label}: impossible: {error}; going on with the others")
            return
        write_record(self.folder, record)
        if read_record(self.folder, request) is None:  # or it would be measured again and again
            raise LotteryError(f"{self.profile.model_name}: a record that was just written does not read back; look at {self.folder}")
        speed = record.result.speed
        timed = f", {number(statistics.median(speed.tokens_per_second))} tokens/s" if speed else ""
        self.say(f"{label}: perplexity {number(record.result.perplexity)}{timed}, recorded")

    @cached_property
    def calibration(self) -> Calibration | None:
        """Calibration samples, where a way of pruning needs them."""
        profile = self.profile
        if not profile.calibrated:
            return None
        text = corpus(profile.calibration_text, "calibration_text")
        return calibration(self.tokenizer, text, profile.calibration_samples, profile.calibration_seq_len, profile.seed)

    @cached_property
    def recovery(self) -> Retraining:
        """What pruned variants are retrained on: windows of the calibration text, drawn with another seed than its samples."""
        profile, text = self.profile, corpus(self.profile.calibration_text, "calibration_text")
        windows = profile.recover.steps * profile.recover.batch_size
        return retraining(self.tokenizer, text, windows, profile.calibration_seq_len, profile.seed + 1)

    @cached_property
    def window_unigram(self) -> list[float]:
        """Of each window the nats of token frequencies alone."""
        return unigram_nll(self.windows.tokens, len(self.tokenizer)).tolist()

    def _complete_dense(self) -> None:
        """Add token frequencies to a dense record that is older than they are; they need no model."""
        dense = read_record(self.folder, self._named[0])
        if dense and dense.result.window_unigram is None:
            dense.result.window_unigram = self.window_unigram
            write_record(self.folder, dense)

    def _check_calibration_text(self, source: str | None) -> None:
        """Refuse the scored text by whichever name it comes."""
        if source and source not in HUB_TEXTS and corpus(source, "calibration_text").text == self.text.text:
            raise LotteryError(f"calibration_text: given {source!r}, the text that is scored under another name; give another text")

    def _check_context(self) -> None:
        """Refuse lengths beyond the model's context, where it writes noise and pruning would be blamed for it."""
        context = getattr(self.skeleton.config, "max_position_embeddings", None)
        longest = max(len(self.tokenizer(start).input_ids) for start in self.starts) + self.profile.new_tokens
        stretch = max(len(self.tokenizer(begun + rest).input_ids) for begun, rest in self.yardsticks[0])
        wanted = [("seq_len", self.profile.seq_len), ("calibration_seq_len", self.profile.calibration_seq_len * self.profile.calibrated)]
        wanted += [
            ("new_tokens: with the longest prompt", longest),
            (f"text: with a stretch of {STRETCH_WORDS} words to judge by", stretch),
        ]
        for key, tokens in wanted:
            if context and tokens > context:
                raise LotteryError(f"{key}: given {tokens} tokens; {self.profile.model_name} was made for at most {context}")

    def _check_recovery(self, wanted: list[Request]) -> None:
        """Refuse what cannot be retrained here now, and not after the dense model was measured."""
        self.recovery  # noqa: B018 - so that a text that is too short fails now
        plan = self._planned()  # not the plan that trials go by: until they begin, another run may record the dense model
        if plan.dtype == torch.float16:
            raise LotteryError(f"dtype: {plan.dtype_reason}, and recover cannot train in float16; set dtype: float32")
        check_whole(plan, self.profile.model_name)
        needed = max(least_memory(self.skeleton, r.recovery != "masked", r.loss == "distillation") for r in wanted)
        free = loading.available(plan.device)
        if not plan.spread and needed > free:
            raise LotteryError(
                f"recover: to train {self.profile.model_name} takes {size(needed)} or more, {describe(plan.device)} has {size(free)} free;"
                " take a device with more memory or a smaller model, or leave recover out"
            )

    def _check_vocabulary(self) -> None:
        """Refuse a tokenizer with more tokens than its model has rows: it belongs to another model."""
        tokens, rows = max(self.tokenizer.get_vocab().values()) + 1, self.skeleton.get_input_embeddings().weight.shape[0]
        if tokens > rows:
            raise LotteryError(
                f"model: the tokenizer of {self.profile.model_name} has {tokens:,} tokens, the model {rows:,}; they do not belong together"
            )

    def say(self, line: str) -> None:
        print(f"{self.profile.model_name}: {line}", flush=True)
