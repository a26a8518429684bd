"""A tiny language model as a GGUF file, and as a wheel that holds it: what other people publish, in a second."""

import hashlib
import zipfile
from pathlib import Path

import gguf
import numpy as np

HIDDEN, WIDE, HEADS, BLOCKS = 64, 128, 4, 2
TOKENS = ["<|endoftext|>", *(chr(c) for c in range(33, 127)), "Ġ", "Ċ", "Ġt", "Ġth", "Ġthe"]
MERGES = ["Ġ t", "Ġt h", "Ġth e"]


def write(path: Path, *, architecture: str = "llama", kind: str = "Q4_1") -> Path:
    """A Llama of two blocks with random weights, those of its blocks rounded as ``kind`` says."""
    writer, random = gguf.GGUFWriter(path, architecture), np.random.default_rng(0)
    rounded = gguf.GGMLQuantizationType[kind]
    writer.add_context_length(512)
    writer.add_embedding_length(HIDDEN)
    writer.add_block_count(BLOCKS)
    writer.add_feed_forward_length(WIDE)
    writer.add_head_count(HEADS)
    writer.add_head_count_kv(HEADS)
    writer.add_layer_norm_rms_eps(1e-5)
    writer.add_rope_freq_base(10_000)
    writer.add_vocab_size(len(TOKENS))
    writer.add_file_type(gguf.LlamaFileType[f"MOSTLY_{kind}"])
    writer.add_tokenizer_model("gpt2")
    writer.add_token_list(TOKENS)
    writer.add_token_types([gguf.TokenType.CONTROL, *[gguf.TokenType.NORMAL] * (len(TOKENS) - 1)])
    writer.add_token_merges(MERGES)
    for name in ("bos", "eos", "unk"):
        getattr(writer, f"add_{name}_token_id")(0)

    def add(name, *shape):
        values = (0.5 * random.standard_normal(shape)).astype(np.float32) if len(shape) > 1 else np.ones(shape, np.float32)
        if name.startswith("blk.") and len(shape) > 1:
            writer.add_tensor(name, gguf.quants.quantize(values, rounded), raw_dtype=rounded)
        else:
            writer.add_tensor(name, values)

    add("token_embd.weight", len(TOKENS), HIDDEN)
    add("output_norm.weight", HIDDEN)
    for block in range(BLOCKS):
        for name, shape in {
            "attn_norm": (HIDDEN,), "attn_q": (HIDDEN, HIDDEN), "attn_k": (HIDDEN, HIDDEN), "attn_v": (HIDDEN, HIDDEN),
            "attn_output": (HIDDEN, HIDDEN), "ffn_norm": (HIDDEN,), "ffn_gate": (WIDE, HIDDEN), "ffn_up": (WIDE, HIDDEN), "ffn_down": (HIDDEN, WIDE),
        }.items():  # fmt: skip
            add(f"blk.{block}.{name}.weight", *shape)
    writer.write_header_to_file()
    writer.write_kv_data_to_file()
    writer.write_tensors_to_file()
    writer.close()
    return path


def wheel(folder: Path, name: str, files: dict[str, bytes], version: str = "1.0") -> Path:
    """A wheel of the name and version that holds the files."""
    path, info = folder / f"{name}-{version}-py3-none-any.whl", f"{name}-{version}.dist-info"
    with zipfile.ZipFile(path, "w") as archive:
        for file, content in files.items():
            archive.writestr(file, content)
        archive.writestr(f"{info}/METADATA", f"Metadata-Version: 2.1\nName: {name}\nVersion: {version}\n")
        archive.writestr(f"{info}/WHEEL", "Wheel-Version: 1.0\nGenerator: test\nRoot-Is-Purelib: true\nTag: py3-none-any\n")
        archive.writestr(f"{info}/RECORD", "")
    return path


def sha256(path: Path) -> str:
    return hashlib.sha256(path.read_bytes()).hexdigest()
