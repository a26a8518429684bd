"""One run of the lottery ticket procedure: an arm at a level with a seed, from its weights and mask to its record."""

import math
import shutil
import tempfile
import time
from datetime import datetime
from functools import cached_property, lru_cache
from pathlib import Path

import numpy as np
import torch
from safetensors.torch import load_file, save
from torch import nn
from transformers import AutoModelForCausalLM

from lottery.common.errors import LotteryError
from lottery.common.files import atomic_write
from lottery.config.checkpoint import checkpoint
from lottery.config.profile import Profile
from lottery.data.corpus import corpus, windows
from lottery.experiments.imp.arms import ARMS
from lottery.experiments.imp.records import (
    Point,
    TicketRecord,
    TicketRequest,
    TicketResult,
    blocks,
    folder_of,
    parent,
    read_ticket,
    sparsity_of,
)
from lottery.experiments.provenance import provenance
from lottery.experiments.records import write_record
from lottery.models import loading
from lottery.models.blocks import prunable
from lottery.training.masks import Masks, apply_masks, mask_of, nonzero_outside
from lottery.training.trainer import Schedule, held_out_loss, train

HELD_OUT = 48  # windows
EVALS_PER_RUN = 10  # points of a learning curve
REINIT_SEED_OFFSET = 1_000_000  # added to the seed of another initialisation


class Architecture:
    """What all runs of one architecture share: where they run, its shape, its tokens."""

    def __init__(self, profile: Profile, name: str):
        named = profile.model_copy(update={"model": name, "dtype": "float32", "memory": "resident"})
        source, asked = checkpoint(named), profile.tickets
        skeleton = loading.skeleton(source)
        self.config, self.layers = skeleton.config, {key: layer.weight.shape.numel() for key, layer in prunable(skeleton).items()}
        self.plan = loading.plan(named, skeleton)
        self.parameters = sum(parameter.numel() for parameter in skeleton.parameters())
        context = getattr(self.config, "max_position_embeddings", None)
        if context and asked.seq_len > context:
            raise LotteryError(f"tickets['seq_len']: given {asked.seq_len} tokens; {name} was made for at most {context}")
        self._source, self._tokenizer, self._profile = source, loading.tokenizer(source), profile

    @cached_property
    def _training_windows(self) -> torch.Tensor:
        asked = self._profile.tickets
        found = windows(self._tokenizer, corpus(asked.train_text, "tickets['train_text']"), asked.seq_len).tokens
        if len(found) < 2:
            raise LotteryError(
                f"tickets['train_text']: given {asked.train_text!r}, one window of {asked.seq_len} tokens, and one is kept back; give"
                " a longer text or a smaller tickets['seq_len']"
            )
        return torch.from_numpy(found)

    @property
    def _kept_back(self) -> int:
        """Windows at the end of the training text that no run is trained on, at most a tenth of it."""
        return min(HELD_OUT, max(1, len(self._training_windows) // 10))

    @cached_property
    def tokens(self) -> torch.Tensor:
        """The training tokens, int64 [tokens]."""
        return self._training_windows[: -self._kept_back].reshape(-1)

    @cached_property
    def validation(self) -> torch.Tensor:
        """The windows that the learning rate is chosen on, int64 [windows, window], on the device."""
        return self._training_windows[-self._kept_back :].to(self.plan.device)

    @cached_property
    def checkpoint_loss(self) -> float | None:
        """The held-out loss of the checkpoint's own weights.

        ``None`` where it has none: a configuration and a tokenizer are enough for a run.
        """
        if not list(self._source.folder.glob("*.safetensors")):
            return None
        return held_out_loss(loading.load(self._source, self.plan), self.held_out)

    @cached_property
    def held_out(self) -> torch.Tensor:
        """The windows that losses are measured on, int64 [windows, window], on the device."""
        found = windows(self._tokenizer, corpus(self._profile.text), self._profile.tickets.seq_len, HELD_OUT)
        return torch.from_numpy(found.tokens).to(self.plan.device)

    def new_model(self, seed: int) -> nn.Module:
        """Return the architecture with freshly initialised weights, drawn on the CPU, so that they are the same everywhere."""
        torch.manual_seed(seed)
        model = AutoModelForCausalLM.from_config(self.config, dtype=torch.float32, attn_implementation="sdpa", trust_remote_code=False)
        return model.to(self.plan.device).train()

    def batches(self, request: TicketRequest, first: int):
        """Yield the windows of each step from ``first`` on: drawn at random from the text, the same ones for all arms of a seed."""
        draw = np.random.default_rng(request.seed)
        starts = draw.integers(0, len(self.tokens) - request.seq_len + 1, (request.steps, request.batch_size))[first:]
        for row in starts:
            yield torch.stack([self.tokens[start : start + request.seq_len] for start in row]).to(self.plan.device)


@lru_cache(maxsize=8)
def architecture(profile: str, name: str) -> Architecture:
    """Return what the runs of one architecture share.

    Args:
        profile: The profile as JSON, which the cache can use as a key.
        name: The name of the architecture.
    """
    return Architecture(Profile.model_validate_json(profile, strict=False), name)


def check(profile: Profile) -> dict[str, int]:
    """Check, before any long work, that every architecture is there and that every level leaves something of each layer.

    With the scope 'layer' every layer loses the same share, so that the check can tell beforehand; over the whole model only the run can
    tell.

    Args:
        profile: The profile, with its ``tickets``.

    Returns:
        The number of parameters of each architecture.

    Raises:
        LotteryError: An architecture is not there, or a level would leave nothing of a layer.
    """
    asked, found = profile.tickets, {}
    for name in asked.models:
        made = Architecture(profile, name)
        found[name] = made.parameters
        smallest, weights = min(made.layers.items(), key=lambda item: item[1])
        for level in range(1, asked.levels + 1):
            if asked.scope == "layer" and weights - round(weights * sparsity_of(level, asked.prune_fraction)) < 1:
                raise LotteryError(
                    f"tickets['levels']: given {asked.levels} with a prune_fraction of {asked.prune_fraction:g}; level {level} leaves"
                    f" nothing of {smallest} of {name}, which has {weights:,} weights; take fewer levels or a smaller prune_fraction"
                )
    return found


def run(profile: Profile, request: TicketRequest) -> TicketRecord:
    """Make one run, and write its record and whatever later runs need: its weights, or the mask of the next level.

    The runs that it starts from must have been made.
    """
    folder, made = folder_of(profile), architecture(profile.model_dump_json(), request.model)
    started, began = datetime.now().astimezone(), time.monotonic()
    before = read_ticket(folder, parent(request)) if request.arm != "dense" else None
    if before and blocks(before, request):
        result = _result(made, None, [], {}, before.result.no_next)
    else:
        result = _train(made, request, folder / "weights" / request.lineage)
    result.seconds = time.monotonic() - began
    record = TicketRecord(request=request, result=result, provenance=provenance(made.plan, started))
    write_record(folder, record)
    return record


def again(profile: Profile, request: TicketRequest) -> TicketResult:
    """Make a recorded run once more, on one thread as a worker does, and leave nothing behind.

    Raises:
        LotteryError: The weights that it starts from are gone.
    """
    begins_with = needs(folder_of(profile), request)
    if gone := [path.name for path in begins_with if not path.exists()]:
        raise LotteryError(f"{', '.join(gone)}, which it starts from, is not there")
    threads = torch.get_num_threads()
    with tempfile.TemporaryDirectory(prefix="lottery-") as room:
        for path in begins_with:
            shutil.copy(path, room)
        torch.set_num_threads(1)  # the last bits depend on it
        try:
            return _train(architecture(profile.model_dump_json(), request.model), request, Path(room))
        finally:
            torch.set_num_threads(threads)


def needs(folder: Path, request: TicketRequest) -> list[Path]:
    """Return the files that a run starts from."""
    weights = folder / "weights" / request.lineage
    arm = ARMS[request.arm]
    masks = {"none": [], "ticket": [f"mask-{request.level}"], "dense": ["dense"]}[arm.mask]
    names = masks + ["rewind"] * (arm.start == "rewound weights")
    return [weights / f"{name}.safetensors" for name in names]


def _train(made: Architecture, request: TicketRequest, folder: Path) -> TicketResult:
    arm = ARMS[request.arm]
    schedule = Schedule(request.steps, request.batch_size, request.learning_rate)
    model = made.new_model(request.seed + (REINIT_SEED_OFFSET if arm.start == "another initialisation" else 0))
    try:
        masks = _masks(model, request, folder)
    except LotteryError as error:  # pruned once, a layer may be left with nothing where level by level it was not
        return _result(made, None, [], {}, str(error))
    first, curve = 0, []
    if arm.start == "rewound weights":
        first = request.rewind
        _set_weights(model, folder / "rewind.safetensors")
    elif request.arm == "dense" and request.rewind == 0:
        _keep_weights(model, folder / "rewind.safetensors")

    def observe(done: int) -> bool:
        if request.arm == "dense" and done == request.rewind:
            _keep_weights(model, folder / "rewind.safetensors")
        if done % max(1, request.steps // EVALS_PER_RUN) == 0 or done == request.steps:
            curve.append(Point(done, held_out_loss(model, made.held_out)))
        return bool(curve) and not math.isfinite(curve[-1].loss)

    if not arm.trained:
        _set_weights(model, folder / "dense.safetensors")
        apply_masks(model, masks)
        curve.append(Point(request.steps, held_out_loss(model, made.held_out)))
    else:
        train(model, made.batches(request, first), schedule, first=first, masks=masks, observe=observe)
    problem = "" if math.isfinite(curve[-1].loss) else f"diverged: the loss is not finite after {curve[-1].step} steps"
    result = _result(made, model, curve, masks, problem)
    if request.arm == "dense":
        result.checkpoint_loss = made.checkpoint_loss
        result.validation_loss = None if problem else held_out_loss(model, made.validation)
    if not problem and request.arm in ("dense", "ticket"):
        result.no_next = _keep_next(model, request, folder)
    return result


def _masks(model: nn.Module, request: TicketRequest, folder: Path) -> Masks:
    """Return the weights that an arm keeps, by layer."""
    arm = ARMS[request.arm]
    if arm.mask == "none":
        return {}
    if arm.mask == "dense":
        _set_weights(model, folder / "dense.safetensors")
        masks = mask_of(model, request.sparsity, request.scope)
    else:
        masks = load_file(folder / f"mask-{request.level}.safetensors", device=str(next(model.parameters()).device))
    return arm.change(masks, request.seed)


def _result(made: Architecture, model: nn.Module | None, curve: list[Point], masks: Masks, problem: str) -> TicketResult:
    return TicketResult(
        loss=curve[-1].loss if curve and not problem else math.inf,
        curve=curve,
        parameters=made.parameters,
        prunable_parameters=sum(made.layers.values()),
        sparsity_layers={name: 1 - int(mask.sum()) / mask.numel() for name, mask in masks.items()},
        moved=nonzero_outside(model, masks) if model else 0,
        seconds=0,
        problem=problem,
        no_next=problem,
    )


def _keep_next(model: nn.Module, request: TicketRequest, folder: Path) -> str:
    """Write the mask of the next level, and the dense model's weights; return why there is no next level, or nothing."""
    if request.arm == "dense":
        _keep_weights(model, folder / "dense.safetensors")
    following = request.model_copy(update={"arm": "ticket", "level": request.level + 1})
    try:
        masks = mask_of(model, following.sparsity, request.scope)
    except LotteryError as error:
        return str(error)
    _write(masks, folder / f"mask-{following.level}.safetensors")
    return ""


def _keep_weights(model: nn.Module, path: Path) -> None:
    _write({name: parameter.detach() for name, parameter in model.named_parameters()}, path)


def _write(tensors: dict[str, torch.Tensor], path: Path) -> None:
    atomic_write(path, save({name: tensor.cpu().contiguous() for name, tensor in tensors.items()}))


@torch.no_grad()
def _set_weights(model: nn.Module, path: Path) -> None:
    parameters = dict(model.named_parameters())
    for name, value in load_file(path, device=str(next(model.parameters()).device)).items():
        parameters[name].copy_(value)
