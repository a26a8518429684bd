"""Scores a dense model by each protocol that people use: ``python -m lottery.perplexity_runs PROFILE [MODEL]``. What is recorded stays."""

import argparse
import math
import re
import sys
import time
from contextlib import nullcontext
from datetime import datetime
from typing import NamedTuple

import torch
from accelerate.utils.memory import should_reduce_batch_size

from lottery import loading
from lottery.checkpoints import checkpoint
from lottery.corpus import Corpus, corpus, windows
from lottery.errors import LotteryError
from lottery.files import write_whole
from lottery.lifecycle import check_stop, held
from lottery.likelihood import Head, likelihoods
from lottery.params import Profile, load_profile
from lottery.paths import outputs
from lottery.perplexity_protocols import FOLDER, MEASUREMENT, Protocol, ProtocolRecord, Request, Result, missing, protocols
from lottery.provenance import provenance
from lottery.records import read_json
from lottery.tables import number

_HEADING = re.compile(r"^ = [^=].*[^=] = \n?$")  # a page's title; sections have more signs


def stretch(tokenizer, text: Corpus, window: int, max_windows: int | None) -> Corpus:
    """The rows of a text up to a few tokens behind the standard protocol's last window, so that every protocol scores the same.

    A few more, because a window may end in the blank line between two rows, which a row that ends there no longer has.
    """
    count = len(windows(tokenizer, text, window, max_windows).tokens)
    ends = tokenizer(text.text, return_offsets_mapping=True, verbose=False).offset_mapping
    left, rows = ends[min(count * window + min(8, window - 1), len(ends)) - 1][1], []
    for row in text.rows:
        if left <= 0:
            break
        rows.append(row[:left])
        left -= len(row) + 2  # the blank line between rows
    return Corpus(text.name, tuple(rows))


def pieces(text: Corpus, joined: str) -> list[str]:
    """What is tokenized in one piece each."""
    if joined == "blank lines":
        return [text.text]
    if joined == "lines":
        return [row.strip() for row in text.rows if row.strip()]
    if joined == "as it is":
        return ["".join(map(_line, text.rows))]
    pages: list[list[str]] = [[]]
    for row in text.rows:
        if _HEADING.match(row):
            pages.append([])
        pages[-1].append(_line(row))
    return [page for page in map("".join, pages) if page.strip()]


def _line(row: str) -> str:
    """A row as WikiText's file has it, where a blank line holds a space."""
    return row if row.endswith("\n") else f"{row or ' '}\n"


def detokenized(page: str) -> str:
    """A page of WikiText with its signs where writers put them, by the rules of lm-evaluation-harness's task, oddities included."""
    for pattern, replacement in _RULES:
        page = re.sub(pattern, replacement, page)
    return page


# In this order. Some do more than was meant, such as the apostrophes that are taken for quotation marks: that is the protocol.
_RULES = [
    (r"s '", "s'"),
    (r" @([-,.])@ ", r"\1"),  # numbers and compounds
    *[(rf" {re.escape(sign)} ", f"{sign} ") for sign in ":;.!?,"],
    *[(rf"{a}\s*([^{b}]*?)\s*{b}", rf"{a[-1]}\1{b[-1]}") for a, b in ((r"\(", r"\)"), (r"\[", r"\]"), ("{", "}"), ('"', '"'), ("'", "'"))],
    ("= = = =", "===="), ("= = =", "==="), ("= =", "=="),
    (" ° ", "°"), (" \n", "\n"), ("\n ", "\n"), (" N ", " 1 "), (" 's", "'s"),
]  # fmt: skip


def cut(ids: list[int], protocol: Protocol, prefix: int | None) -> list[tuple[list[int], list[int]]]:
    """The windows of a piece: for each the tokens that are context only, and those that are scored.

    The rest of a long piece that fills no window is dropped, as is usual, where the text is one piece; lines and pages are scored whole.
    """
    size, half = protocol.window, protocol.window // 2
    starts = range(0, len(ids), size)
    if protocol.overlap:
        found, scored = [], 1
        for start in range(0, len(ids), half):
            stop = min(start + size, len(ids))
            found.append((ids[start:scored], ids[scored:stop]))
            scored = stop
            if stop == len(ids):
                break
        return [pair for pair in found if pair[1]]
    if protocol.joined == "pages":  # every token is scored, a page's last window with as much context as fits
        ends = [min(start + size, len(ids)) for start in starts]
        contexts = [ids[stop - size - 1 : start] if start else [prefix] for start, stop in zip(starts, ends, strict=True)]
        return [(context, ids[start:stop]) for context, start, stop in zip(contexts, starts, ends, strict=True)]
    if protocol.second_half:
        found = [(ids[start : start + half + 1], ids[start + half + 1 : start + size]) for start in starts if start + size <= len(ids)]
        return [([prefix, *context[1:]] if prefix is not None else context, scored) for context, scored in found]
    if protocol.prefix:
        return [([prefix], rest) for start in range(0, len(ids), size - 1) if len(rest := ids[start : start + size - 1]) == size - 1]
    long = protocol.joined in ("blank lines", "as it is")
    pairs = [(ids[start : start + 1], ids[start + 1 : start + size]) for start in starts]
    return [(context, scored) for context, scored in pairs if scored and (not long or len(scored) == size - 1)]


def measure(profile: Profile) -> list[ProtocolRecord]:
    """Scores the model that a profile names by every protocol that is not recorded yet. A protocol that this model cannot be scored by is
    recorded as skipped, with its reason.

    **Raises** ``LotteryError`` as a study of the model does, ``StoppedError`` between protocols.
    """
    model_of = checkpoint(profile).check()
    tokenizer, whole = loading.tokenizer(model_of), corpus(profile.text)
    part, folder = stretch(tokenizer, whole, profile.window, profile.max_windows), outputs(profile.profile) / profile.model_name
    skeleton = loading.skeleton(model_of)
    longest = getattr(skeleton.config, "max_position_embeddings", None) or math.inf
    wanted, found, loaded = protocols(profile.window, profile.max_windows), [], {}
    with held(folder) if missing(folder, profile.model_copy(update={"protocols": True})) else nullcontext():
        for protocol in wanted:
            text = whole if protocol.whole else part
            request = Request(measurement=MEASUREMENT, checkpoint=model_of.identity, text_sha256=text.sha256, protocol=protocol)
            path = folder / FOLDER / f"{re.sub(r'[^a-z0-9]+', '-', protocol.name)}.json"
            record = read_json(ProtocolRecord, path)
            if record is None or record.request != request:
                check_stop(folder, len(found), len(wanted))
                started, began = datetime.now().astimezone(), time.monotonic()
                plan = loading.plan(profile.model_copy(update={"dtype": protocol.dtype, "memory": "resident"}), skeleton)
                scored, skipped = Scored([], 0, 0), _impossible(protocol, longest, tokenizer)
                if not skipped:
                    try:
                        if protocol.dtype not in loaded:
                            loaded.clear()  # one at a time
                            loaded[protocol.dtype] = loading.load(model_of, plan)
                        scored = _score(loaded[protocol.dtype], tokenizer, text, protocol)
                    except (RuntimeError, MemoryError) as error:
                        if not (isinstance(error, MemoryError) or should_reduce_batch_size(error)):
                            raise
                        skipped = f"out of memory on {plan.device}"
                result = Result(**scored._asdict(), seconds=time.monotonic() - began, skipped=skipped)
                record = ProtocolRecord(model=profile.model_name, request=request, result=result, provenance=provenance(plan, started))
                write_whole(path, record.model_dump_json(indent=1) + "\n")
            found.append(record)
            said = record.result.skipped or f"{number(record.result.perplexity)} ({record.result.seconds:.0f} s)"
            print(f"{profile.model_name}: {len(found)} of {len(wanted)}, {protocol.name}: {said}", flush=True)
    return found


def _impossible(protocol: Protocol, longest: float, tokenizer) -> str:
    """Why a model cannot be scored by a protocol; empty where it can."""
    if protocol.window > longest:
        return f"the model was made for at most {longest:,} tokens"
    if protocol.joined == "pages" and _prefix(tokenizer, protocol) is None:
        return "its tokenizer has no token that a page could follow"
    return "its tokenizer has no beginning-of-sequence token" if protocol.prefix and tokenizer.bos_token_id is None else ""


def _prefix(tokenizer, protocol: Protocol) -> int | None:
    """The token in front of a window: for llama.cpp's protocol only where the tokenizer adds one by itself, as it does."""
    first = tokenizer.bos_token_id
    if protocol.second_half:
        return first if tokenizer("").input_ids[:1] == [first] else None
    return tokenizer.eos_token_id if first is None else first


class Scored(NamedTuple):
    """``windows``: nats and scored tokens of each; ``tokens`` and ``words`` of the text that they were cut from."""

    windows: list[tuple[float, int]]
    tokens: int
    words: int


def _score(model, tokenizer, text: Corpus, protocol: Protocol) -> Scored:
    found, tokens, first, head = [], 0, _prefix(tokenizer, protocol), Head(model)
    given = pieces(text, protocol.joined)
    pages = protocol.joined == "pages"
    for piece in map(detokenized, given) if pages else given:
        ids = tokenizer(
            piece, add_special_tokens=not protocol.prefix, verbose=False
        ).input_ids  # else what it adds by itself, as in the study
        tokens += len(ids)
        for context, scored in cut(ids, protocol, first):
            found.append((_nats(model, head, context, scored), len(scored)))
    # The harness counts the words of its pages before it detokenizes them, and empty ones at their ends.
    words = sum(len(re.split(r"\s+", page)) for page in given) if pages else len(text.text.split())
    return Scored(found, tokens, words)


@torch.inference_mode()
def _nats(model, head: Head, context: list[int], scored: list[int]) -> float:
    """The negative log-likelihood of tokens after others; a slice of logits at a time, since those of a long window are gigabytes."""
    ids = torch.tensor([context + scored], device=model.get_input_embeddings().weight.device)
    hidden, start = model.base_model(input_ids=ids, use_cache=False).last_hidden_state, len(context) - 1
    nats = float(likelihoods(head, [[hidden[:, start:]]], [ids[:, start:]])[0].nll)
    return nats if math.isfinite(nats) else math.inf


def main() -> int:
    parser = argparse.ArgumentParser(description="Score dense models by each protocol that people use.")
    parser.add_argument("profile", help="the name of a file in params/")
    parser.add_argument("model", nargs="?", help="a key of its checkpoints; all of them unless given")
    given = parser.parse_args()
    try:
        profile = load_profile(given.profile)
        for name in [given.model] if given.model else profile.checkpoints:
            measure(profile.model_copy(update={"model": name}))
    except LotteryError as error:
        print(f"{type(error).__name__}: {error}", file=sys.stderr)
        return 1
    return 0


if __name__ == "__main__":
    sys.exit(main())
