"""The protocols by which people score a text, each held to a plain loop over transformers' own loss."""

import json
import math
import subprocess
import sys

import pytest
import torch
import yaml

from lottery.checkpoints import checkpoint
from lottery.corpus import Corpus, corpus
from lottery.params import load_profile, validated
from lottery.paths import outputs
from lottery.perplexity_protocols import STANDARD, Protocol, frame, picture, protocols, recorded, told
from lottery.perplexity_runs import cut, detokenized, measure, pieces, stretch
from lottery.report import Report
from lottery.study import Study
from tests.conftest import TOY
from tests.test_likelihood import loaded

NAME = "phi-2"
GIVEN = {**TOY, "model": NAME, "checkpoints": {NAME: f"stand-in:{NAME}"}, "window": 64, "max_windows": 6, "repeats": 1, "prompts": 1}


@pytest.fixture
def profile(project):
    (project / "params" / "toy.yaml").write_text(yaml.safe_dump({k: v for k, v in GIVEN.items() if k != "model"}))
    return validated(GIVEN)


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


def test_every_protocol_gives_what_a_plain_loop_gives(profile):
    records = {record.request.protocol.name: record.result for record in measure(profile)}
    model, tokenizer = loaded(NAME)
    text = stretch(tokenizer, corpus("stories"), 64, 6).text
    assert len(tokenizer(text).input_ids) >= 6 * 64
    for name, (window, step) in {
        STANDARD: (64, 64), "windows of 16": (16, 16), "windows of 32": (32, 32), "windows of 128": (128, 128),
        "windows of 32, half overlapping": (32, 16), "windows of 64, half overlapping": (64, 32),
    }.items():  # fmt: skip
        assert records[name].perplexity == pytest.approx(plain(model, tokenizer, text, window, step), rel=1e-4), name
    raw = "".join(row or "\n" for row in stretch(tokenizer, corpus("stories"), 64, 6).rows)
    assert records["the file as it is"].perplexity == pytest.approx(plain(model, tokenizer, raw, 64, 64), rel=1e-4)
    standard = records[STANDARD].perplexity
    for dtype in ("bfloat16", "float16"):
        assert records[dtype].perplexity != standard
        assert records[dtype].perplexity == pytest.approx(standard, rel=0.05), dtype
    study = Study(profile)
    study.measure_dense()
    assert records[STANDARD].perplexity == pytest.approx(study.records[0].result.perplexity, rel=1e-5), "it is the study's own"


def test_what_is_recorded_is_not_measured_again(profile, monkeypatch):
    first = measure(profile)
    monkeypatch.setattr("lottery.perplexity_runs._score", lambda *_: pytest.fail("measured again"))
    assert measure(profile) == first
    path = outputs("toy") / NAME / "protocols" / "the-standard-protocol.json"
    path.write_text(path.read_text()[:50])
    with pytest.raises(pytest.fail.Exception, match="measured again"):
        measure(profile)


def test_windows_by_hand():
    ids, disjoint = list(range(10)), Protocol(name="x", used_by="", window=4)
    assert cut(ids, disjoint, 99) == [([0], [1, 2, 3]), ([4], [5, 6, 7])], "the rest fills no window"
    half = disjoint.model_copy(update={"overlap": True})
    assert cut(ids, half, 99) == [([0], [1, 2, 3]), ([2, 3], [4, 5]), ([4, 5], [6, 7]), ([6, 7], [8, 9])]
    assert cut(ids, disjoint.model_copy(update={"prefix": True}), 99) == [([99], [0, 1, 2]), ([99], [3, 4, 5]), ([99], [6, 7, 8])]
    assert cut(ids, disjoint.model_copy(update={"joined": "pages"}), 99) == [
        ([99], [0, 1, 2]), ([2], [3, 4, 5]), ([5], [6, 7, 8]), ([8], [9]),
    ]  # fmt: skip
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
    assert pieces(text, "as it is")[0].startswith("\n = Robert Boulter = \n\n He was")
    assert pieces(text, "lines")[1] == "He was an actor ."
    pages = pieces(text, "pages")
    assert len(pages) == 2
    assert "He was an actor." in pages[0]
    assert "Career" in pages[0]
    assert pages[1].endswith("It is hard.\n")


def test_signs_go_back_to_where_writers_put_them():
    spaced = 'Nero \'s guest @-@ starring role ( of 1 @,@ 000 , or 2 @.@ 5 ) : " The Bill " !'
    assert detokenized(spaced) == 'Nero\'s guest-starring role (of 1,000, or 2.5): "The Bill"!'


def test_the_stretch_ends_where_the_last_window_of_the_standard_protocol_ends():
    _, tokenizer = loaded(NAME)
    whole = corpus("stories")
    part = stretch(tokenizer, whole, 64, 6)
    assert whole.text.startswith(part.text)
    assert 6 * 64 <= len(tokenizer(part.text).input_ids) <= 6 * 64 + 8


def test_what_a_model_cannot_do_is_skipped_with_its_reason(profile):
    context = checkpoint(profile).folder / "config.json"
    longest = json.loads(context.read_text())["max_position_embeddings"]
    wide = profile.model_copy(update={"window": longest, "max_windows": 1})
    skipped = {r.request.protocol.name: r.result.skipped for r in measure(wide) if r.result.skipped}
    assert skipped[f"windows of {2 * longest:,}"] == f"the model was made for at most {longest:,} tokens"


def test_the_report_shows_them_where_there_are_any(profile):
    bare = profile.model_copy(update={"model": None})
    assert Report(bare).protocols() is None
    assert Report(bare).protocols_figure() is None
    measure(profile)
    report = Report(bare)
    said = report.protocols().data
    assert "**phi-2**, dense: the same model on the same stretch of text has a perplexity of " in said
    assert "A figure without its protocol says nothing." in said
    assert "| lm-evaluation-harness, per word" in said
    assert "the first window alone" in said
    assert "mean of the windows' perplexities" in said
    assert report.protocols_figure().alt.startswith("Dot plot of the dense perplexity of phi-2 by protocol. the standard protocol ")
    assert (outputs("toy") / "tables" / "protocols-phi-2.csv").exists()


def test_parts_and_means_come_from_the_standard_windows(profile):
    found = recorded(outputs("toy") / NAME, 64) or measure(profile)
    data = frame(found).set_index("protocol")
    standard = next(r.result for r in found if r.request.protocol.name == STANDARD)
    singles = [math.exp(nats_ / tokens) for nats_, tokens in standard.windows]
    assert data.loc["the first window alone", "perplexity"] == pytest.approx(singles[0])
    assert data.loc["mean of the windows' perplexities", "perplexity"] == pytest.approx(sum(singles) / len(singles))
    assert data.loc[STANDARD, "change"] == 0
    assert "the first 12 windows" not in data.index, "there are six"
    assert told(NAME, frame([])) == ""
    assert picture(NAME, frame([])) is None


def test_the_command_measures_one_model_or_all(profile, project):
    run = subprocess.run([sys.executable, "-m", "lottery.perplexity_runs", "toy", NAME], cwd=project, capture_output=True, text=True)
    assert run.returncode == 0, run.stderr
    assert run.stdout.splitlines()[0].startswith("phi-2: 1 of 12, the standard protocol: ")
    assert len(run.stdout.splitlines()) == len(protocols(64)) == 12
    run = subprocess.run([sys.executable, "-m", "lottery.perplexity_runs", "toy", "nobody"], cwd=project, capture_output=True, text=True)
    assert (run.returncode, run.stderr.startswith("ParamsError: model: given 'nobody'; allowed: ")) == (1, True)


def test_the_real_profile_has_the_lengths_that_people_use():
    windows = {protocol.window for protocol in protocols(load_profile("real").window)}
    assert windows == {512, 1024, 2048, 4096}
