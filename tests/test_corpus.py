import json

import numpy as np
import pytest
from tokenizers import Tokenizer
from tokenizers.models import BPE, WordLevel
from tokenizers.pre_tokenizers import WhitespaceSplit
from tokenizers.processors import TemplateProcessing
from transformers import PreTrainedTokenizerFast

from lottery.common.errors import LotteryError, NotFetchedError, ParamsError
from lottery.config.profile import load_profile
from lottery.data import corpus as module
from lottery.data.corpus import Corpus, corpus, prompts, windows
from lottery.jobs import fetch
from lottery.models.loading import tokenizer
from tests.conftest import need_data
from tests.test_checkpoints import of


@pytest.fixture(scope="module")
def tokens():
    return tokenizer(of())


def test_windows_are_disjoint_and_the_remainder_is_dropped(tokens):
    text = corpus("stories")
    found = windows(tokens, text, 100)
    whole = tokens(text.text, verbose=False).input_ids
    assert len(found.tokens) == len(whole) // 100
    assert np.array_equal(found.tokens.ravel(), np.array(whole[: len(found.tokens) * 100]))


def test_scored_bytes_are_those_of_the_predicted_tokens(tokens):
    text = Corpus("t", ("Žofie met a fox. 狐 " * 40,))
    found = windows(tokens, text, 16)
    for row, size in zip(found.tokens, found.scored_bytes, strict=True):
        # A window may end inside a character of several bytes: it then counts whole, in the window of its first byte's end.
        assert abs(len(tokens.decode(row[1:], errors="surrogateescape").encode("utf-8", "replace")) - size) <= 6
    assert found.scored_bytes.sum() <= len(text.text.encode())


def test_a_token_behind_the_text_counts_nothing():
    """A tokenizer that adds an end of text has an empty span for it, as many have for a beginning."""
    raw = Tokenizer(WordLevel({"apple": 0, "fox": 1, "</s>": 2, "[UNK]": 3}, unk_token="[UNK]"))
    raw.pre_tokenizer = WhitespaceSplit()
    raw.post_processor = TemplateProcessing(single="$A </s>", special_tokens=[("</s>", 2)])
    found = windows(PreTrainedTokenizerFast(tokenizer_object=raw, unk_token="[UNK]"), Corpus("t", ("apple fox " * 7 + "apple",)), 8)
    assert found.tokens[-1, -1] == 2
    assert found.scored_bytes.tolist() == [len(" fox apple" * 3 + " fox"), len(" fox apple" * 3)]


def test_scored_bytes_are_exact_on_plain_text(tokens):
    found = windows(tokens, corpus("stories"), 64, 10)
    assert [len(tokens.decode(row[1:])) for row in found.tokens] == found.scored_bytes.tolist()


def test_scored_words_are_those_that_begin_among_the_predicted_tokens(tokens):
    text = Corpus("t", ("It's 3.14 o'clock -- isn't it?  Žofie, 狐 met\n\na fox. " * 60,))
    found, spans = windows(tokens, text, 32), tokens(text.text, return_offsets_mapping=True).offset_mapping

    def words(window: int) -> int:
        first, last = (spans[32 * window + place][1] for place in (0, 31))
        return len(text.text[:last].split()) - len(text.text[:first].split())

    assert found.scored_words.tolist() == [words(window) for window in range(len(found.tokens))]
    assert found.scored_words.sum() != found.scored_bytes.sum()


def test_a_text_shorter_than_a_window_is_refused(tokens):
    with pytest.raises(LotteryError, match=r"^text: t has \d tokens, less than one window of 512; give a longer text or a smaller seq_len"):
        windows(tokens, Corpus("t", ("Too short.",)), 512)


def test_a_text_that_the_tokenizer_cannot_read_is_refused():
    """One word in three is in no vocabulary: with an unknown token, and with a tokenizer that drops what it does not know."""
    text = Corpus("t", ("tomato apple fox " * 400,))
    for unknown in ("[UNK]", None):
        words, letters = {"apple": 0, "fox": 1, "[UNK]": 2}, {letter: i for i, letter in enumerate("aplefox")}
        raw = Tokenizer(WordLevel(words, unk_token=unknown) if unknown else BPE(letters, []))
        raw.pre_tokenizer = WhitespaceSplit()
        found = PreTrainedTokenizerFast(tokenizer_object=raw, unk_token=unknown)
        share = "42.9" if unknown else "21.4"  # tomato as a whole, 6 of 14 letters; or t, m and t
        with pytest.raises(LotteryError, match=rf"^text: the model's tokenizer has no tokens for {share}% of t; give a text in a language"):
            windows(found, text, 70)
        assert len(windows(found, Corpus("t", ("apple fox " * 400,)), 70).tokens) > 1


def test_the_files_that_a_text_can_come_from(tmp_path):
    (tmp_path / "a.txt").write_bytes(b"one\r\n\r\ntwo")
    (tmp_path / "a.jsonl").write_text(json.dumps({"text": "one"}) + "\n" + json.dumps({"text": "two\u2028"}) + "\n")
    (tmp_path / "a.raw").write_text(" \n = A = \n \n b \n")
    assert corpus(str(tmp_path / "a.txt")).text == "one\r\n\r\ntwo"
    assert corpus(str(tmp_path / "a.jsonl")).text == "one\n\ntwo\u2028"
    assert corpus(str(tmp_path / "a.raw")).rows == ("", " = A = \n", "", " b \n")
    (tmp_path / "A.JSONL").write_bytes((tmp_path / "a.jsonl").read_bytes())
    assert corpus(str(tmp_path / "A.JSONL")).text == "one\n\ntwo\u2028"
    (tmp_path / "c4.json").write_bytes((tmp_path / "a.jsonl").read_bytes())
    with pytest.raises(ParamsError, match=r"c4\.json'; allowed: .*, or a \.txt, \.raw or \.jsonl file"):
        corpus(str(tmp_path / "c4.json"))


@pytest.mark.parametrize(
    ("name", "content", "message"),
    [
        ("a.txt", b"\xff\xfe", "is not UTF-8 (byte 0); save it as UTF-8"),
        ("a.txt", b" \n ", "is empty; give a file with some thousand words"),
        ("a.jsonl", b"{}", 'is not one {"text": …} a line'),
        ("a.jsonl", b"nonsense", 'is not one {"text": …} a line'),
        ("a.jsonl", b'{"text": 5}', 'is not one {"text": …} a line'),
        ("a.jsonl", b'{"text": "half of a pair: \\ud800"}', 'is not one {"text": …} a line'),
    ],
)
def test_a_text_that_cannot_be_read_says_why(tmp_path, name, content, message):
    (tmp_path / name).write_bytes(content)
    with pytest.raises(ParamsError) as caught:
        corpus(str(tmp_path / name))
    assert message in str(caught.value)


def test_a_text_that_is_not_there_names_where_it_was_looked_for(project):
    with pytest.raises(
        ParamsError,
        match=r"^text: given 'gone\.txt'; allowed: stories, training-stories, wikitext-2-raw, c4, or a \.txt, \.raw or \.jsonl file",
    ):
        corpus("gone.txt")


def test_wikitext_that_is_not_fetched_names_the_command(monkeypatch, tmp_path):
    monkeypatch.setattr("huggingface_hub.constants.HF_HUB_CACHE", str(tmp_path))
    corpus.cache_clear()
    with pytest.raises(NotFetchedError, match="make fetch PROFILE=…"):
        corpus("wikitext-2-raw")


def test_wikitext_comes_through_datasets_and_equals_the_raw_file(monkeypatch, tmp_path):
    """The hub's parquet file, made here from the raw text, gives the same text as the raw file itself."""
    from datasets import Dataset

    raw = corpus(str(need_data() / "wikitext-2-raw" / "wiki.test.raw"))
    folder = tmp_path / "wikitext-2-raw-v1"
    folder.mkdir()
    Dataset.from_dict({"text": list(raw.rows)}).to_parquet(folder / "test-00000-of-00001.parquet")
    monkeypatch.setattr(module, "snapshot_download", lambda *_, local_files_only, **__: str(tmp_path) if local_files_only else 1 / 0)
    corpus.cache_clear()
    assert corpus("wikitext-2-raw").text == raw.text
    assert len(raw.rows) == 4358


def test_texts_that_differ_in_their_last_letter_only_are_two():
    same = ("A story. " * 5000,)
    assert Corpus("t", (*same, "a")).sha256 != Corpus("t", (*same, "b")).sha256


def test_prompts_are_the_same_words_for_every_model():
    found = prompts(corpus("stories"), 3, 12)
    assert len(set(found)) == 3
    assert all(len(start.split()) == 12 and start in corpus("stories").text for start in found)
    one_row = Corpus("t", (" ".join(f"w{i}" for i in range(100)),))
    assert prompts(one_row, 2, 3) == ["w0 w1 w2", "w47 w48 w49"]
    assert prompts(Corpus("t", ("only a few words",)), 2, 10) == ["only a few words"] * 2


def test_without_a_hub_the_original_file_is_the_same_text(monkeypatch, tmp_path):
    """A machine without the hub scores WikiText-2 from its original file, and nothing else is taken for it."""
    data = need_data()
    monkeypatch.setattr("huggingface_hub.constants.HF_HUB_CACHE", str(tmp_path))
    monkeypatch.setenv("LOTTERY_DATA", str(data))
    corpus.cache_clear()
    assert corpus("wikitext-2-raw").sha256 == corpus(str(data / "wikitext-2-raw" / "wiki.test.raw")).sha256
    assert "Salesforce/wikitext" not in {d.repository for d in fetch.downloads(load_profile("full"))}
    (tmp_path / "wikitext-2-raw").mkdir()
    original = (data / "wikitext-2-raw" / "wiki.test.raw").read_bytes()
    (tmp_path / "wikitext-2-raw" / "wiki.test.raw").write_bytes(original.replace(b"Robert", b"Rupert", 1))
    monkeypatch.setenv("LOTTERY_DATA", str(tmp_path))
    corpus.cache_clear()
    missing = (
        r"or put its original file into the folder that LOTTERY_DATA names, as wikitext-2-raw/wiki\.test\.raw \(.* is not the original\)$"
    )
    with pytest.raises(NotFetchedError, match=missing):
        corpus("wikitext-2-raw")
    corpus.cache_clear()
