"""The protocols by which people score a text, each held to a plain loop over transformers' own loss."""

import json
import math
import re
import shutil
import subprocess
import sys
import weakref

import pandas as pd
import pytest
import torch
import yaml

from lottery.analysis import published
from lottery.analysis.protocols import Extreme, extremes, frame
from lottery.common.errors import StoppedError
from lottery.common.format import change
from lottery.common.paths import outputs
from lottery.config.checkpoint import checkpoint
from lottery.config.profile import load_profile, validated
from lottery.data.corpus import Corpus, corpus
from lottery.experiments.protocols.records import LLAMA_CPP, STANDARD, WHOLE, Protocol, protocols
from lottery.experiments.protocols.runs import _score, cut, detokenized, measure, pieces, stretch
from lottery.experiments.status import run_status
from lottery.experiments.study import Study
from lottery.models import loading
from lottery.models.checkpoints import Checkpoint
from lottery.models.memory import Room
from lottery.report.builder import Report
from lottery.report.model_page import ModelPage
from lottery.report.sections.protocols import picture, told
from lottery.report.sections.published import by_protocol
from tests.conftest import TOY, need_data
from tests.test_likelihood import loaded

NAME = "phi-2"
GIVEN = {**TOY, "model": NAME, "checkpoints": {NAME: f"stand-in:{NAME}"}, "seq_len": 64, "max_windows": 6, "repeats": 1, "prompts": 1}

pytestmark = pytest.mark.xdist_group("protocols")  # one worker measures them for all


@pytest.fixture
def profile(project):
    (project / "params" / "toy.yaml").write_text(yaml.safe_dump({k: v for k, v in GIVEN.items() if k != "model"}))
    return validated(GIVEN)


@pytest.fixture(scope="module")
def kept(tmp_path_factory):
    return tmp_path_factory.mktemp("kept") / "protocols"


@pytest.fixture
def measured(profile, kept):
    """The profile with all protocols recorded; they are measured for the first test that asks, and copied for the others."""
    folder = outputs("toy") / NAME / "protocols"
    if kept.exists():
        shutil.copytree(kept, folder)
    else:
        measure(profile)
        shutil.copytree(folder, kept)
    return profile


def nats(model, ids: list[int], scored: int) -> float:
    """The negative log-likelihood of the last tokens, by transformers' own loss."""
    tokens = torch.tensor([ids])
    labels = tokens.clone()
    labels[0, :-scored] = -100
    with torch.no_grad():
        return model(input_ids=tokens, labels=labels).loss.item() * scored


def plain(model, tokenizer, text: str, window: int, step: int) -> float:
    """Perplexity as the guides have it: windows that advance by ``step``, each token scored once; with step = window the rest is dropped."""
    ids = tokenizer(text).input_ids
    total, count, done = 0.0, 0, 1
    for start in range(0, len(ids), step):
        stop = min(start + window, len(ids))
        if step == window:
            if stop - start < window:
                break
            done = start + 1
        total, count = total + nats(model, ids[start:stop], stop - done), count + stop - done
        done = stop
        if stop == len(ids):
            break
    return math.exp(total / count)


def test_every_protocol_gives_what_a_plain_loop_gives(measured):
    records = {record.request.protocol.name: record.result for record in measure(measured)}
    model, tokenizer = loaded(NAME)
    text = stretch(tokenizer, corpus("stories"), 64, 6).text
    assert len(tokenizer(text).input_ids) >= 6 * 64
    for name, (window, step) in {
        STANDARD: (64, 64), "windows of 16": (16, 16), "windows of 32": (32, 32), "windows of 128": (128, 128),
        "windows of 32, half overlapping": (32, 16), "windows of 64, half overlapping": (64, 32),
    }.items():  # fmt: skip
        assert records[name].perplexity == pytest.approx(plain(model, tokenizer, text, window, step), rel=1e-4), name
    raw = "".join(f"{row}\n" for row in stretch(tokenizer, corpus("stories"), 64, 6).rows)
    assert records["the file as it is"].perplexity == pytest.approx(plain(model, tokenizer, raw, 64, 64), rel=1e-4)
    ids = tokenizer(raw).input_ids
    halves = [nats(model, ids[start : start + 16], 7) for start in range(0, len(ids) - 15, 16)]
    assert records[LLAMA_CPP].perplexity == pytest.approx(math.exp(sum(halves) / 7 / len(halves)), rel=1e-4)
    assert records[WHOLE].perplexity == pytest.approx(plain(model, tokenizer, corpus("stories").text, 64, 64), rel=1e-4)
    standard = records[STANDARD].perplexity
    for dtype in ("bfloat16", "float16"):
        assert records[dtype].perplexity != standard
        assert records[dtype].perplexity == pytest.approx(standard, rel=0.05), dtype
    study = Study(measured)
    study.measure_dense()
    assert records[STANDARD].perplexity == pytest.approx(study.records[0].result.perplexity, rel=1e-5), "it is the study's own"


def test_what_is_recorded_is_not_measured_again(measured, monkeypatch):
    first = measure(measured)
    monkeypatch.setattr("lottery.experiments.protocols.runs._score", lambda *_: pytest.fail("measured again"))
    assert measure(measured) == first
    path = outputs("toy") / NAME / "protocols" / "the-standard-protocol.json"
    path.write_text(path.read_text()[:50])
    with pytest.raises(pytest.fail.Exception, match="measured again"):
        measure(measured)


def test_windows_by_hand():
    ids, disjoint = list(range(10)), Protocol(name="x", used_by="", window=4)
    assert cut(ids, disjoint, 99) == [([0], [1, 2, 3]), ([4], [5, 6, 7])], "the rest fills no window"
    half = disjoint.model_copy(update={"overlap": True})
    assert cut(ids, half, 99) == [([0], [1, 2, 3]), ([2, 3], [4, 5]), ([4, 5], [6, 7]), ([6, 7], [8, 9])]
    assert cut(ids, disjoint.model_copy(update={"prefix": True}), 99) == [([99], [0, 1, 2]), ([99], [3, 4, 5]), ([99], [6, 7, 8])]
    assert cut(ids, disjoint.model_copy(update={"joined": "pages"}), 99) == [
        ([99], [0, 1, 2, 3]), ([3], [4, 5, 6, 7]), ([5, 6, 7], [8, 9]),
    ], "the last window of a page sees as much before it as fits"  # fmt: skip
    last = disjoint.model_copy(update={"second_half": True})
    assert cut(ids, last, None) == [([0, 1, 2], [3]), ([4, 5, 6], [7])]
    assert cut(ids, last, 99) == [([99, 1, 2], [3]), ([99, 5, 6], [7])], "llama.cpp overwrites the first token"
    assert cut([7, 8], disjoint.model_copy(update={"joined": "lines"}), 99) == [([7], [8])]
    assert cut([7], disjoint.model_copy(update={"joined": "lines"}), 99) == []


def test_pieces_of_a_text():
    rows = (
        "",
        " = Robert Boulter = \n",
        "",
        " He was an actor . \n",
        " = = Career = = \n",
        " He sang . \n",
        " = Steel = \n",
        " It is hard . \n",
    )
    text = Corpus("x", rows)
    assert pieces(text, "blank lines") == ["\n\n".join(rows)]
    assert pieces(text, "as it is")[0].startswith(" \n = Robert Boulter = \n \n He was"), "a blank line of the file holds a space"
    assert pieces(text, "lines")[1] == "He was an actor ."
    pages = pieces(text, "pages")
    assert len(pages) == 2
    assert "He was an actor ." in pages[0]
    assert "Career" in pages[0]
    assert pages[1].endswith("It is hard . \n")
    assert pieces(Corpus("x", ("One.", "Two.")), "as it is") == ["One.\nTwo.\n"]


def test_the_file_as_it_is_is_wikitext_s_own_byte_for_byte():
    path = need_data() / "wikitext-2-raw" / "wiki.test.raw"
    assert pieces(corpus(str(path)), "as it is") == [path.read_bytes().decode()]
    assert len(pieces(corpus(str(path)), "pages")) == 62, "as many as lm-evaluation-harness has"


def test_signs_go_back_to_where_writers_put_them():
    spaced = 'Nero \'s guest @-@ starring role ( of 1 @,@ 000 , or 2 @.@ 5 ) : " The Bill " ! \n'
    assert detokenized(spaced) == 'Nero\'s guest-starring role (of 1,000, or 2.5): "The Bill"!\n'


@pytest.mark.tasks
def test_page_by_page_is_what_lm_evaluation_harness_gives():
    """Its own detokenizer and its own rolling windows, on the test text's pages and a small real model."""
    from lm_eval.api.instance import Instance
    from lm_eval.models.huggingface import HFLM
    from lm_eval.tasks.wikitext.preprocess_wikitext import process_results, wikitext_detokenizer

    text = corpus(str(need_data() / "wikitext-2-raw" / "wiki.test.raw"))
    whole = pieces(text, "pages")
    assert [detokenized(page) for page in whole] == [wikitext_detokenizer({"page": page}) for page in whole]

    source = Checkpoint("stories260k", "folder", str(need_data() / "stories260K"))
    model = loading.load(source, loading.Plan(torch.device("cpu"), torch.float32, ""))
    part = Corpus("two pages", text.rows[: next(i for i, row in enumerate(text.rows) if i > 1 and " = Du Fu = " in row)])
    protocol = next(p for p in protocols(256, None) if p.joined == "pages")
    ours = _score(model, loading.tokenizer(source), part, protocol)
    harness = HFLM(pretrained=model, tokenizer=loading.tokenizer(source), batch_size=1, max_length=256)
    pages = pieces(part, "pages")
    asked = [Instance("loglikelihood_rolling", {}, (wikitext_detokenizer({"page": page}),), 0) for page in pages]
    theirs = [process_results({"page": page}, (found,)) for page, found in zip(pages, harness.loglikelihood_rolling(asked), strict=True)]
    sums, words = (sum(one["word_perplexity"][i] for one in theirs) for i in (0, 1))
    assert words == ours["words"]
    assert sum(count for _, count in ours["windows"]) == ours["tokens"], "every token of every page"
    assert sum(nats_ for nats_, _ in ours["windows"]) == pytest.approx(-sums, rel=1e-5)


def test_the_stretch_ends_where_the_last_window_of_the_standard_protocol_ends():
    _, tokenizer = loaded(NAME)
    whole = corpus("stories")
    part = stretch(tokenizer, whole, 64, 6)
    assert whole.text.startswith(part.text)
    assert 6 * 64 <= len(tokenizer(part.text).input_ids) <= 6 * 64 + 8


def test_what_a_model_cannot_do_is_skipped_with_its_reason(profile):
    context = checkpoint(profile).folder / "config.json"
    longest = json.loads(context.read_text())["max_position_embeddings"]
    wide = profile.model_copy(update={"seq_len": longest, "max_windows": 1})
    skipped = {r.request.protocol.name: r.result.skipped for r in measure(wide) if r.result.skipped}
    assert skipped[f"windows of {2 * longest:,}"] == f"the model was made for at most {longest:,} tokens"


def test_a_report_without_them_says_nothing_of_them(profile):
    bare = profile.with_model(None)
    assert Report(bare).protocols() is None
    assert Report(bare).protocols_figure() is None


def test_the_report_shows_them_where_there_are_any(measured):
    report = Report(measured.with_model(None))
    said = report.protocols().data
    assert "**phi-2**, dense: the perplexity on the same text ranges from " in said
    assert "A perplexity means nothing without its protocol." in said
    assert "| lm-evaluation-harness, per word" in said
    assert "the first window alone" in said
    assert "mean of the windows' perplexities" in said
    assert report.protocols_figure().alt.startswith("Dot plot of the dense perplexity of phi-2 by protocol. the standard protocol ")
    assert (outputs("toy") / "tables" / "protocols-phi-2.csv").exists()


def test_parts_and_means_come_from_the_standard_windows(measured):
    found = measure(measured)
    data = frame(found).set_index("protocol")
    standard = next(r.result for r in found if r.request.protocol.name == STANDARD)
    singles = [math.exp(nats_ / tokens) for nats_, tokens in standard.windows]
    assert data.loc["the first window alone", "perplexity"] == pytest.approx(singles[0])
    assert data.loc["mean of the windows' perplexities", "perplexity"] == pytest.approx(sum(singles) / len(singles))
    assert data.loc[STANDARD, "change"] == 0
    assert "the first 12 windows" not in data.index, "there are six"
    assert told(NAME, frame([])) == ""
    assert picture(NAME, frame([])) is None


def test_a_profile_asks_for_them_and_the_notebook_shows_them(profile, project):
    bare = profile.with_model(None)
    plain_, asked = Study(profile), Study(profile.model_copy(update={"protocols": True}))
    plain_.sweep()
    page = ModelPage(plain_)
    assert page.protocols() is page.protocols_figure() is None
    assert run_status(bare, NAME).problem == ""
    wanted = bare.model_copy(update={"protocols": True})
    assert run_status(wanted, NAME).problem == "0 of 14 protocols are recorded; run it again to continue."
    (asked.folder / "stop").touch()
    with pytest.raises(StoppedError, match="stopped between trials, 0 of 14 are recorded; run again to continue"):
        asked.measure_protocols()
    page = ModelPage(asked)
    assert "llama.cpp: windows of 16, their second half, the file as it is" in page.protocols().data
    assert page.protocols_figure().alt.startswith("Dot plot")
    assert run_status(wanted, NAME).problem == ""
    (asked.folder / "protocols" / "float16.json").unlink()
    assert run_status(wanted, NAME).problem == "13 of 14 protocols are recorded; run it again to continue."


def test_what_does_not_fit_into_memory_is_skipped_with_its_reason(profile, monkeypatch):
    """Out of memory at one window, and weights that do not fit in float32 while they do in 16 bits: only one copy is held at a time."""

    def no_room(model, tokenizer, text, protocol):
        if protocol.window == 128:
            raise RuntimeError("DefaultCPUAllocator: can't allocate memory: you tried to allocate 9 bytes.")
        return {"windows": [(1.0, 2)], "tokens": 2, "words": 1}

    monkeypatch.setattr("lottery.experiments.protocols.runs._score", no_room)
    skipped = {r.request.protocol.name: r.result.skipped for r in measure(profile) if r.result.skipped}
    assert list(skipped) == ["windows of 128"]
    assert re.fullmatch("out of memory on .*, [0-9]+ cores", skipped["windows of 128"])

    real, held_, folder = loading.load, [], outputs("toy") / NAME / "protocols"
    for path in folder.glob("*.json"):
        path.unlink()
    need = sum(p.numel() for p in loading.skeleton(checkpoint(profile)).parameters()) * 4

    def load(source, plan):
        model = real(source, plan)
        held_.append(weakref.ref(model))
        return model

    def room():
        taken = sum(sum(p.numel() * p.element_size() for p in ref().parameters()) for ref in held_ if ref() is not None)
        return Room(int(0.9 * need) - taken, need)

    monkeypatch.setattr(loading, "load", load)
    monkeypatch.setattr(loading.memory, "main_memory", room)
    found = {r.request.protocol.name: r.result for r in measure(profile)}
    assert re.match(r"the weights need 0\.0 GiB in float32, .* has 0\.0 GiB free; take ", found[STANDARD].skipped)
    assert not found["bfloat16"].skipped
    assert not found["float16"].skipped, "the one before was let go of"
    said = told(NAME, frame(list(measure(profile))))
    assert "nan" not in said
    assert f"| {STANDARD} " in said


def test_memory_that_runs_out_while_loading_is_a_reason_too(profile, monkeypatch):
    def load(*_):
        raise torch.OutOfMemoryError("CUDA out of memory. Tried to allocate 2.00 GiB.")

    monkeypatch.setattr(loading, "load", load)
    assert {r.result.skipped for r in measure(profile)} == {"out of memory while loading the model"}


def test_no_model_reads_more_tokens_than_it_was_made_for(project, tmp_path, monkeypatch):
    """OPT has a table of positions, and one token more is an index out of it."""
    from transformers import OPTConfig, OPTForCausalLM

    tokens = loaded(NAME)[1]
    torch.manual_seed(0)
    small = {"hidden_size": 16, "ffn_dim": 16, "num_hidden_layers": 1, "num_attention_heads": 2, "word_embed_proj_dim": 16}
    model = OPTForCausalLM(OPTConfig(vocab_size=len(tokens), max_position_embeddings=32, **small))
    model.save_pretrained(tmp_path / "opt")
    tokens.save_pretrained(tmp_path / "opt")
    given = {**GIVEN, "model": "opt", "checkpoints": {"opt": str(tmp_path / "opt")}, "seq_len": 32, "max_windows": 3}
    found = {r.request.protocol.name: r.result for r in measure(validated(given))}
    assert found["windows of 64"].skipped == "the model was made for at most 32 tokens"
    assert [name for name, result in found.items() if result.skipped] == ["windows of 64"]
    assert math.isfinite(found["page by page, detokenized"].perplexity)


def test_figures_of_another_stretch_or_text_are_not_those_of_a_profile(measured):
    first = measure(measured)
    bare = measured.with_model(None)
    assert len(run_status(bare, NAME).protocols) == 14
    for change_ in ({"max_windows": 4}, {"seq_len": 32}, {"text": "training-stories"}):
        assert run_status(bare.model_copy(update=change_), NAME).protocols == [], change_
    shorter = measure(measured.model_copy(update={"max_windows": 4}))
    assert len(shorter[0].result.windows) == 4
    assert len(first[0].result.windows) == 6


def test_a_text_without_a_window_of_the_length_says_so(profile):
    one = profile.model_copy(update={"max_windows": 1})
    found = {r.request.protocol.name: r.result for r in measure(one)}
    assert found["windows of 128"].skipped == "no 128 tokens together in this text"
    assert "nan" not in told(NAME, frame(measure(one)))


def test_published_figures_stand_beside_what_their_protocols_change_here():
    data = pd.DataFrame(
        [(STANDARD, 0.0), ("windows of 4,096", -0.07), (LLAMA_CPP, 0.1), ("the first window alone", -0.22), ("float16", math.nan)],
        columns=["protocol", "change"],
    ).assign(skipped="")
    rows = [
        [cell.strip() for cell in line.split("|")[1:-1]]
        for line in by_protocol({"a": data}).splitlines()
        if line.startswith("| L") or line.startswith("| M")
    ]
    assert [row[:4] for row in rows] == [
        ["Llama-2-7B, 5.12", "4096; 83 windows", "-6.4%", "-7.0% (a)"],
        ["Mistral-7B-v0.1, 5.69", "llama.cpp ctx512 half-window", "+8.4%", "+10.0% (a)"],
        ["Mistral-7B-v0.1, 4.00", "2048 stated; subset or full not stated", "-23.9%", "-22.0% (a, the first window alone)"],
    ]
    last = published.other_protocols({"a": data})[-1]
    assert (last.named, last.explained, last.here) == (False, True, [("a", "the first window alone", -0.22)])
    last = published.other_protocols({"a": data[data["change"] > -0.2]})[-1]
    assert (last.explained, last.here) == (False, [("a", "windows of 4,096", -0.07)])
    assert by_protocol({}) == ""


def test_which_protocol_reproduces_a_published_figure(monkeypatch):
    listed = pd.DataFrame(
        [
            ("Tiny-1B", "dense", "-", 10.1, "2048", "a paper", "primary"),
            ("Tiny-1B", "dense", "-", 7.0, "not stated", "a page", "secondhand"),
        ],
        columns=["model", "method", "pattern", "perplexity", "protocol", "source", "standing"],
    )
    monkeypatch.setattr(published, "figures", lambda: listed)
    data = pd.DataFrame(
        {"protocol": [STANDARD, "windows of 512", "the first window alone"], "expected": [10.05, 14.0, 8.0], "skipped": ["", "", ""]}
    )
    first, second = published.reproductions("Tiny-1B", data)
    assert (first.perplexity, first.close, first.nearest, first.expected) == (10.1, [STANDARD], STANDARD, 10.05)
    assert (second.source, second.close, second.nearest, second.expected) == ("a page", [], "the first window alone", 8.0)
    assert [at.model for at in published.reproductions("Tiny-1B-Instruct.Q4_1.gguf", data)] == ["Tiny-1B"] * 2
    assert published.reproductions("Other", data) == published.reproductions("Tiny-1B", data[:0]) == []


def test_the_lowest_and_the_highest_perplexity_are_those_that_were_measured():
    data = pd.DataFrame({"protocol": list("abcd"), "perplexity": [9.0, 14.0, 3.0, math.nan], "skipped": ["", "", "too big", ""]})
    assert extremes(data) == (Extreme("a", 9.0), Extreme("b", 14.0))
    assert extremes(data[2:]) is None


def test_what_a_protocol_should_give_on_the_whole_text(measured):
    data = frame(measure(measured)).set_index("protocol")
    whole = next(name for name in data.index if name.startswith(WHOLE))
    assert data.loc[STANDARD, "expected"] == pytest.approx(data.loc[whole, "perplexity"])
    assert data.loc["windows of 16", "expected"] == pytest.approx(data.loc[whole, "perplexity"] * (1 + data.loc["windows of 16", "change"]))
    assert data.loc["the first window alone", "expected"] == data.loc["the first window alone", "perplexity"]


def test_no_change_has_no_sign():
    assert [change(share) for share in (0.0004, -0.0004, 0.001, -0.25)] == ["0.0%", "0.0%", "+0.1%", "-25.0%"]


def test_the_command_measures_one_model_or_all(profile, project):
    asked = [sys.executable, "-m", "lottery", "protocols", "toy", NAME, "--page=page.md"]
    run = subprocess.run(asked, cwd=project, capture_output=True, text=True)
    assert run.returncode == 0, run.stderr
    assert run.stdout.splitlines()[0].startswith("phi-2: 1 of 14, the standard protocol: ")
    assert len(run.stdout.splitlines()) == len(protocols(64, 6)) == 14
    page = (project / "page.md").read_text()
    assert "Made by `make protocols PROFILE=toy`, at " in page
    assert f"| {LLAMA_CPP} " in page
    assert "No dense perplexity of phi-2 is listed" in page
    assert "None" not in page
    run = subprocess.run([sys.executable, "-m", "lottery", "protocols", "toy", "nobody"], cwd=project, capture_output=True, text=True)
    assert (run.returncode, run.stderr.startswith("ParamsError: model: given 'nobody'; allowed: ")) == (1, True)


def test_the_real_profile_has_the_lengths_that_people_use():
    windows = {protocol.window for protocol in protocols(load_profile("real").seq_len, None)}
    assert windows == {512, 1024, 2048, 4096}
