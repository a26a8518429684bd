import errno
import math
import os

import pytest

from lottery.common.errors import LotteryError
from lottery.common.files import atomic_write
from lottery.config.checkpoint import checkpoint
from lottery.config.profile import Recovery, validated
from lottery.data.corpus import corpus
from lottery.evaluation import metrics
from lottery.evaluation.metrics import METRICS
from lottery.experiments import records
from lottery.experiments.records import read_record, read_state, requests, write_record, write_state
from lottery.pruning.catalogue import ALLOCATIONS, METHODS
from tests.conftest import TOY
from tests.factory import record_of


def asked(**changes):
    profile = validated({**TOY, **changes})
    return requests(profile, checkpoint(profile).identity, corpus(profile.text).sha256)


def test_the_dense_model_comes_first_then_rising_sparsity():
    assert [(r.method, r.sparsity) for r in asked(sparsities=[0.9, 0, 0.5])] == [("dense", 0.0), ("magnitude", 0.5), ("magnitude", 0.9)]


def test_the_same_request_has_the_same_key_whatever_the_order_of_sparsities():
    assert {r.key for r in asked(sparsities=[0.5, 0.9])} == {r.key for r in asked(sparsities=[0.9, 0.5])}


@pytest.mark.parametrize(
    "change",
    [
        {"seq_len": 65},
        {"seed": 1},
        {"dtype": "float32"},
        {"new_tokens": 9},
        {"repeats": 3},
        {"max_windows": 5},
        {"prompts": 3},
        {"temperature": 0.8},
    ],
)
def test_a_changed_parameter_never_reuses_old_work(change):
    assert not {r.key for r in asked()} & {r.key for r in asked(**change)}


def test_other_calibration_data_measures_again_only_what_saw_any():
    def keys(**changes):
        wanted = validated({**TOY, "methods": ["magnitude", "wanda"], "calibration_text": "training-stories", **changes})
        return [r.key for r in requests(wanted, "c", "t", changes.get("calibration_text", "sha"))]

    before = keys()
    for change in ({"calibration_samples": 7}, {"calibration_seq_len": 9}, {"calibration_text": "c4"}):
        assert [a == b for a, b in zip(before, keys(**change), strict=True)] == [True, True, True, False, False], change


def test_every_parameter_that_changes_a_result_is_in_the_request():
    # What is not in it only says where results go, what is studied (its identity is), which trials there are, or changes no number.
    missing = set(type(validated(TOY)).model_fields) - set(records.Request.model_fields)
    named_otherwise = {"profile", "extends", "checkpoints", "model", "text", "methods", "sparsities", "calibration_text"}
    assert missing == {
        *named_otherwise,
        "bisect",
        "protocols",
        "batch_size",
        "memory",
        "recover",
        "tickets",
        "rounding",
        "rounding_sparsities",
    }
    named = {f"recover_{name}" for name in set(Recovery.model_fields) - {"how", "start", "loss"}} | {"recovery", "loss", "method"}
    assert named <= set(records.Request.model_fields)


def test_a_changed_text_or_checkpoint_or_meaning_never_reuses_old_work(monkeypatch):
    before = {r.key for r in asked()}
    assert not before & {r.key for r in asked(model="phi-2", checkpoints={"phi-2": "stand-in:phi-2"})}
    assert not before & {r.key for r in asked(text="training-stories")}
    monkeypatch.setattr(records, "MEASUREMENT", records.MEASUREMENT + 1)
    assert not before & {r.key for r in asked()}


def test_a_method_of_another_version_is_measured_again_and_nothing_else_is(monkeypatch):
    def keys():
        return {r.title: r.key for r in asked(methods=["magnitude", "random"], rounding=[8], rounding_sparsities=[0.5])}

    before = keys()
    monkeypatch.setitem(METHODS, "random", METHODS["random"]._replace(version=2))
    assert {title for title, key in keys().items() if key != before[title]} == {title for title in before if title.startswith("random")}


def test_an_allocation_of_another_version_is_measured_again_and_nothing_else_is(monkeypatch):
    def keys():
        return {r.title: r.key for r in asked(methods=["magnitude"], allocation=["uniform", "owl"], calibration_text="training-stories")}

    before = keys()
    monkeypatch.setitem(ALLOCATIONS, "owl", ALLOCATIONS["owl"]._replace(version=2))
    changed = {title for title, key in keys().items() if key != before[title]}
    assert changed == {title for title in before if "owl" in title} != set()


def test_a_record_comes_back_as_it_was_infinity_included(tmp_path):
    record = record_of("m", "magnitude", 0.9, perplexity=math.inf, bits_per_byte=math.inf, window_nll=[math.inf, 1.0])
    path = write_record(tmp_path, record)
    assert read_record(tmp_path, record.request) == record
    assert '"perplexity": "Infinity"' in path.read_text()
    assert [p.name for p in tmp_path.rglob("*") if p.is_file()] == ["records", path.name][1:]


@pytest.mark.parametrize("content", [b"", b"{", b'{"model": "m"}', b"\xff\xfe\x00", b"null"])
def test_a_record_that_cannot_be_read_is_no_record(tmp_path, content):
    record = record_of("m", "dense", 0.0)
    write_record(tmp_path, record).write_bytes(content)
    assert read_record(tmp_path, record.request) is None


def test_a_record_of_another_request_under_the_same_name_is_no_record(tmp_path):
    record = record_of("m", "dense", 0.0)
    path = write_record(tmp_path, record)
    other = record.request.model_copy(update={"seed": 99})
    path.rename(path.with_name(other.file_name))
    assert read_record(tmp_path, other) is None


def test_a_file_appears_whole_or_not_at_all(tmp_path, monkeypatch):
    target = tmp_path / "a.json"
    atomic_write(target, "old")

    def killed(*_):
        raise KeyboardInterrupt

    monkeypatch.setattr(os, "replace", killed)
    with pytest.raises(KeyboardInterrupt):
        atomic_write(target, "new")
    assert target.read_text() == "old"
    assert [path.name for path in tmp_path.iterdir()] == ["a.json"]


def test_a_full_disk_leaves_what_was_there_and_says_so(tmp_path, monkeypatch):
    target = tmp_path / "a.json"
    atomic_write(target, "old")

    def full(*_):
        raise OSError(errno.ENOSPC, "No space left on device")

    monkeypatch.setattr(os, "fsync", full)
    with pytest.raises(LotteryError, match=r"^no room left on the disk for .*a\.json; make some and run again, what is recorded stays$"):
        atomic_write(target, "new")
    assert target.read_text() == "old"
    assert [path.name for path in tmp_path.iterdir()] == ["a.json"]


def test_a_state_is_one_line_and_one_that_cannot_be_read_is_none(tmp_path):
    write_state(tmp_path, "failed", "two\nlines")
    assert (read_state(tmp_path).state, read_state(tmp_path).reason) == ("failed", "two lines")
    (tmp_path / "state.json").write_text("{")
    assert read_state(tmp_path) is None


def test_a_new_metric_is_computed_from_records_that_exist_and_one_of_a_new_version_again(tmp_path, monkeypatch):
    record = record_of("m", "magnitude", 0.5, windows=3)
    write_record(tmp_path, record)
    monkeypatch.setattr(metrics, "METRICS", dict(METRICS))  # what the decorator adds to
    monkeypatch.setattr(records, "METRICS", metrics.METRICS)

    @metrics.metric("Words per token", "of the text")
    def words_per_token(sums):
        return metrics.Ratio(sums.words, sums.tokens)

    found = read_record(tmp_path, record.request).result
    assert found.metrics["words_per_token"] == pytest.approx(4 / 7)
    assert found.perplexity == record.result.perplexity, "the others are as they were recorded"
    monkeypatch.setitem(metrics.METRICS, "perplexity", METRICS["perplexity"]._replace(version=2))
    found = read_record(tmp_path, record.request).result
    assert found.perplexity == pytest.approx(math.exp(1 / 7))
    assert found.metric_versions["perplexity"] == 2
