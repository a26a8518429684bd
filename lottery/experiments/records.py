"""One trial on disk: what was asked, what was measured, and where it came from. Written once, whole, or not at all."""

import math
import os
import re
from datetime import datetime
from functools import cached_property
from pathlib import Path
from typing import Literal

from pydantic import BaseModel, ConfigDict, ValidationError, model_validator

from lottery.common import hashing
from lottery.common.errors import on_one_line
from lottery.common.files import atomic_write
from lottery.config.profile import Profile, Settings
from lottery.evaluation import coherence, lm_eval_tasks
from lottery.evaluation.bootstrap import exp, to_bits_per_byte
from lottery.evaluation.generation import Speed
from lottery.evaluation.metrics import METRICS, WindowSums, window_sums
from lottery.evaluation.savings import Savings
from lottery.pruning.catalogue import ALLOCATIONS, METHODS
from lottery.pruning.variants import Variant

# Raised whenever the meaning of a measured number changes, or one is added: older records are then measured again. Metrics, which are
# computed from sums that a record keeps, have versions of their own.
MEASUREMENT = 8


class Request(Settings):
    """Everything that was asked for: the settings of the profile, and what is measured by them.

    Two requests with the same ``key`` would measure the same thing.
    """

    model_config = ConfigDict(extra="forbid", frozen=True)

    measurement: int
    checkpoint: str
    text_sha256: str
    method: str
    method_version: int = 1  # 1 also where no method prunes
    allocation: str
    allocation_version: int = 1
    pattern: str
    sparsity: float
    rounder: str | None = None  # how the weights are rounded; None where they are not
    bits: int | None = None  # to how many bits
    recovery: str | None = None  # how it is retrained; None where it is not
    loss: str | None = None  # and on what
    calibration: str | None  # identity of the calibration text; None where no calibration is needed
    calibration_samples: int | None
    calibration_seq_len: int | None
    prompts: int  # none where a bisection only scores a variant, and no repeats either
    repeats: int
    tasks: list[str]  # of lm-evaluation-harness; a file with the SHA-256 of its content
    recover_steps: int | None = None  # None where nothing is retrained
    recover_learning_rate: list[float] | None = None  # those to choose from
    recover_batch_size: int | None = None

    @property
    def key(self) -> str:
        # What is not asked for is not in the key, so that it is that of the time before this could be asked for.
        retraining = set() if self.recovery else {"recovery", "loss", "recover_steps", "recover_learning_rate", "recover_batch_size"}
        rounding = set() if self.bits else {"rounder", "bits"}
        first = {name for name in ("method_version", "allocation_version") if getattr(self, name) == 1}
        values = self.model_dump(exclude=retraining | rounding | first)
        return hashing.key(values)

    @property
    def file_name(self) -> str:
        kind = "-".join(re.findall(r"[\w-]+", self.variant.label.replace(":", "of")))
        return f"{kind}-{self.sparsity:g}-{self.key}.json"

    @property
    def variant(self) -> Variant:
        return Variant(**self.model_dump(include=set(Variant._fields)))

    @property
    def title(self) -> str:
        """What a person calls the variant, on one line."""
        return self.variant.title


class Memory(BaseModel):
    """Memory in bytes.

    Attributes:
        kind: Which memory the figures count.
        weights: The weights.
        evaluation_peak: The peak during evaluation.
        generation_peak: The peak during generation; ``None`` where nothing was generated.
        others: What other processes held on the device.
        pruning_peak: The peak while the variant was pruned; ``None`` for the dense model.
    """

    kind: Literal["GPU memory", "main memory"]
    weights: int
    evaluation_peak: int
    generation_peak: int | None
    others: int
    pruning_peak: int | None = None


class Sample(BaseModel):
    """A text written after a beginning, and how surprising the dense model finds it, in bits."""

    prompt: str
    text: str
    how: Literal["greedy", "sampled"]
    bits: float

    model_config = ConfigDict(ser_json_inf_nan="strings")


class Texts(BaseModel):
    """What a variant wrote, and what that is judged against.

    Attributes:
        samples: What the variant wrote.
        dense: What the dense model drew after the same beginnings.
        real: The dense model's bits per byte on stretches of the test text, after the same kind of beginnings.
        shuffled: The same on stretches with their words shuffled.
    """

    samples: list[Sample]
    dense: list[Sample]
    real: float
    shuffled: float

    model_config = ConfigDict(ser_json_inf_nan="strings")

    @cached_property
    def verdict(self) -> coherence.Verdict:
        """The verdict on the drawn texts."""
        drawn = [(sample.text, sample.bits) for sample in self.samples if sample.how == "sampled"]
        return coherence.verdict(drawn, self._dense_costs, self.real, self.shuffled)

    @property
    def dense_bits(self) -> float:
        """The dense model's bits per new byte of its own texts."""
        return coherence.bits_of_new_text(self._dense_costs)

    @property
    def _dense_costs(self) -> coherence.Costs:
        return [(sample.text, sample.bits) for sample in self.dense]


class Result(BaseModel):
    # JSON has no infinity; "Infinity" as a string survives every reader.
    model_config = ConfigDict(ser_json_inf_nan="strings")

    metrics: dict[str, float] = {}  # of ``evaluation.metrics``, filled in from the sums below
    metric_versions: dict[str, int] = {}
    window_nll: list[float]  # of each window: summed nats,
    window_kl: list[float]  # summed divergences in nats,
    window_agreed: list[float]  # tokens on which both agree,
    window_bytes: list[int]  # bytes
    window_words: list[int]  # and words of the scored text
    window_unigram: list[float] | None = None  # of each window: summed nats by ``unigram_nll``, in records of dense models
    scored_tokens: int
    parameters: int
    prunable_parameters: int
    sparsity_prunable: float
    sparsity_model: float
    sparsity_layers: dict[str, float]
    layer_weights: dict[str, int]
    calibration_within_rows: bool | None  # whether each calibration sample lies within one row of its text; None where none was used
    recovery_distinct_tokens: int | None = None  # of the text that a variant was retrained on; fewer than it saw if it saw some twice
    recovery_learning_rate: float | None = None  # the one that was chosen
    recovery_moved: float | None = None  # the share of the zeros that retraining moved; None where it did not start from a pruned model
    pruning_seconds: float
    recovery_seconds: float = 0.0
    bandwidth: float  # bytes per second that the device that generated reads
    decode_bytes: int  # bytes of weights that are read for each token
    speed: Speed | None  # None where no timing was asked for
    dense_speed: Speed | None  # the dense model's, timed right after a pruned variant; None for the dense trial itself
    savings: Savings | None  # what the zeros save; None where no timing was asked for
    memory: Memory
    tasks: dict[str, dict[str, float]]  # of each task its scores, as the harness names them
    texts: Texts | None  # None where no text was asked for

    @model_validator(mode="after")
    def _complete(self) -> "Result":
        """Compute metrics that are newer than the record, or whose meaning has changed, from its sums; measure nothing."""
        for name, metric in METRICS.items():
            if self.metric_versions.get(name) != metric.version:
                self.metrics[name], self.metric_versions[name] = metric.function(self.window_sums).value, metric.version
        return self

    @property
    def window_sums(self) -> WindowSums:
        tokens = self.scored_tokens / len(self.window_nll)
        return window_sums(self.window_nll, self.window_kl, self.window_agreed, self.window_bytes, self.window_words, tokens)

    @property
    def perplexity(self) -> float:
        return self.metrics["perplexity"]

    @property
    def bits_per_byte(self) -> float:
        return self.metrics["bits_per_byte"]

    @property
    def unigram_perplexity(self) -> float:
        """The perplexity of token frequencies alone; not a number where it is not known."""
        return exp(sum(self.window_unigram) / self.scored_tokens) if self.window_unigram else math.nan

    @property
    def unigram_bits_per_byte(self) -> float:
        """The bits per byte of token frequencies alone; not a number where it is not known."""
        return to_bits_per_byte(sum(self.window_unigram), sum(self.window_bytes)) if self.window_unigram else math.nan


class Provenance(BaseModel):
    commit: str
    dirty: bool
    versions: dict[str, str]
    machine: str
    device: str
    dtype: str
    dtype_reason: str
    memory_plan: str
    memory_reason: str
    threads: int
    batch_size: int | None = None  # windows scored at a time in a trial, in the end; None in records of other kinds
    started: datetime
    finished: datetime
    slurm_job: str | None


class Record(BaseModel):
    model_config = ConfigDict(extra="forbid")

    model: str
    kind: str
    source: str
    quantization: str | None  # what the weights were rounded to before anything was pruned, as the file names it
    architecture: str
    request: Request
    result: Result
    provenance: Provenance
    added: list[Provenance] = []  # of what was measured later: tasks that an earlier record did not have


class State(BaseModel):
    """How far the study of one model is: what the run itself wrote last."""

    state: Literal["running", "finished", "stopped", "failed"]
    at: datetime
    reason: str = ""
    job: str | None = None  # of Slurm


def requests(profile: Profile, checkpoint: str, text_sha256: str, calibration: str | None = None) -> list[Request]:
    """Return the trials of one model in the order in which they run: the dense model, then each variant at rising sparsity.

    Args:
        profile: What is asked for.
        checkpoint: The identity of the checkpoint.
        text_sha256: The SHA-256 of the text.
        calibration: The identity of the calibration text.
    """
    budget = profile.recover.model_dump(include={"steps", "learning_rate", "batch_size"}) if profile.recover else {}
    recovery = {f"recover_{name}": value for name, value in budget.items()}
    shared = {**profile.model_dump(include=set(Settings.model_fields)), "tasks": lm_eval_tasks.identities(profile.tasks)}
    found = []
    for variant in profile.variants:
        calibrated = {
            "calibration": calibration,
            "calibration_samples": profile.calibration_samples,
            "calibration_seq_len": profile.calibration_seq_len,
        }
        retrained = recovery if variant.recovery else {}
        if not variant.calibrated:  # so that other calibration data does not measure again what never saw any
            calibrated["calibration_samples"] = None
            calibrated = calibrated if retrained else dict.fromkeys(calibrated)
        identity = {"measurement": MEASUREMENT, "checkpoint": checkpoint, "text_sha256": text_sha256}
        versions = {}
        if variant.one_shot:
            versions["method_version"] = METHODS[variant.method].version
            versions["allocation_version"] = ALLOCATIONS[variant.allocation].version
        found.append(Request(**identity, **variant._asdict(), **versions, **calibrated, **shared, **retrained))
    return found


def write_record(folder: Path, record: BaseModel) -> Path:
    """Write a record of a trial, or of a run of the ticket procedure, under the name that its request gives it."""
    path = folder / "records" / record.request.file_name
    atomic_write(path, record.model_dump_json(indent=1) + "\n")
    return path


def read_record(folder: Path, request: BaseModel, kind: type[BaseModel] = Record):
    """Return the record of a request, or ``None`` where no readable record of exactly this request exists."""
    record = read_json(kind, folder / "records" / request.file_name)
    return record if record and record.request == request else None


def all_records(folder: Path, kind: type[BaseModel] = Record) -> list:
    """Return all readable records of a model or of the ticket procedure, whatever they were asked for, the newest last."""
    found = [record for path in (folder / "records").glob("*.json") if (record := read_json(kind, path))]
    return sorted(found, key=lambda record: record.provenance.finished)


def with_other_tasks(folder: Path, request: Request) -> Record | None:
    """Return the record of the same trial with the most of the tasks that ``request`` asks for, or other ones; ``None`` without one."""
    paths = (folder / "records").glob(request.file_name.replace(request.key, "*"))
    found = [record for path in paths if (record := read_json(Record, path))]
    same = [record for record in found if record.request.model_copy(update={"tasks": request.tasks}) == request]
    return max(same, key=lambda record: len({*record.request.tasks} & {*request.tasks}), default=None)


def slurm_job() -> str | None:
    """Return the id of the Slurm job that this runs in, as Slurm's commands take it: ``12``, or ``12_3`` in an array."""
    array, task = os.environ.get("SLURM_ARRAY_JOB_ID"), os.environ.get("SLURM_ARRAY_TASK_ID")
    return f"{array}_{task}" if array and task else os.environ.get("SLURM_JOB_ID")


def write_state(folder: Path, state: str, reason: str = "") -> None:
    value = State(state=state, at=datetime.now().astimezone(), reason=on_one_line(reason, 500), job=slurm_job())
    atomic_write(folder / "state.json", value.model_dump_json(indent=1) + "\n")


def read_state(folder: Path) -> State | None:
    return read_json(State, folder / "state.json")


def read_json(kind: type[BaseModel], path: Path):
    """Return what a file holds, or ``None`` where it is missing or cannot be read."""
    try:
        return kind.model_validate_json(path.read_text(encoding="utf-8"))
    except (FileNotFoundError, ValidationError, UnicodeDecodeError):
        return None
