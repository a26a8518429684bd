"""Train the stand-ins from scratch: ``python -m lottery stand-ins [NAME …] [--steps N] [--out FOLDER]``.

All of them take some hours on one core; to use more cores, start one process per name. Text comes fresh from the story world, so no window
is seen twice, and training and test loss measure the same thing. Each model gets one thread: the sums in a matrix product depend on the
number of threads, and with them the last bits of the weights.
"""

import copy
import json
import math
import re
import shutil
import time
from itertools import islice
from pathlib import Path

import torch
from tokenizers import Tokenizer, decoders, models, pre_tokenizers, trainers
from transformers import AutoModelForCausalLM, PreTrainedTokenizerFast

from lottery.common.errors import LotteryError
from lottery.data.stories.lexicon import BOYS, GIRLS
from lottery.data.stories.world import stories
from lottery.models.checkpoints import STAND_INS
from lottery.models.standins.architectures import ARCHITECTURES, CONTEXT
from lottery.training.trainer import Schedule, held_out_loss
from lottery.training.trainer import train as run

TRAIN_SEED, TEST_SEED, WEIGHT_SEED = 1, 2, 3
TOKENIZER_STORIES = 4000
TEST_WINDOWS = 64
JUDGED_STORIES, BEGINNING, CONTINUATION = 60, 120, 120  # stories, tokens, tokens


SCHEDULES = {  # the smaller the model, the longer and the faster
    "mistral-7b": Schedule(2000, 8, 3e-3),
    "qwen2.5-7b": Schedule(2000, 8, 3e-3),
    "smollm2-1.7b": Schedule(7000, 4, 5e-3),
    "phi-2": Schedule(2000, 8, 3e-3),
    "qwen2.5-0.5b": Schedule(9000, 4, 6e-3),
}


def train_tokenizer(vocab_size: int) -> PreTrainedTokenizerFast:
    """Train a byte-level BPE tokenizer, so that every text has tokens; the one special token is 0."""
    tokenizer = Tokenizer(models.BPE())
    tokenizer.pre_tokenizer = pre_tokenizers.ByteLevel(add_prefix_space=False)
    tokenizer.decoder = decoders.ByteLevel()
    trainer = trainers.BpeTrainer(
        vocab_size=vocab_size,
        special_tokens=["<|endoftext|>"],
        initial_alphabet=sorted(pre_tokenizers.ByteLevel.alphabet()),
        show_progress=False,
    )
    tokenizer.train_from_iterator(islice(stories(TRAIN_SEED, test=False), TOKENIZER_STORIES), trainer)
    return PreTrainedTokenizerFast(
        tokenizer_object=tokenizer, bos_token="<|endoftext|>", eos_token="<|endoftext|>", model_max_length=CONTEXT
    )


def windows(tokenizer, seed: int, *, test: bool):
    """Yield endless windows of ``CONTEXT`` tokens from stories joined by blank lines, as the test text is joined."""
    tokens: list[int] = []
    for text in stories(seed, test=test):
        tokens += tokenizer.encode(text + "\n\n", add_special_tokens=False)
        while len(tokens) >= CONTEXT:
            yield tokens[:CONTEXT]
            tokens = tokens[CONTEXT:]


@torch.no_grad()
def known_persons(model, tokenizer) -> float:
    """Return the share of persons in greedy continuations of test stories that the beginning had introduced.

    In a true story nearly every person was introduced before, since new persons never come late; a model manages it only if it carries
    names on. So this is a plain count of whether its text is connected. It is 0 where nobody is named.
    """
    model.eval()
    starts = [
        tokenizer.encode(text, add_special_tokens=False)[:BEGINNING] for text in islice(stories(TEST_SEED, test=True), JUDGED_STORIES)
    ]
    prompts = torch.tensor(starts)
    written = model.generate(
        prompts,
        attention_mask=torch.ones_like(prompts),
        max_new_tokens=CONTINUATION,
        min_new_tokens=CONTINUATION,
        do_sample=False,
        pad_token_id=0,
    )
    known = named = 0
    for start, tokens in zip(starts, written, strict=True):
        introduced = set(re.findall(r"\w+", tokenizer.decode(start)))
        persons = [word for word in re.findall(r"\w+", tokenizer.decode(tokens[BEGINNING:])) if word in {*GIRLS, *BOYS}]
        named += len(persons)
        known += sum(person in introduced for person in persons)
    return known / max(named, 1)


def train(name: str, folder: Path, steps: int | None = None) -> None:
    """Train one stand-in and write its folder: weights in float16, tokenizer, and ``training.json`` with its loss curve.

    Args:
        name: The stand-in's name.
        folder: Where to write; an existing folder is replaced.
        steps: Shortens the schedule, for a trial.
    """
    schedule = SCHEDULES[name]._replace(**({"steps": steps} if steps else {}))
    torch.set_num_threads(1)
    torch.manual_seed(WEIGHT_SEED)
    config = copy.deepcopy(ARCHITECTURES[name])  # saving a model writes its dtype into its configuration
    tokenizer = train_tokenizer(config.vocab_size)
    model = AutoModelForCausalLM.from_config(config, attn_implementation="sdpa").float()
    test = torch.tensor(list(islice(windows(tokenizer, TEST_SEED, test=True), TEST_WINDOWS)))
    stream = windows(tokenizer, TRAIN_SEED, test=False)
    batches = (torch.tensor(list(islice(stream, schedule.batch))) for _ in range(schedule.steps))
    curve, started = [], time.monotonic()

    def observe(done: int) -> None:
        if done % max(1, schedule.steps // 25) == 0 or done == schedule.steps:
            reached, taken = math.exp(held_out_loss(model, test)), time.monotonic() - started
            curve.append({"step": done, "test_perplexity": round(reached, 4)})
            print(f"{name}: step {done}/{schedule.steps}, test perplexity {reached:.3f}, {taken:.0f} s", flush=True)

    run(model, batches, schedule, observe=observe)
    part = folder.with_name(folder.name + ".part")
    shutil.rmtree(part, ignore_errors=True)
    model.half().save_pretrained(part)
    tokenizer.save_pretrained(part)
    facts = {
        "seeds": {"train": TRAIN_SEED, "test": TEST_SEED, "weights": WEIGHT_SEED},
        **schedule._asdict(), "tokens": schedule.steps * schedule.batch * CONTEXT, "torch": torch.__version__,
        "known_persons": round(known_persons(model.float(), tokenizer), 3), "curve": curve,
    }  # fmt: skip
    (part / "training.json").write_text(json.dumps(facts, indent=1) + "\n")
    shutil.rmtree(folder, ignore_errors=True)
    part.rename(folder)


def train_all(names: list[str], steps: int | None = None, out: Path | None = None) -> None:
    """Train the named stand-ins, or all of them, over the shipped ones unless ``out`` is given.

    Args:
        names: Stand-ins to train; an empty list trains all.
        steps: Number of steps; ``None`` takes each stand-in's own.
        out: Folder to write to; ``None`` writes over the shipped stand-ins.

    Raises:
        LotteryError: A name is unknown.
    """
    if unknown := set(names) - set(ARCHITECTURES):
        raise LotteryError(f"stand-in: given {', '.join(sorted(unknown))}; allowed: {', '.join(ARCHITECTURES)}")
    out = out or STAND_INS
    out.mkdir(parents=True, exist_ok=True)
    for name in names or ARCHITECTURES:
        train(name, out / name, steps)
