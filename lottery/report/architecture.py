"""What a model is made of, read off its skeleton: no weight is loaded."""

import re
from collections import defaultdict

import pandas as pd
from IPython.display import Markdown
from torch import nn

from lottery.models.blocks import blocks, prunable
from lottery.report.markdown import markdown, verbatim


def weights_by_kind(model: nn.Module) -> pd.DataFrame:
    """Count the weights in each kind of layer: ``parameters`` and their ``share`` of the whole. A shared tensor counts once.

    Kinds are the names inside a block (``self_attn.q_proj``, ``mlp.up_proj``, …), 'embedding', 'head', and 'norms and biases'.
    """
    ends = {id(model.get_input_embeddings().weight): "embedding"}
    ends.setdefault(id(model.get_output_embeddings().weight), "head")
    linear = {id(layer.weight): re.sub(r"^.*?\.\d+\.", "", name) for name, layer in prunable(model).items()}
    sizes: dict[str, int] = defaultdict(int)
    for _, parameter in model.named_parameters():
        kind = ends.get(id(parameter)) or linear.get(id(parameter)) or "norms and biases"
        sizes[kind] += parameter.numel()
    table = pd.DataFrame({"parameters": pd.Series(sizes)})
    table["share"] = table["parameters"] / table["parameters"].sum()
    table["pruned"] = ["yes" if kind in linear.values() else "no" for kind in table.index]
    return table.rename_axis("layer").reset_index()


def attention(model: nn.Module) -> pd.DataFrame:
    """Show how attention is built: heads, key-value heads, head width, window, and the share of each head that is rotated."""
    config = model.config
    heads = config.num_attention_heads
    groups = getattr(config, "num_key_value_heads", None) or heads
    rotary = (getattr(config, "rope_parameters", None) or {}).get("partial_rotary_factor", 1.0)
    window = getattr(config, "sliding_window", None)
    return pd.DataFrame(
        {
            "query heads": [heads],
            "key-value heads": [groups],
            "queries per key": [heads // groups],
            "head width": [getattr(config, "head_dim", None) or config.hidden_size // heads],
            "window": [f"{window} tokens" if window else "the whole context"],
            "rotated share of a head": [rotary],
        }
    )


def biases(model: nn.Module) -> pd.DataFrame:
    """Show which linear layers of a block have a bias; biases are never pruned."""
    first = {name.split(".0.", 1)[1]: layer for name, layer in prunable(model).items() if ".0." in name}
    return pd.DataFrame(
        [
            {"layer": name, "weights": layer.weight.numel(), "biases": 0 if layer.bias is None else layer.bias.numel()}
            for name, layer in first.items()
        ]
    )


def ends(model: nn.Module) -> pd.DataFrame:
    """Show embedding and head: their shapes, and whether they are one tensor (a tied head)."""
    embedding, head = model.get_input_embeddings().weight, model.get_output_embeddings().weight
    tied = embedding is head
    return pd.DataFrame(
        {
            "layer": ["embedding", "head"],
            "shape": [" × ".join(f"{n:,}" for n in tensor.shape) for tensor in (embedding, head)],
            "own weights": [f"{embedding.numel():,}", "none, tied to the embedding" if tied else f"{head.numel():,}"],
        }
    )


def one_block(model: nn.Module) -> Markdown:
    """Show the first block as torch prints it."""
    return markdown(verbatim(str(blocks(model)[0])))
