"""Score a dense model by each protocol in use: ``python -m lottery protocols PROFILE [MODEL]``. What is recorded stays."""

import math
import re
import time
from contextlib import nullcontext
from datetime import datetime

import torch

from lottery.common.errors import NoRoomError
from lottery.common.files import atomic_write
from lottery.common.format import number
from lottery.common.paths import outputs
from lottery.config.checkpoint import checkpoint
from lottery.config.profile import Profile
from lottery.data.corpus import Corpus, corpus, windows
from lottery.evaluation.likelihood import Head, likelihoods
from lottery.experiments.lifecycle import held, raise_if_stop_requested
from lottery.experiments.protocols.records import FOLDER, Protocol, ProtocolRecord, Request, Result, recorded, wanted
from lottery.experiments.provenance import provenance
from lottery.models import loading, memory
from lottery.models.checkpoints import Checkpoint
from lottery.models.devices import describe
from lottery.models.shortage import is_about_memory

_HEADING = re.compile(r"^ = [^=].*[^=] = \n?$")  # a page's title; sections have more signs


def stretch(tokenizer, text: Corpus, window: int, max_windows: int | None) -> Corpus:
    """Return the rows of a text up to a few tokens past the standard protocol's last window, so that every protocol scores the same.

    The few extra tokens are there because a window may end in the blank line between two rows, which a row that ends there no longer has.

    Args:
        tokenizer: The model's tokenizer.
        text: The whole text.
        window: Tokens in a window of the standard protocol.
        max_windows: How many windows are scored; ``None`` for the whole text.
    """
    count = len(windows(tokenizer, text, window, max_windows).tokens)
    ends = [end for _, end in tokenizer(text.text, return_offsets_mapping=True, verbose=False).offset_mapping]
    left, rows = max(ends[: count * window + min(8, window - 1)]), []  # a token that is added at the end ends nowhere
    for row in text.rows:
        if left <= 0:
            break
        rows.append(row[:left])
        left -= len(row) + 2  # the blank line between rows
    return Corpus(text.name, tuple(rows))


def pieces(text: Corpus, joined: str) -> list[str]:
    """Return what is tokenized in one piece each."""
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
    """Return a row as WikiText's file has it, where a blank line holds a space."""
    return row if row.endswith("\n") else f"{row or ' '}\n"


def detokenized(page: str) -> str:
    """Return a page of WikiText with its signs where writers put them, by the rules of lm-evaluation-harness's task, oddities included."""
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
    """Cut a piece into windows, each a pair: the tokens that are only context, and those that are scored.

    The rest of a long piece that fills no window is dropped, as is usual, where the text is one piece and windows do not overlap. Lines and
    pages are scored whole.

    Args:
        ids: The tokens of the piece.
        protocol: How to cut it.
        prefix: The token in front of a window, or ``None``.
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
    """Score the model that a profile names by every protocol that is not recorded yet.

    Where this model cannot be scored by a protocol, or not on this machine, the protocol is recorded as skipped, with the reason.

    Args:
        profile: The profile, with its model named.

    Returns:
        The records of all protocols, in their order.

    Raises:
        LotteryError: As a study of the model raises it.
        StoppedError: The run was asked to stop between protocols.
        HeldError: Another run is at work on the model.
    """
    model_of, whole = checkpoint(profile).check(), corpus(profile.text)
    folder = outputs(profile.profile) / profile.model_name
    asked = wanted(profile, model_of.identity, whole.sha256)
    found = {record.request: record for record in recorded(folder, asked)}
    with held(folder) if len(found) < len(asked) else nullcontext():
        runs = None
        for number_, request in enumerate(asked, 1):
            if request not in found:
                raise_if_stop_requested(folder, len(found), len(asked))
                runs = runs or _Runs(profile, model_of, whole)
                found[request] = runs.score(request)
                atomic_write(folder / FOLDER / request.file_name, found[request].model_dump_json(indent=1) + "\n")
            result = found[request].result
            said = result.skipped or f"{number(result.perplexity)} ({result.seconds:.0f} s)"
            print(f"{profile.model_name}: {number_} of {len(asked)}, {request.protocol.name}: {said}", flush=True)
    return [found[request] for request in asked]


class _Runs:
    """What the runs of one model share: its tokenizer, the stretch of text, and the model itself in one dtype at a time."""

    def __init__(self, profile: Profile, model_of: Checkpoint, whole: Corpus):
        self.profile, self.model_of, self.whole = profile, model_of, whole
        self.skeleton, self.tokenizer = loading.skeleton(model_of), loading.tokenizer(model_of)
        self.part = stretch(self.tokenizer, whole, profile.seq_len, profile.max_windows)
        self._loaded: tuple[str, loading.Plan, torch.nn.Module | None, str] | None = None

    def score(self, request: Request) -> ProtocolRecord:
        started, began, protocol = datetime.now().astimezone(), time.monotonic(), request.protocol
        plan, model, skipped = self._in(protocol.dtype)
        skipped, scored = skipped or self._impossible(protocol), {"windows": [], "tokens": 0, "words": 0}
        if not skipped:
            try:
                scored = _score(model, self.tokenizer, self.whole if protocol.whole else self.part, protocol)
            except (RuntimeError, MemoryError) as error:
                if not is_about_memory(error):
                    raise
                skipped = f"out of memory on {describe(plan.device)}"
            else:
                skipped = "" if scored["windows"] else f"no {protocol.window:,} tokens together in this text"
        result = Result(**scored, seconds=time.monotonic() - began, skipped=skipped)
        return ProtocolRecord(model=self.profile.model_name, request=request, result=result, provenance=provenance(plan, started))

    def _in(self, dtype: str) -> tuple[loading.Plan, torch.nn.Module | None, str]:
        """Return the plan and the model in a dtype, or why it cannot be loaded; the one before is released first."""
        if self._loaded is None or self._loaded[0] != dtype:
            self._loaded = None
            memory.release()
            named = self.profile.model_copy(update={"dtype": dtype, "memory": "resident"})
            try:
                plan = loading.plan(named, self.skeleton)
                self._loaded = dtype, plan, loading.load(self.model_of, plan), ""
            except (NoRoomError, RuntimeError, MemoryError) as error:
                if not isinstance(error, NoRoomError) and not is_about_memory(error):
                    raise
                skipped = str(error) if isinstance(error, NoRoomError) else "out of memory while loading the model"
                plan = loading.Plan(torch.device("cpu"), getattr(torch, dtype), "that of the protocol")
                self._loaded = dtype, plan, None, skipped
        return self._loaded[1:]

    def _impossible(self, protocol: Protocol) -> str:
        """Say why the model cannot be scored by a protocol; empty where it can."""
        longest = getattr(self.skeleton.config, "max_position_embeddings", None) or math.inf
        if protocol.window > longest:
            return f"the model was made for at most {longest:,} tokens"
        if protocol.joined == "pages" and _prefix(self.tokenizer, protocol) is None:
            return "its tokenizer has no token that a page could follow"
        if protocol.prefix and self.tokenizer.bos_token_id is None:
            return "its tokenizer has no beginning-of-sequence token"
        return ""


def _prefix(tokenizer, protocol: Protocol) -> int | None:
    """Return the token in front of a window: for llama.cpp's protocol only where the tokenizer adds one by itself, as llama.cpp does."""
    first = tokenizer.bos_token_id
    if protocol.second_half:
        return first if tokenizer("").input_ids[:1] == [first] else None
    return tokenizer.eos_token_id if first is None else first


def _score(model, tokenizer, text: Corpus, protocol: Protocol) -> dict:
    """Return the windows, tokens and words of a ``Result``."""
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
    return {"windows": found, "tokens": tokens, "words": words}


@torch.inference_mode()
def _nats(model, head: Head, context: list[int], scored: list[int]) -> float:
    """Return the negative log-likelihood of tokens after others, a slice of logits at a time: those of a long window take gigabytes."""
    ids = torch.tensor([context + scored], device=model.get_input_embeddings().weight.device)
    hidden, start = model.base_model(input_ids=ids[:, :-1], use_cache=False).last_hidden_state, len(context) - 1
    # The last token is predicted only; the state that stands for it is not looked at.
    states = torch.cat([hidden[:, start:], hidden[:, -1:]], 1)
    nats = float(likelihoods(head, states, ids[:, start:]).nll)
    return nats if math.isfinite(nats) else math.inf
