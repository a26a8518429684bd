"""Scores a dense model by each protocol that people use: ``python -m lottery.perplexity_runs PROFILE [MODEL]``. What is recorded stays."""

import argparse
import math
import re
import sys
import time
from datetime import datetime

from lottery import loading
from lottery.checkpoints import checkpoint
from lottery.corpus import Corpus, corpus, windows
from lottery.errors import LotteryError
from lottery.files import write_whole
from lottery.generation import bits
from lottery.params import Profile, load_profile
from lottery.paths import outputs
from lottery.perplexity_protocols import FOLDER, MEASUREMENT, Protocol, ProtocolRecord, Request, Result, protocols
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
    if joined == "as it is":
        return ["".join(row or "\n" for row in text.rows)]
    if joined == "lines":
        return [row.strip() for row in text.rows if row.strip()]
    pages: list[list[str]] = [[]]
    for row in text.rows:
        if _HEADING.match(row):
            pages.append([])
        pages[-1].append(row or "\n")
    return [detokenized("".join(page)) for page in pages if "".join(page).strip()]


def detokenized(text: str) -> str:
    """WikiText's spaced-out signs put back where writers put them, in the manner of lm-evaluation-harness."""
    text = re.sub(r" ?@([-,.])@ ?", r"\1", text)  # numbers and compounds
    text = re.sub(r" ([.,:;!?)\]}])", r"\1", text)
    text = re.sub(r"([(\[{]) ", r"\1", text)
    text = re.sub(r'" ([^"\n]*?) "', r'"\1"', text)
    text = re.sub(r" '(s|t|re|ve|ll|d|m)\b", r"'\1", text)
    return re.sub(r" ?\n ?", "\n", text)


def cut(ids: list[int], protocol: Protocol, prefix: int | None) -> list[tuple[list[int], list[int]]]:
    """The windows of a piece: for each the tokens that are context only, and those that are scored.

    The rest of a long piece that fills no window is dropped, as is usual, where the text is one piece; lines and pages are scored whole.
    """
    size, long = protocol.window, protocol.joined in ("blank lines", "as it is")
    if protocol.overlap:
        found, scored = [], 1
        for start in range(0, len(ids), size // 2):
            stop = min(start + size, len(ids))
            found.append((ids[start:scored], ids[scored:stop]))
            scored = stop
            if stop == len(ids):
                break
        return [pair for pair in found if pair[1]]
    if protocol.prefix or protocol.joined == "pages":  # every token is scored, after the prefix or the token before
        first = ids[:1] if prefix is None else [prefix]
        rest = ids[1:] if prefix is None else ids
        steps = range(0, len(rest), size - 1)
        found = [(first if start == 0 or protocol.prefix else rest[start - 1 : start], rest[start : start + size - 1]) for start in steps]
    else:
        found = [(ids[start : start + 1], ids[start + 1 : start + size]) for start in range(0, len(ids), size)]
    return [(context, scored) for context, scored in found if scored and (not long or len(scored) == size - 1)]


def measure(profile: Profile) -> list[ProtocolRecord]:
    """Scores the model that a profile names by every protocol that is not recorded yet. A protocol that this model cannot be scored by is
    recorded as skipped, with its reason.

    **Raises** ``LotteryError`` as a study of the model does.
    """
    model_of = checkpoint(profile).check()
    tokenizer, text = loading.tokenizer(model_of), corpus(profile.text)
    scored, folder = stretch(tokenizer, text, profile.window, profile.max_windows), outputs(profile.profile) / profile.model_name / FOLDER
    skeleton = loading.skeleton(model_of)
    longest = getattr(skeleton.config, "max_position_embeddings", None) or math.inf
    found, loaded = [], {}
    for number_, protocol in enumerate(protocols(profile.window), 1):
        request = Request(measurement=MEASUREMENT, checkpoint=model_of.identity, text_sha256=scored.sha256, protocol=protocol)
        path = folder / f"{re.sub(r'[^a-z0-9]+', '-', protocol.name)}.json"
        record = read_json(ProtocolRecord, path)
        if record is None or record.request != request:
            started, began = datetime.now().astimezone(), time.monotonic()
            plan = loading.plan(profile.model_copy(update={"dtype": protocol.dtype, "memory": "resident"}), skeleton)
            skipped = _impossible(protocol, longest, tokenizer)
            if not skipped and protocol.dtype not in loaded:
                loaded = {protocol.dtype: loading.load(model_of, plan)}  # one at a time
            sums = [] if skipped else _score(loaded[protocol.dtype], tokenizer, scored, protocol)
            result = Result(windows=sums, words=len(scored.text.split()), seconds=time.monotonic() - began, skipped=skipped)
            record = ProtocolRecord(model=profile.model_name, request=request, result=result, provenance=provenance(plan, started))
            write_whole(path, record.model_dump_json(indent=1) + "\n")
        said = record.result.skipped or f"{number(record.result.perplexity)} ({record.result.seconds:.0f} s)"
        print(f"{profile.model_name}: {number_} of {len(protocols(profile.window))}, {protocol.name}: {said}", flush=True)
        found.append(record)
    return found


def _impossible(protocol: Protocol, longest: float, tokenizer) -> str:
    """Why a model cannot be scored by a protocol; empty where it can."""
    if protocol.window > longest:
        return f"the model was made for at most {longest:,} tokens"
    return "its tokenizer has no beginning-of-sequence token" if protocol.prefix and tokenizer.bos_token_id is None else ""


def _score(model, tokenizer, text: Corpus, protocol: Protocol) -> list[tuple[float, int]]:
    """Nats and scored tokens of each window."""
    sums, first = [], tokenizer.bos_token_id if tokenizer.bos_token_id is not None else tokenizer.eos_token_id
    for piece in pieces(text, protocol.joined):
        own = not protocol.prefix and protocol.joined in ("blank lines", "as it is")  # what a tokenizer adds by itself, as in the study
        ids = tokenizer(piece, add_special_tokens=own, verbose=False).input_ids
        for context, scored in cut(ids, protocol, first):
            nats = bits(model, context, scored) * math.log(2)
            sums.append((nats if math.isfinite(nats) else math.inf, len(scored)))
    return sums


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
