"""Exported models: written whole, read back to the bit, studied like any other, and refused where they are damaged."""

import json
import shutil

import pytest
import torch
import yaml
from safetensors.torch import load_file, save_file
from transformers import AutoModelForCausalLM, AutoTokenizer

from lottery.__main__ import main
from lottery.common.errors import LotteryError, ParamsError
from lottery.common.format import NBSP
from lottery.config.profile import validated
from lottery.experiments import decode
from lottery.experiments import pruned as making
from lottery.experiments.export import export
from lottery.experiments.study import Study
from lottery.models import loading
from lottery.models.blocks import prunable
from lottery.models.checkpoints import FILES, STAND_INS, Checkpoint, stand_ins
from lottery.sparse import folder as module
from lottery.sparse.bitmask import FormatError
from lottery.sparse.linear import SparseLinear


def pruned(name, dtype=torch.float32, sparsity=0.5):
    """A stand-in of which the first layer is left dense, another is all zeros, and the others are half zeros."""
    model = AutoModelForCausalLM.from_pretrained(STAND_INS / name, dtype=dtype).eval()
    with torch.no_grad():
        for number, layer in enumerate(prunable(model).values()):
            weight = layer.weight
            if number == 1:
                weight.zero_()
            elif number:
                weight[weight.abs() <= weight.abs().float().quantile(sparsity)] = 0
    return model


def written(model, name, folder):
    layers = list(prunable(model))
    dense = module.write(model, layers, model.dtype, STAND_INS / name, FILES, folder)
    assert dense == layers[:1], "a layer without zeros would grow"
    return Checkpoint(name, "folder", str(folder)).check()


@pytest.mark.parametrize("dtype", [torch.float32, torch.bfloat16, torch.float16])
@pytest.mark.parametrize("name", stand_ins())
def test_a_model_comes_back_to_the_bit_dense_and_packed(name, dtype, tmp_path):
    model = pruned(name, dtype)
    found = written(model, name, tmp_path / "out")
    dense, packed = loading.load_sparse(found, packed=False), loading.load_sparse(found)
    before, after = model.state_dict(), dense.state_dict()
    assert before.keys() == after.keys()
    assert all(torch.equal(before[key], after[key]) for key in before)
    layers = prunable(model)
    for at, layer in layers.items():
        same = packed.get_submodule(at)
        assert isinstance(same, SparseLinear) == (at != next(iter(layers)))
        assert torch.equal(same.dense_weight() if isinstance(same, SparseLinear) else same.weight, layer.weight)
        assert (same.bias is None) == (layer.bias is None)
    tokens = torch.arange(5, 45)[None]
    with torch.inference_mode():
        assert torch.equal(model(tokens).logits, packed(tokens).logits)
    assert (dense.lm_head.weight is dense.model.embed_tokens.weight) == model.config.tie_word_embeddings


def test_a_dense_copy_for_other_programs_is_the_same_model(tmp_path):
    """As docs/sparse.md has it."""
    model = pruned("qwen2.5-0.5b")
    written(model, "qwen2.5-0.5b", tmp_path / "out")
    dense = loading.load_sparse(Checkpoint("mine", "folder", str(tmp_path / "out")), packed=False)
    dense.save_pretrained(tmp_path / "dense")
    AutoTokenizer.from_pretrained(tmp_path / "out").save_pretrained(tmp_path / "dense")
    again = AutoModelForCausalLM.from_pretrained(tmp_path / "dense").eval()
    assert "sparsity_config" not in (tmp_path / "dense" / "config.json").read_text()
    tokens = torch.arange(5, 45)[None]
    with torch.inference_mode():
        assert torch.equal(again(tokens).logits, model(tokens).logits)


def test_the_folder_says_what_it_is_and_holds_the_tokenizer(tmp_path):
    written(pruned("phi-2"), "phi-2", tmp_path / "out")
    config = json.loads((tmp_path / "out" / "config.json").read_text())
    about = config["sparsity_config"]
    assert {key: about[key] for key in ("format", "sparsity_structure", "targets")} == {
        "format": "sparse-bitmask", "sparsity_structure": "unstructured", "targets": ["Linear"]
    }  # fmt: skip
    assert about["ignore"] == ["lm_head", "model.layers.0.self_attn.q_proj"]
    assert 0.4 < about["global_sparsity"] < 0.6
    assert config["dtype"] == "float32"
    index = json.loads((tmp_path / "out" / module.SAFETENSORS_INDEX_FILE).read_text())
    first = load_file(tmp_path / "out" / "model-00001-of-00006.safetensors")
    layer = "model.layers.0.self_attn.k_proj"
    assert {f"{layer}.{part}" for part in ("compressed", "bitmask", "row_offsets", "shape", "bias")} <= first.keys()
    assert f"{layer}.weight" not in index["weight_map"]
    assert (tmp_path / "out" / "tokenizer.json").exists()
    assert loading.tokenizer(Checkpoint("x", "folder", str(tmp_path / "out")))("a cat").input_ids


def test_a_crash_leaves_no_folder(tmp_path, monkeypatch):
    calls = []

    def failing(*arguments, **options):
        calls.append(save_file(*arguments, **options))
        if len(calls) == 3:
            raise OSError(28, "No space left on device")

    monkeypatch.setattr(module, "save_file", failing)
    with pytest.raises(OSError, match="No space left"):
        written(pruned("phi-2"), "phi-2", tmp_path / "out")
    assert list(tmp_path.iterdir()) == []


def test_no_more_than_a_block_is_held_beside_the_model(tmp_path, monkeypatch):
    model = pruned("qwen2.5-7b")
    largest = []
    monkeypatch.setattr(
        module, "save_file", lambda tensors, *rest, **options: largest.append(tensors.keys()) or save_file(tensors, *rest, **options)
    )
    written(model, "qwen2.5-7b", tmp_path / "out")
    blocks = len(model.model.layers)
    assert len(largest) == blocks + 1
    for number, names in enumerate(largest[:-1]):
        assert all(name.startswith(f"model.layers.{number}.") for name in names)


def test_what_is_not_finite_and_what_is_there_already_is_not_written(tmp_path):
    model = pruned("phi-2", torch.float16)
    with torch.no_grad():
        model.model.layers[1].mlp.fc1.weight[0, 0] = torch.inf
    with pytest.raises(LotteryError, match=r"model.layers.1.mlp.fc1.weight is not finite in torch.float16; export it in a wider dtype"):
        written(model, "phi-2", tmp_path / "out")
    (tmp_path / "out").mkdir()
    with pytest.raises(LotteryError, match="is there already; remove it to export again"):
        written(model, "phi-2", tmp_path / "out")


@pytest.fixture(scope="module")
def whole(tmp_path_factory):
    folder = tmp_path_factory.mktemp("whole") / "out"
    written(pruned("phi-2"), "phi-2", folder)
    return folder


def edited(folder, edit):
    """The tensors of the first block's file, changed."""
    path = folder / "model-00001-of-00006.safetensors"
    tensors = load_file(path)
    edit(tensors)
    save_file(tensors, path)


K = "model.layers.0.self_attn.v_proj"


def cut(folder):
    path = folder / "model-00002-of-00006.safetensors"
    path.write_bytes(path.read_bytes()[:-100])


def replaced(folder, text):
    (folder / module.SAFETENSORS_INDEX_FILE).write_text(text)


@pytest.mark.parametrize(
    ("damage", "words"),
    [
        (cut, "model-00002-of-00006.safetensors cannot be read"),
        (lambda f: (f / "model-00003-of-00006.safetensors").write_bytes(b"\xff" * 64), "model-00003-of-00006.safetensors cannot be read"),
        (lambda f: (f / "model-00003-of-00006.safetensors").unlink(), "model-00003-of-00006.safetensors"),
        (lambda f: edited(f, lambda t: t.pop(f"{K}.bitmask")), f"lacks {K}.bitmask"),
        (lambda f: edited(f, lambda t: t.pop(f"{K}.compressed")), f"lacks {K}.compressed"),
        (lambda f: edited(f, lambda t: t.update({f"{K}.row_offsets": t[f"{K}.row_offsets"] + 10**12})), "row offsets are not the sums"),
        (lambda f: edited(f, lambda t: t.update({f"{K}.compressed": t[f"{K}.compressed"][:-1].clone()})), "bits set for"),
        (lambda f: edited(f, lambda t: t.update({f"{K[:-6]}o.compressed": t[f"{K}.compressed"].clone()})), "lacks model.layers.0.self_attn.o.bitmask"),
        (lambda f: edited(f, lambda t: t.update({"elsewhere.weight": torch.ones(2, 2)})), "elsewhere.weight does not fit the model"),
        (lambda f: replaced(f, "{"), "has no model.safetensors.index.json that can be read"),
        (lambda f: replaced(f, '{"weight_map": {"a": "../../secret"}}'), "its index names '../../secret', which is not a file of this folder"),
    ],
)  # fmt: skip
@pytest.mark.parametrize("packed", [True, False])
def test_a_damaged_folder_is_refused_in_one_line(whole, damage, words, packed, tmp_path):
    shutil.copytree(whole, tmp_path / "out")
    damage(tmp_path / "out")
    with pytest.raises(FormatError) as error:
        loading.load_sparse(Checkpoint("x", "folder", str(tmp_path / "out")), packed=packed)
    assert words in str(error.value)
    assert "\n" not in str(error.value)


@pytest.mark.parametrize("packed", [True, False])
def test_a_weight_of_another_shape_is_refused(whole, packed, tmp_path):
    shutil.copytree(whole, tmp_path / "out")
    wide = load_file(whole / "model-00001-of-00006.safetensors")
    up, parts = "model.layers.0.mlp.fc1", ("compressed", "bitmask", "row_offsets", "shape")
    edited(tmp_path / "out", lambda tensors: tensors.update({f"{K}.{part}": wide[f"{up}.{part}"].clone() for part in parts}))
    with pytest.raises(FormatError, match=r"v_proj.weight does not fit the model of its config.json"):
        loading.load_sparse(Checkpoint("x", "folder", str(tmp_path / "out")), packed=packed)


def test_an_exported_variant_is_its_trials_and_is_studied_like_any_other(toy, capsys):
    values = {**toy, "sparsities": [0.5], "dtype": "float32"}
    calibrated = {"calibration_text": "training-stories", "calibration_samples": 4, "calibration_seq_len": 32}
    recover = {"how": ["masked"], "steps": 4, "batch_size": 2, "learning_rate": [0.001]}
    study = Study(validated({**values, **calibrated, "recover": recover}))
    study.measure_dense()
    study.sweep()
    with pytest.raises(ParamsError, match=r"VARIANT: given 'wanda 50%'; allowed: magnitude 50%, magnitude 50% \+ masked$"):
        export(study.profile, "wanda 50%")
    for variant in ("magnitude 50%", "magnitude 50% + masked"):
        target = export(study.profile, variant)
        assert "in float32, " in capsys.readouterr().out
        again = Study(validated({**values, "model": str(target)}))
        again.measure_dense()
        (trial,) = (record for record in study.records if record.request.title.replace(NBSP, " ") == variant)
        assert again.records[0].result.window_nll == trial.result.window_nll, variant
    with pytest.raises(LotteryError, match="is there already"):
        export(study.profile, "magnitude 50%")


def test_the_command_exports_a_variant_of_the_model_that_it_names(toy, project, capsys, monkeypatch):
    values = {key: value for key, value in toy.items() if key not in ("profile", "model")}
    (project / "params" / "toy.yaml").write_text(
        yaml.safe_dump({**values, "checkpoints": {"phi-2": "stand-in:phi-2", **toy["checkpoints"]}})
    )
    monkeypatch.setattr("sys.argv", ["lottery", "export", "toy", "phi-2", "magnitude 90%"])
    assert main() == 0
    assert "phi-2: magnitude 90%: pruned in " in capsys.readouterr().out.replace(NBSP, " ")
    (folder,) = (project / "outputs" / "toy" / "phi-2" / "export").iterdir()
    assert json.loads((folder / "config.json").read_text())["model_type"] == "phi"


def test_an_export_streams_where_memory_runs_out(toy, monkeypatch, capsys):
    real = making.prune

    def hungry(model, *arguments, device=None, **keywords):
        if device is None:
            raise torch.OutOfMemoryError("CUDA out of memory. Tried to allocate 1.34 GiB.")
        real(model, *arguments, device=device, **keywords)

    monkeypatch.setattr(making, "prune", hungry)
    with pytest.raises(LotteryError, match=r"^out of memory while pruning by magnitude; take fewer calibration_samples"):
        export(validated({**toy, "sparsities": [0.5]}), "magnitude 50%")
    monkeypatch.setattr(loading, "streaming_spares", lambda device: True)
    assert export(validated({**toy, "sparsities": [0.5]}), "magnitude 50%").is_dir()
    assert "streaming it block by block" in capsys.readouterr().out


def test_an_exported_model_writes_the_same_three_ways(whole):
    ways = decode.compare(str(whole), "A small cat", new_tokens=12, repeats=1)
    assert [way.how for way in ways] == ["sparse", "dense", "dense, transformers"]
    assert len({way.text for way in ways}) == 1
    assert ways[0].weights < ways[1].weights == ways[2].weights
    assert all(way.tokens_per_second > 0 for way in ways)
    with pytest.raises(LotteryError, match="is not in the sparse-bitmask format; allowed: a folder that make export wrote"):
        decode.compare(str(STAND_INS / "phi-2"), "A small cat")
