"""The model of each trial: the dense one of a study, and what is made of it."""

import itertools
import math
import time
from typing import NamedTuple

import torch
from safetensors import SafetensorError

from lottery.common.errors import CalibrationNotFiniteError, DivergedError, TrialMemoryError
from lottery.common.format import number
from lottery.common.progress import progress
from lottery.evaluation.evaluate import evaluate
from lottery.experiments import pruned_once
from lottery.experiments.records import Request
from lottery.models import loading, memory
from lottery.models.blocks import prunable
from lottery.models.shortage import memory_for
from lottery.pruning.pattern import Pattern
from lottery.pruning.prune import prune
from lottery.pruning.rounding import ROUNDERS, round_model
from lottery.training.recoveries import steps_to_choose
from lottery.training.recovery import recover


class Pruned(NamedTuple):
    """A pruned model, and what that took.

    Attributes:
        model: The model.
        seconds: Of pruning and rounding, passes over the calibration data included.
        recovery_seconds: Of retraining, and of choosing its learning rate.
        rate: The peak learning rate of that; ``None`` where nothing was retrained.
        moved: The share of the pruned model's zeros that retraining moved; ``None`` where it did not start from one.
        peak: Bytes of memory while it was pruned and rounded, its weights included.
        wider: What was done in a wider dtype than that of the study, for the record; empty where nothing was.
    """

    model: torch.nn.Module
    seconds: float
    recovery_seconds: float
    rate: float | None
    moved: float | None
    peak: int
    wider: str = ""


class PrunedModels:
    """Makes the model of each trial from the dense one, which it keeps where the next trial starts from it."""

    def __init__(self, study):
        self.study = study
        self.kept: torch.nn.Module | None = None  # dense
        self.weights_kept = pruned_once.Kept(study.folder)
        self.measured: dict[str, dict[str, list[float]]] = {}  # by allocations, in a dtype

    def pruned(self, request: Request, label: str) -> Pruned:
        """Return a model that is pruned, and retrained or rounded, as asked. The dense model is given up for it."""
        try:
            return self._made(self._taken(), request, label)
        except CalibrationNotFiniteError:
            if self.study.plan.dtype != torch.float16:
                raise
        # Not while the error is handled: its traceback holds the model that is given up here.
        self.study.say(f"{label}: not finite on the calibration text in float16, made again in float32")
        model = self._taken()
        with memory_for("while it is cast to float32", "a device with more memory or dtype: float32"):
            loading.cast(model, torch.float32)
        found = self._made(model, request, label)
        loading.cast(model, torch.float16)
        return found._replace(wider="it overflowed on the calibration text, so the model was pruned in float32")

    def _taken(self) -> torch.nn.Module:
        """Return the dense model and give it up."""
        model, self.kept = self.dense(), None
        return model

    def _made(self, model, request: Request, label: str) -> Pruned:
        if request.recovery:
            check_whole(self.study.plan, self.study.profile.model_name)  # it may have been resident when the study began
        cost = self._pruned_once(model, request, label)
        seconds, recovered, rate, moved, began = cost.seconds, 0.0, None, None, time.monotonic()
        if request.recovery:
            with memory_for("while retraining", "a smaller recover.batch_size or a device with more memory", whole=True):
                zeros = {name: layer.weight == 0 for name, layer in prunable(model).items()} if request.variant.one_shot else {}
                rate = self._retrain(model, request, label)
                moved = _moved(zeros, model)
            recovered = time.monotonic() - began
        peak = cost.peak
        if request.bits:
            began = time.monotonic()
            with memory.watched(self.study.plan.device, self.weights) as held:
                self._round(model, request, label)
            seconds, peak = seconds + time.monotonic() - began, max(peak, held.bytes)
        return Pruned(model, seconds, recovered, rate, moved, peak)

    @property
    def weights(self) -> int:
        """Bytes of the model's weights."""
        return sum(p.numel() for p in self.study.skeleton.parameters()) * self.study.plan.dtype.itemsize

    def dense(self) -> torch.nn.Module:
        """Return the dense model in its home."""
        if self.kept is None:
            with memory_for("while loading the model", "a device with more memory or dtype: float16"):
                self.kept = loading.load(self.study.checkpoint, self.study.plan)
        return self._at(self.study.plan.home, self.kept)

    def for_generation(self, model) -> torch.nn.Module:
        """Move a model to where it generates."""
        return self._at(self.study.plan.generates_on, model)

    def _at(self, device: torch.device, model) -> torch.nn.Module:
        return model.to(device) if self.study.plan.streamed else model  # others never move, and those of accelerate cannot

    def _pruned_once(self, model, request: Request, label: str) -> pruned_once.Cost:
        """Prune a dense model in its home, or give it the weights that the last trial left for this one; return what pruning took."""
        study, again = self.study, pruned_once.asked_next(self.study, request)
        if cost := self.weights_kept.restore(model, request):
            study.say(f"{label}: starts from the weights that the trial before it pruned")
        else:
            began = time.monotonic()
            with memory.watched(study.plan.device, self.weights) as held:
                self._prune(model, request, label)
            cost = pruned_once.Cost(time.monotonic() - began, held.bytes)
        if not again:
            self.weights_kept.drop()
        elif self.weights_kept.cost is not cost:
            try:
                self.weights_kept.keep(model, request, cost)
            except (OSError, SafetensorError) as error:
                study.say(f"{label}: its weights cannot be kept for the next trial ({error}), which prunes again")
        return cost

    def _prune(self, model, request: Request, label: str) -> None:
        """Prune a dense model in its home."""
        study, progress = self.study, self._progress(f"{label}: pruned block")
        cure = "fewer calibration_samples, another method (magnitude needs least) or a device with more memory"
        with memory_for(f"while pruning by {request.variant.label}", cure):
            samples = study.calibration.tokens if request.variant.calibrated else None
            measured = self.measured.setdefault(str(model.dtype), {})
            prune(model, request.variant, samples, seed=request.seed, device=study.plan.streams_to, progress=progress, measured=measured)

    def _retrain(self, model, request: Request, label: str) -> float:
        """Retrain a model in its home, from the dense model towards the asked zeros, or from a pruned one towards those that it has.

        Returns:
            The peak learning rate: of several the one with the lowest cross-entropy on held-back text after an eighth of the steps. Where
            that one diverges later, the next best.

        Raises:
            DivergedError: At every learning rate.
        """
        study, variant = self.study, request.variant
        target = {} if variant.one_shot else {"sparsity": variant.sparsity}
        if request.recovery != "masked":
            target["pattern"] = Pattern.parse(variant.pattern)
        if request.loss == "distillation":
            target["teacher"] = self._at(study.plan.home, loading.load(study.checkpoint, study.plan))
        windows, size, rates = study.recovery.tokens, request.recover_batch_size, request.recover_learning_rate

        def retrain(windows: torch.Tensor, rate: float, progress) -> None:
            recover(model, windows, size, rate, request.recovery, **target, progress=progress)

        layers, start = prunable(model), {}

        def begin_again() -> None:
            with torch.no_grad():
                for name, layer in layers.items():
                    layer.weight.copy_(start[name])

        if len(rates) > 1:
            start = {name: layer.weight.detach().to("cpu", copy=True) for name, layer in layers.items()}
            first = windows[: steps_to_choose(request.recover_steps) * size]
            rates = self._best_first(model, retrain, begin_again, first, rates, label)
        for rate, worse in itertools.zip_longest(rates, rates[1:]):
            try:
                retrain(windows, rate, self._progress(f"{label}: retraining, step"))
                return rate
            except DivergedError:
                if worse is None:
                    raise
            study.say(f"{label}: diverged at a learning rate of {rate:g}; goes on with {worse:g}")
            begin_again()

    def _best_first(self, model, retrain, begin_again, windows: torch.Tensor, rates: list[float], label: str) -> list[float]:
        """Return the learning rates with a finite cross-entropy on held-back text, the best first, the lower one of equals before.

        The model is left as it was.

        Raises:
            DivergedError: There is none.
        """
        study, losses = self.study, []
        for rate in sorted(rates):
            try:
                retrain(windows, rate, self._progress(f"{label}: learning rate {rate:g}, step"))
                scored, _ = evaluate(model, study.recovery.held_back.numpy(), device=study.plan.streams_to)
                loss = float(scored.nll.mean()) / (study.recovery.held_back.shape[1] - 1)
            except DivergedError:
                loss = math.inf
            losses.append(math.inf if math.isnan(loss) else loss)
            study.say(f"{label}: learning rate {rate:g}, loss {number(losses[-1])} on held-back text after {len(windows):,} windows")
            begin_again()
        if min(losses) == math.inf:
            tried = ", ".join(f"{rate:g}" for rate in sorted(rates))
            raise DivergedError(f"recover: the retraining diverged at every learning rate of {tried}; lower recover.learning_rate")
        return [rate for loss, rate in sorted(zip(losses, sorted(rates), strict=True)) if loss < math.inf]

    def _round(self, model, request: Request, label: str) -> None:
        """Round a model in its home."""
        study = self.study
        with memory_for("while rounding", "fewer calibration_samples, rounder: rtn, or a device with more memory"):
            samples = study.calibration.tokens if ROUNDERS[request.rounder].calibrated else None
            progress = self._progress(f"{label}: rounded block")
            round_model(model, request.rounder, request.bits, samples, device=study.plan.streams_to, progress=progress)

    def _progress(self, label: str):
        return progress(self.study.say, label)


def check_whole(plan: loading.Plan, name: str) -> None:
    """Check that a model can be retrained where a plan puts it. If it is streamed, that would happen in main memory, and take days.

    Args:
        plan: Where and how the model runs.
        name: The model's name.

    Raises:
        TrialMemoryError: It is streamed to its device.
    """
    if plan.streamed and plan.device.type != "cpu":
        raise TrialMemoryError(
            f"memory: {name} is streamed to {plan.device} ({plan.memory_reason}), and recover trains a whole model on its device, at 16"
            " bytes a weight or more; take memory: resident where it fits, or device: cpu"
        )


def _moved(zeros: dict[str, torch.Tensor], model) -> float | None:
    """Return the share of some zeros, masks of layers, where a model has none any more; ``None`` without zeros."""
    layers, count = prunable(model), sum(int(mask.sum()) for mask in zeros.values())
    return sum(int((layers[name].weight[mask] != 0).sum()) for name, mask in zeros.items()) / count if count else None
