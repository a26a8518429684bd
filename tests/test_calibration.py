import pytest
import torch

from lottery.common.errors import LotteryError, NotFetchedError
from lottery.data.calibration import CHARACTERS, HELD_BACK, calibration, retraining
from lottery.data.corpus import Corpus, corpus


class Letters:
    """A tokenizer of one token a character, behind one special token."""

    def __call__(self, text, **_):
        return type("Encoded", (), {"input_ids": [0] + [ord(c) for c in text]})


def test_crops_lie_within_one_row_and_no_row_gives_two():
    text = Corpus("t", tuple(chr(97 + i) * (3 if i % 2 else 30) for i in range(20)))
    crops, within_rows = calibration(Letters(), text, 8, 10, seed=0)
    assert within_rows
    assert crops.shape == (8, 10)
    assert all(len(set(row) - {0}) == 1 for row in crops.tolist())
    assert len({row[-1] for row in crops.tolist()}) == 8
    assert torch.equal(crops, calibration(Letters(), text, 8, 10, seed=0).tokens)
    assert not torch.equal(crops, calibration(Letters(), text, 8, 10, seed=1).tokens)


def test_where_rows_are_too_short_or_too_few_crops_come_from_all_of_them_joined():
    text = Corpus("t", tuple(chr(97 + i) * 6 for i in range(20)))
    crops, within_rows = calibration(Letters(), text, 50, 40, seed=0)
    assert not within_rows
    assert crops.shape == (50, 40)
    joined = "".join(map(chr, [0] + [ord(c) for c in text.text]))
    assert all("".join(map(chr, row)) in joined for row in crops.tolist())


def test_windows_to_retrain_on_share_no_token_and_are_all_seen_before_one_is_seen_again():
    text = Corpus("t", tuple("".join(chr(100 * row + i) for i in range(100)) for row in range(1, 20)))
    for count in (5, 300):
        tokens, held_back, distinct = retraining(Letters(), text, count, 10, seed=0)
        assert tokens.shape == (count, 10)
        assert len(held_back) == 16
        different = {tuple(row) for row in tokens.tolist()}
        assert distinct == 10 * len(different) == 10 * min(count, 193 - 16)
        assert not different & {tuple(row) for row in held_back.tolist()}
    first, second = tokens[:177].tolist(), tokens[177:].tolist()
    assert len(set(map(tuple, first))) == 177
    assert first[: len(second)] != second, "drawn anew"
    assert torch.equal(tokens, retraining(Letters(), text, 300, 10, seed=0).tokens)
    assert not torch.equal(tokens, retraining(Letters(), text, 300, 10, seed=1).tokens)


def test_of_a_long_text_no_more_is_read_than_is_needed():
    def rows():
        for _ in range(3 + HELD_BACK):
            yield "a" * CHARACTERS * 10
        raise AssertionError("the rest of it is not read")

    long = type("Lazy", (), {"name": "t", "rows": rows()})
    tokens, held_back, _ = retraining(Letters(), long, 3, 10, seed=0)
    assert (tokens.shape, held_back.shape) == ((3, 10), (HELD_BACK, 10))


def test_a_text_shorter_than_two_windows_cannot_be_retrained_on():
    assert len(retraining(Letters(), Corpus("t", ("a" * 19,)), 3, 10, seed=0).tokens) == 3
    with pytest.raises(
        LotteryError,
        match=r"^calibration_text: t has 19 tokens, fewer than two windows of 10 to retrain on; give a longer text or a smaller",
    ):
        retraining(Letters(), Corpus("t", ("a" * 18,)), 3, 10, seed=0)


def test_a_text_shorter_than_one_sample_is_refused():
    with pytest.raises(
        LotteryError, match=r"^calibration_text: t has 5 tokens, fewer than one sample of 6; give a longer text or a smaller cal"
    ):
        calibration(Letters(), Corpus("t", ("abcd",)), 1, 6, seed=0)


def test_training_stories_are_never_the_scored_ones():
    assert not set(corpus("training-stories").rows) & set(corpus("stories").rows)


def test_c4_comes_from_the_cache_through_datasets(tmp_path, monkeypatch):
    import gzip
    import json

    from lottery.data.corpus import HUB_TEXTS

    corpus.cache_clear()
    monkeypatch.setattr("huggingface_hub.constants.HF_HUB_CACHE", str(tmp_path))
    with pytest.raises(NotFetchedError, match=r"^c4 is not in the Hugging Face cache"):
        corpus("c4")
    repository, revision, pattern = HUB_TEXTS["c4"]
    file = tmp_path / f"datasets--{repository.replace('/', '--')}" / "snapshots" / revision / pattern
    file.parent.mkdir(parents=True)
    rows = [{"text": f"document {i} " * 30, "url": "u", "timestamp": "t"} for i in range(40)]
    file.write_bytes(gzip.compress("\n".join(map(json.dumps, rows)).encode()))
    found = corpus("c4")
    corpus.cache_clear()
    assert len(found.rows) == 40
    assert found.rows[7] == rows[7]["text"]
    assert calibration(Letters(), found, 5, 100, seed=0).tokens.shape == (5, 100)
