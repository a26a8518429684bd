"""The five models in their true shapes, with random weights: what counts for speed and memory, without a download."""

from pathlib import Path

import torch
from accelerate import init_empty_weights
from tokenizers import Tokenizer, decoders
from tokenizers.models import BPE
from tokenizers.pre_tokenizers import ByteLevel
from transformers import AutoConfig, AutoModelForCausalLM, PreTrainedTokenizerFast

SHAPES = {
    "mistral-7b": {
        "model_type": "mistral", "hidden_size": 4096, "intermediate_size": 14336, "num_hidden_layers": 32,
        "num_attention_heads": 32, "num_key_value_heads": 8,
        "vocab_size": 32000, "sliding_window": 4096, "max_position_embeddings": 32768, "tie_word_embeddings": False,
    },
    "qwen2.5-7b": {
        "model_type": "qwen2", "hidden_size": 3584, "intermediate_size": 18944, "num_hidden_layers": 28, "num_attention_heads": 28,
        "num_key_value_heads": 4, "vocab_size": 152064, "max_position_embeddings": 131072, "tie_word_embeddings": False,
    },
    "smollm2-1.7b": {
        "model_type": "llama", "hidden_size": 2048, "intermediate_size": 8192, "num_hidden_layers": 24, "num_attention_heads": 32,
        "num_key_value_heads": 32, "vocab_size": 49152, "max_position_embeddings": 8192, "tie_word_embeddings": True,
    },
    "phi-2": {
        "model_type": "phi", "hidden_size": 2560, "intermediate_size": 10240, "num_hidden_layers": 32, "num_attention_heads": 32,
        "num_key_value_heads": 32, "vocab_size": 51200, "max_position_embeddings": 2048, "tie_word_embeddings": False,
        "rope_parameters": {"rope_type": "default", "rope_theta": 10000.0, "partial_rotary_factor": 0.4},
    },
    "qwen2.5-0.5b": {
        "model_type": "qwen2", "hidden_size": 896, "intermediate_size": 4864, "num_hidden_layers": 24, "num_attention_heads": 14,
        "num_key_value_heads": 2, "vocab_size": 151936, "max_position_embeddings": 32768, "tie_word_embeddings": True,
    },
}  # fmt: skip


def skeleton(name: str):
    """The model on the meta device."""
    config = AutoConfig.for_model(**SHAPES[name])
    with torch.device("meta"):
        model = AutoModelForCausalLM.from_config(config, dtype=torch.bfloat16)
    model.tie_weights()
    return model


def unfilled(name: str, device: str = "cpu"):
    """The model in float16, its buffers filled. Its weights are asked for and never touched, so that they take no memory."""
    config = AutoConfig.for_model(**SHAPES[name])
    with init_empty_weights(include_buffers=False):
        model = AutoModelForCausalLM.from_config(config, dtype=torch.float16).eval()
    for module in model.modules():
        for weight, parameter in module._parameters.items():
            if parameter is not None:
                empty = torch.empty(parameter.shape, dtype=torch.float16, device=device)
                module._parameters[weight] = torch.nn.Parameter(empty, requires_grad=False)
        for buffer, tensor in module._buffers.items():
            module._buffers[buffer] = tensor.to(device)
    model.tie_weights()
    return model


def write(name: str, folder: Path, dtype: torch.dtype = torch.bfloat16, blocks: int | None = None) -> None:
    """Writes a random checkpoint in the true shape of a model to a folder; ``blocks``, fewer of them than the model has."""
    torch.manual_seed(0)
    config = AutoConfig.for_model(**SHAPES[name])
    config.num_hidden_layers = blocks or config.num_hidden_layers
    with torch.device("cuda" if torch.cuda.is_available() else "cpu"):  # random numbers for 7 billion weights take a CPU minutes
        model = AutoModelForCausalLM.from_config(config, dtype=dtype)
    model.save_pretrained(folder, max_shard_size="2GB")
    tokenizer = Tokenizer(BPE({character: i for i, character in enumerate(sorted(ByteLevel.alphabet()))}, []))  # a token a byte
    tokenizer.pre_tokenizer, tokenizer.decoder = ByteLevel(add_prefix_space=False), decoders.ByteLevel()
    PreTrainedTokenizerFast(tokenizer_object=tokenizer).save_pretrained(folder)
