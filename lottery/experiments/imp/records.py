"""The runs of the lottery ticket procedure on disk: what was asked of each, what came out, and which run needs which."""

import math
from pathlib import Path
from typing import NamedTuple

from pydantic import BaseModel, ConfigDict

from lottery.common import hashing
from lottery.common.errors import LotteryError
from lottery.common.format import percent
from lottery.common.paths import outputs
from lottery.config.checkpoint import checkpoint
from lottery.config.profile import WINNING_TICKET, Profile
from lottery.data.corpus import corpus
from lottery.experiments.imp.arms import ARMS, arms_at
from lottery.experiments.records import Provenance, all_records, read_record

# Raised whenever the meaning of a number changes: older records are then measured again.
MEASUREMENT = 3


class TicketRequest(BaseModel):
    """Everything that was asked for in one run: an arm, at a level, with a seed."""

    model_config = ConfigDict(extra="forbid", frozen=True)

    measurement: int
    model: str
    checkpoint: str  # whose architecture and tokenizer these are; its weights are not used
    text_sha256: str
    held_out_sha256: str
    arm: str
    level: int
    seed: int
    prune_fraction: float
    scope: str
    rewind: int
    steps: int
    batch_size: int
    seq_len: int
    learning_rate: float
    device: str

    @property
    def sparsity(self) -> float:
        return sparsity_of(self.level, self.prune_fraction)

    @property
    def key(self) -> str:
        return hashing.key(self.model_dump())

    @property
    def lineage(self) -> str:
        """What all arms and levels of one seed share; it names the folder of their weights."""
        return f"{self.model}-{self.seed}-{hashing.key(self.model_dump(exclude={'arm', 'level'}))}"

    @property
    def file_name(self) -> str:
        return f"{self.model}-{self.seed}-{self.arm.replace(' ', '-')}-{self.level}-{self.key}.json"


class Point(NamedTuple):
    """A point of a learning curve: steps done, and the held-out loss in nats a token."""

    step: int
    loss: float


class TicketResult(BaseModel):
    """What came out of a run.

    Attributes:
        problem: Why there is no finite loss; empty where there is one.
        no_next: Why the level after it cannot be pruned.
        validation_loss: The loss on training text that was kept back; of a dense run only.
        checkpoint_loss: The held-out loss of the weights that the checkpoint itself has; of a dense run only.
    """

    model_config = ConfigDict(ser_json_inf_nan="strings")

    loss: float  # held-out, nats a token, at the end
    curve: list[Point]
    parameters: int
    prunable_parameters: int
    sparsity_layers: dict[str, float]  # of the mask
    moved: int  # weights outside the mask that were not zero at the end: none, ever
    seconds: float
    problem: str = ""
    no_next: str = ""
    validation_loss: float | None = None
    checkpoint_loss: float | None = None


class TicketRecord(BaseModel):
    model_config = ConfigDict(extra="forbid")

    request: TicketRequest
    result: TicketResult
    provenance: Provenance

    @property
    def title(self) -> str:
        """What a person calls a run."""
        request = self.request
        level = f" at {percent(1 - request.sparsity)} left" if request.level else ""
        return f"{request.model}, seed {request.seed}, {request.arm}{level}"


def sparsity_of(level: int, share: float) -> float:
    """Return the sparsity after ``level`` rounds that each take ``share`` of what is left."""
    return 1 - (1 - share) ** level


def folder_of(profile: Profile) -> Path:
    return outputs(profile.profile) / WINNING_TICKET


def requests(profile: Profile) -> list[TicketRequest]:
    """Return all runs that can be asked for so far.

    Where several learning rates are given, these are first each architecture's dense model of the first seed with each of them. Once these
    are recorded, the runs with the best rate follow seed by seed: the dense model, then level by level the ticket and what it is compared
    with.

    Raises:
        LotteryError: A text or a checkpoint is not there, or both texts are the same.
    """
    texts = {
        "text_sha256": corpus(profile.tickets.train_text, "tickets['train_text']").sha256,
        "held_out_sha256": corpus(profile.text).sha256,
    }
    if texts["text_sha256"] == texts["held_out_sha256"]:
        given = profile.tickets.train_text
        raise LotteryError(f"tickets['train_text']: given {given!r}, the text that is scored under another name; give another text")
    return _listed(profile, texts, {name: _identity(profile, name) for name in profile.tickets.models})


def _identity(profile: Profile, model: str) -> str:
    return checkpoint(profile.with_model(model)).identity


def _listed(profile: Profile, texts: dict[str, str], identities: dict[str, str]) -> list[TicketRequest]:
    """List the runs of a profile on texts and checkpoints of known identities."""
    asked, found, folder = profile.tickets, [], folder_of(profile)
    settings = asked.model_dump(exclude={"models", "train_text", "levels", "seeds", "learning_rate"})
    shared = {"measurement": MEASUREMENT, "device": profile.device, **texts, **settings}
    rates: dict[str, float] = {}
    for name in asked.models:
        this = {**shared, "model": name, "checkpoint": identities[name], "seed": profile.seed}
        tried = [TicketRequest(arm="dense", level=0, learning_rate=rate, **this) for rate in asked.learning_rate]
        records = [record for request in tried if (record := read_ticket(folder, request))] if len(tried) > 1 else []
        if len(tried) == 1:
            rates[name] = asked.learning_rate[0]
        elif len(records) == len(tried):
            rates[name] = best_rate(records)
        found += [request for request in tried if request.learning_rate != rates.get(name)]
    for seed in range(profile.seed, profile.seed + asked.seeds):
        for name in rates:
            this = {**shared, "model": name, "checkpoint": identities[name], "seed": seed, "learning_rate": rates[name]}
            for level in range(asked.levels + 1):
                found += [TicketRequest(arm=arm, level=level, **this) for arm in arms_at(level)]
    return found


def best_rate(tried: list[TicketRecord]) -> float:
    """Return the learning rate of the dense run that does best on training text that was kept back; of equal ones the lowest."""
    return min((math.inf if r.result.validation_loss is None else r.result.validation_loss, r.request.learning_rate) for r in tried)[1]


def parent(request: TicketRequest) -> TicketRequest | None:
    """Return the run whose weights or mask another one starts from; the dense one has none."""
    if request.arm == "dense":
        return None
    if ARMS[request.arm].mask != "ticket" or request.level == 1:
        return request.model_copy(update={"arm": "dense", "level": 0})
    return request.model_copy(update={"arm": "ticket", "level": request.level - 1})


def blocks(before: TicketRecord, request: TicketRequest) -> bool:
    """Return whether a run cannot be made because of how the one it starts from went.

    Where pruning left nothing there is no next level, but the dense model can be rewound all the same.
    """
    return bool(before.result.no_next) and (ARMS[request.arm].mask != "none" or bool(before.result.problem))


def read_ticket(folder: Path, request: TicketRequest) -> TicketRecord | None:
    """Return the record of a run, as ``read_record`` does that of a trial."""
    return read_record(folder, request, TicketRecord)


def recorded_requests(profile: Profile) -> list[TicketRequest]:
    """Return the same as ``requests``; where a text or a checkpoint is gone, the newest records say what they were made with."""
    try:
        return requests(profile)
    except LotteryError:
        made = [record.request for record in all_records(folder_of(profile), TicketRecord)]
        if not made:
            raise
        known = {request.model: request.checkpoint for request in made}
        identities = {name: known.get(name) or _identity(profile, name) for name in profile.tickets.models}
        return _listed(profile, made[-1].model_dump(include={"text_sha256", "held_out_sha256"}), identities)
