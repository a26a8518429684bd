"""A pruned model as a Hugging Face folder with its weights in the sparse-bitmask format, a file a block; and back, to the bit."""

import json
import shutil
import tempfile
from collections.abc import Iterator
from pathlib import Path

import torch
from huggingface_hub.constants import SAFETENSORS_INDEX_FILE
from safetensors import SafetensorError, safe_open
from safetensors.torch import save_file

from lottery.common.errors import LotteryError, on_one_line
from lottery.common.format import dtype_name
from lottery.sparse.bitmask import NAME, PARTS, FormatError, Packed, checked, stored_bytes
from lottery.sparse.linear import pack


def is_sparse(folder: Path) -> bool:
    """Return whether a folder's configuration says that weights are in the sparse-bitmask format."""
    try:
        config = json.loads((folder / "config.json").read_text(encoding="utf-8"))
    except (OSError, ValueError):
        return False
    return isinstance(config, dict) and (config.get("sparsity_config") or {}).get("format") == NAME


def write(model: torch.nn.Module, layers: list[str], dtype: torch.dtype, source: Path, files: list[str], folder: Path) -> list[str]:
    """Write a pruned model. The folder appears whole or not at all; beside the model, no more than one block is held in memory.

    Args:
        model: A causal language model of transformers, pruned.
        layers: Names of its pruned linear layers.
        dtype: In which values are stored.
        source: The folder of the dense checkpoint, whose tokenizer is copied.
        files: Patterns of the files to copy from it, weights and config.json excepted.
        folder: Where to; it must not exist.

    Returns:
        The layers that stay dense, because the format would make them larger.

    Raises:
        LotteryError: The folder exists, or a weight is not finite in ``dtype``.
    """
    check_free(folder)
    folder.parent.mkdir(parents=True, exist_ok=True)
    with tempfile.TemporaryDirectory(dir=folder.parent, prefix=".part-") as part:
        whole = Path(part) / "whole"
        whole.mkdir()
        where, total, zeros, weights, dense = {}, 0, 0, 0, []
        groups = _by_block(model, layers)
        for number, names in enumerate(groups, 1):
            file, tensors = f"model-{number:05d}-of-{len(groups):05d}.safetensors", {}
            for name, tensor in names.items():
                tensor, layer = tensor.detach().to(device="cpu", dtype=dtype), name.removesuffix(".weight")
                if layer not in layers:
                    tensors[name] = tensor.contiguous()
                    continue
                zeros, weights = zeros + tensor.numel() - int(torch.count_nonzero(tensor)), weights + tensor.numel()
                stored = _stored(layer, tensor)
                dense += [layer] * (name in stored)
                tensors |= stored
            save_file(tensors, whole / file, metadata={"format": "pt"})
            where |= dict.fromkeys(tensors, file)
            total += sum(tensor.nbytes for tensor in tensors.values())
        _write_json(whole / SAFETENSORS_INDEX_FILE, {"metadata": {"total_size": total}, "weight_map": where})
        for path in sorted({path for pattern in files for path in source.glob(pattern)}):
            if path.suffix != ".safetensors" and path.name not in ("config.json", SAFETENSORS_INDEX_FILE):
                shutil.copyfile(path, whole / path.name)
        config = json.loads((source / "config.json").read_text(encoding="utf-8"))
        config |= {"dtype": dtype_name(dtype), "sparsity_config": _about(zeros / weights, dense)}
        _write_json(whole / "config.json", config)
        whole.replace(folder)
    return dense


def _stored(layer: str, weight: torch.Tensor) -> dict[str, torch.Tensor]:
    """Return the tensors that hold a layer's weight in a file: four that are packed, or a dense one where those would be larger."""
    if stored_bytes(weight) == weight.nbytes:
        return {f"{layer}.weight": weight.contiguous()}
    if not bool(torch.isfinite(weight).all()):
        raise LotteryError(f"{layer}.weight is not finite in {weight.dtype}; export it in a wider dtype")
    return {f"{layer}.{part}": value for part, value in pack(weight)._asdict().items()}


def _write_json(path: Path, content: dict) -> None:
    path.write_text(json.dumps(content, indent=2) + "\n", encoding="utf-8")


def check_free(folder: Path) -> None:
    """Raise ``LotteryError`` where a folder exists: an export never writes over another."""
    if folder.exists():
        raise LotteryError(f"{folder} is there already; remove it to export again")


def _about(sparsity: float, dense: list[str]) -> dict:
    """Return ``sparsity_config`` as compressed-tensors writes it."""
    return {
        "format": NAME,
        "global_sparsity": round(sparsity, 6),
        "sparsity_structure": "unstructured",
        "targets": ["Linear"],
        "ignore": ["lm_head", *dense],
    }


def _by_block(model: torch.nn.Module, layers: list[str]) -> list[dict[str, torch.Tensor]]:
    """Return the tensors of each block by their names, and those outside the blocks last; what is shared is named once."""
    prefix = layers[0].split(".")
    at = next(i for i, word in enumerate(prefix) if word.isdigit())
    stem, groups, seen = ".".join(prefix[:at]) + ".", {}, set()
    for name, tensor in model.state_dict().items():
        if (address := (tensor.data_ptr(), tensor.shape)) in seen and tensor.numel():
            continue
        seen.add(address)
        block = int(name.removeprefix(stem).split(".")[0]) if name.startswith(stem) else -1
        groups.setdefault(block, {})[name] = tensor
    return [groups[block] for block in sorted(groups, key=lambda block: (block < 0, block))]


def read(folder: Path) -> Iterator[tuple[str, torch.Tensor | Packed]]:
    """Yield each tensor of a folder by the name that a dense checkpoint gives it; no more than one is held.

    Packed weights are checked before they are given out.

    Raises:
        FormatError: A file is missing, cut off or no safetensors, or a weight contradicts itself.
    """
    for path in _files(folder):
        try:
            with safe_open(path, framework="pt") as file:
                names = set(file.keys())
                for name in sorted(names):
                    layer, _, part = name.rpartition(".")
                    if part == PARTS[0]:
                        if lacking := [f"{layer}.{one}" for one in PARTS if f"{layer}.{one}" not in names]:
                            raise FormatError(f"{path.name} lacks {lacking[0]}; export the model again")
                        yield f"{layer}.weight", checked(Packed(*(file.get_tensor(f"{layer}.{one}") for one in PARTS)), layer)
                    elif part not in PARTS:
                        yield name, file.get_tensor(name)
                    elif f"{layer}.{PARTS[0]}" not in names:
                        raise FormatError(f"{path.name} lacks {layer}.{PARTS[0]}; export the model again")
        except (SafetensorError, OSError) as error:
            raise FormatError(f"{path.name} cannot be read ({on_one_line(error)}); export the model again") from error


def _files(folder: Path) -> list[Path]:
    """Return the weight files that the index names."""
    try:
        names = sorted(set(json.loads((folder / SAFETENSORS_INDEX_FILE).read_text(encoding="utf-8"))["weight_map"].values()))
    except (OSError, ValueError, KeyError, AttributeError) as error:
        raise FormatError(
            f"{folder.name} has no {SAFETENSORS_INDEX_FILE} that can be read ({type(error).__name__}); export the model again"
        ) from error
    if odd := [name for name in names if Path(name).name != name]:
        raise FormatError(f"{folder.name}: its index names {odd[0]!r}, which is not a file of this folder; it is refused")
    return [folder / name for name in names]
