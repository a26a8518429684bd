"""Training steps of the stand-ins beside a bare PyTorch loop of the same model, and with a mask beside without."""

import copy
from functools import partial

import torch
from transformers import AutoModelForCausalLM

from benchmarks.alternate import alternate, arguments, publish
from lottery.models.standins.architectures import ARCHITECTURES, CONTEXT
from lottery.training.masks import mask_of
from lottery.training.trainer import Schedule, rate, train

SCHEDULE, SPARSITY = Schedule(3, 8, 3e-3), 0.8  # short runs that take turns often: what disturbs the machine lasts longer than they


def bare(model, batches: torch.Tensor) -> None:
    """What a script does, no more: the same optimizer, schedule and clipping."""
    optimizer = torch.optim.AdamW(model.parameters(), betas=(0.9, 0.95), weight_decay=0.1, fused=True)
    for step, batch in enumerate(batches):
        for group in optimizer.param_groups:
            group["lr"] = rate(step, SCHEDULE)
        loss = model(input_ids=batch, labels=batch, use_cache=False).loss
        loss.backward()
        torch.nn.utils.clip_grad_norm_(model.parameters(), 1.0)
        optimizer.step()
        optimizer.zero_grad(set_to_none=True)


def compare(name: str, device: torch.device, rounds: int) -> dict:
    torch.manual_seed(0)
    config = ARCHITECTURES[name]
    model = AutoModelForCausalLM.from_config(copy.deepcopy(config)).float().to(device)
    masks = mask_of(model, SPARSITY, "global")
    batches = torch.randint(1, config.vocab_size, (SCHEDULE.steps, SCHEDULE.batch, CONTEXT), device=device)
    contestants = {
        "ours": partial(train, batches=batches, schedule=SCHEDULE),
        "masked": partial(train, batches=batches, schedule=SCHEDULE, masks=masks),
        "bare": partial(bare, batches=batches),
    }
    seconds, _, _ = alternate(contestants, lambda: copy.deepcopy(model), device, rounds)
    return {
        "model": name,
        **{f"{contestant}_seconds_a_step": taken / SCHEDULE.steps for contestant, taken in seconds.items()},
        "ours_times_bare": seconds["ours"] / seconds["bare"],
        "masked_times_ours": seconds["masked"] / seconds["ours"],
    }


if __name__ == "__main__":
    device, rounds = arguments(15)
    rows = [compare(name, device, rounds) for name in ARCHITECTURES]
    publish("training", device, rounds, rows, schedule=SCHEDULE._asdict(), context=CONTEXT, sparsity=SPARSITY)
