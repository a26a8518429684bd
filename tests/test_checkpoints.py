import hashlib
import json
import os
import re
import shutil
import subprocess
import sys

import pytest

from lottery.common import hashing
from lottery.common.errors import LotteryError, NotFetchedError, ParamsError
from lottery.config.checkpoint import checkpoint
from lottery.config.profile import load_profile, validated
from lottery.models import checkpoints as module
from lottery.models.checkpoints import digest
from tests.conftest import ROOT, TOY

HUB = "owner/model@" + "0" * 40


def of(**changes):
    return checkpoint(validated({**TOY, **changes}))


def test_the_three_kinds(tmp_path):
    (tmp_path / "config.json").write_text("{}")
    assert of().kind == "stand-in"
    assert (of(model=HUB).kind, of(model=HUB).identity) == ("hub", HUB)
    assert of(model=str(tmp_path)).kind == "folder"


@pytest.mark.parametrize(
    "value", ["mistral", "owner/model", "owner/model@main", "owner/model@" + "0" * 39, "/nowhere", "mistralai/Mistral-7B-v0.1@HEAD"]
)
def test_what_is_no_checkpoint_is_refused_with_what_is_allowed(value):
    with pytest.raises(ParamsError) as caught:
        of(model=value)
    assert str(caught.value).startswith(
        f"model: given {value!r}; allowed: qwen2.5-0.5b, owner/name@REVISION with the 40 digits of a commit, a folder with config.json, a .gguf file, or wheel:"
    )


def test_an_unknown_stand_in_names_the_known():
    with pytest.raises(ParamsError, match=r"checkpoints\['a'\]: given 'stand-in:b'; allowed stand-ins: mistral-7b, phi-2, "):
        of(model="a", checkpoints={"a": "stand-in:b"})


def test_what_is_not_fetched_names_the_command_that_fetches(monkeypatch, tmp_path):
    monkeypatch.setattr("huggingface_hub.constants.HF_HUB_CACHE", str(tmp_path))
    with pytest.raises(
        NotFetchedError, match=r"is not in the Hugging Face cache; fetch it first, where there is a network: make fetch PROFILE=…"
    ):
        of(model=HUB).check()
    with pytest.raises(ParamsError, match=r"^model: not given; allowed: qwen2\.5-0\.5b, owner/name@REVISION"):
        of(model=None)


def test_weights_that_are_not_safetensors_are_refused(tmp_path):
    for name in ("config.json", "pytorch_model.bin", "tokenizer.json"):
        (tmp_path / name).write_text("{}")
    with pytest.raises(
        LotteryError, match=r"has no \*\.safetensors \(weights as safetensors\); allowed: a Hugging Face folder with safetensors weights"
    ):
        of(model=str(tmp_path)).check()


def test_a_model_fetched_in_part_is_told_from_a_whole_one(tmp_path, monkeypatch):
    index = {"weight_map": {"a": "model-00001-of-00002.safetensors", "b": "model-00002-of-00002.safetensors"}}
    (tmp_path / "model.safetensors.index.json").write_text(json.dumps(index))
    for name in ("config.json", "tokenizer.json", "model-00001-of-00002.safetensors"):
        (tmp_path / name).write_text("{}")
    with pytest.raises(LotteryError, match=r"lacks model-00002-of-00002\.safetensors, which its index names; copy the folder again"):
        of(model=str(tmp_path)).check()
    monkeypatch.setattr(module, "snapshot_download", lambda *_, local_files_only, **__: str(tmp_path) if local_files_only else 1 / 0)
    with pytest.raises(NotFetchedError, match=r"is fetched in part, model-00002-of-00002\.safetensors is missing; fetch it first"):
        of(model=HUB).check()
    (tmp_path / "model.safetensors.index.json").unlink()
    (tmp_path / "model-00001-of-00002.safetensors").unlink()
    with pytest.raises(NotFetchedError, match=r"is fetched in part, \*\.safetensors is missing; fetch it first"):
        of(model=HUB).check()


def test_a_cached_hub_checkpoint_is_studied_without_a_network(tmp_path, monkeypatch):
    """The layout of the Hugging Face cache, filled with a stand-in."""
    snapshot = tmp_path / "models--owner--model" / "snapshots" / ("0" * 40)
    shutil.copytree(module.STAND_INS / "phi-2", snapshot)
    monkeypatch.setattr("huggingface_hub.constants.HF_HUB_CACHE", str(tmp_path))
    monkeypatch.setenv("HF_HUB_CACHE", str(tmp_path))
    code = f"from tests.test_checkpoints import of, HUB; from lottery.models.loading import skeleton; print(type(skeleton(of(model={HUB!r}).check())).__name__)"
    run = subprocess.run([sys.executable, "-c", code], cwd=ROOT, capture_output=True, text=True)
    assert run.stdout.strip() == "PhiForCausalLM", run.stderr


def test_the_digest_knows_one_changed_byte(tmp_path):
    (tmp_path / "config.json").write_text("{}")
    (tmp_path / "model.safetensors").write_bytes(b"\0" * 1000)
    before = digest(tmp_path)
    assert digest(tmp_path) == before
    (tmp_path / "model.safetensors").write_bytes(b"\0" * 999 + b"\1")
    assert digest(tmp_path) != before


def test_checkpoints_that_differ_in_the_middle_are_not_the_same(tmp_path):
    """A merged adapter leaves the size and both ends of a file as they were."""
    for name, middle in (("a", b"\0"), ("b", b"\1")):
        (tmp_path / name).mkdir()
        (tmp_path / name / "model.safetensors").write_bytes(b"\0" * (16 << 20) + middle + b"\0" * (16 << 20))
    assert digest(tmp_path / "a") != digest(tmp_path / "b")


def test_shards_count_whatever_they_are_called(tmp_path):
    for name, weights in (("a", b"\0"), ("b", b"\1")):
        (tmp_path / name).mkdir()
        shard = "pytorch_model-00001-of-00001.safetensors"
        (tmp_path / name / shard).write_bytes(weights)
        (tmp_path / name / "model.safetensors.index.json").write_text(json.dumps({"weight_map": {"w": shard}}))
    assert digest(tmp_path / "a") != digest(tmp_path / "b")


def test_a_large_file_is_read_once_also_by_the_next_process_and_again_when_it_changed(tmp_path, monkeypatch):
    monkeypatch.setattr(hashing, "LARGE", 10)
    monkeypatch.setattr("huggingface_hub.constants.HF_HOME", str(tmp_path / "cache"))
    path, read = tmp_path / "large", []

    def refuse(*_):
        raise PermissionError("read-only")

    real = hashlib.file_digest
    monkeypatch.setattr(hashing.hashlib, "file_digest", lambda *given: read.append(1) or real(*given))
    path.write_bytes(b"a" * 100)
    for _ in range(3):
        assert hashing.sha256(path) == hashlib.sha256(b"a" * 100).hexdigest()
        hashing._sha256.cache_clear()  # as a new process begins
    assert len(read) == 1
    monkeypatch.setattr(hashing, "atomic_write", refuse)  # another's cache
    path.write_bytes(b"b" * 100)
    os.utime(path, ns=(1, 1))
    assert hashing.sha256(path) == hashlib.sha256(b"b" * 100).hexdigest()
    assert len(read) == 2
    status = path.stat()
    path.write_bytes(b"c" * 100)
    os.utime(path, ns=(status.st_atime_ns, status.st_mtime_ns))  # as a copy that keeps times does
    assert hashing.sha256(path) == hashlib.sha256(b"c" * 100).hexdigest()
    path.write_bytes(b"b" * 100)
    next((tmp_path / "cache" / "lottery" / "sha256").iterdir()).write_text("half a li")
    hashing._sha256.cache_clear()
    assert hashing.sha256(path) == hashlib.sha256(b"b" * 100).hexdigest()


def test_results_of_another_checkpoint_are_filed_apart():
    others = [HUB, HUB.replace("owner", "another"), HUB.replace("0", "1"), "some/Folder With Spaces/", "other/Folder With Spaces/"]
    name, *names = [load_profile("demo", model=model).model_name for model in ["phi-2", *others]]
    assert name == "phi-2"
    assert [re.sub("-[0-9a-f]{6}$", "", name) for name in names] == ["model"] * 3 + ["folder-with-spaces"] * 2
    assert len(set(names)) == len(names)
    assert names[0] == load_profile("demo", model=HUB).model_name, "the next run finds it again"
