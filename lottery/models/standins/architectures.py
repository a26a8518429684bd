"""The five stand-ins: each has the same transformers class as its original and the same special features, a thousand times smaller.

Ratios are kept where width allows: query to key-value heads, width of the MLP, tied or untied head, biases, the share of the embedding, the
order of size. Vocabulary sizes differ where the originals' tokenizers differ; the two Qwen models share one.
"""

from transformers import LlamaConfig, MistralConfig, PhiConfig, PretrainedConfig, Qwen2Config

CONTEXT = 512

_COMMON = {
    "max_position_embeddings": CONTEXT,
    "initializer_range": 0.05,
    "bos_token_id": 0,
    "eos_token_id": 0,
    "pad_token_id": None,
    "use_cache": True,
}

ARCHITECTURES: dict[str, PretrainedConfig] = {
    # Original: 32 query over 8 key-value heads, window 4096, untied head.
    "mistral-7b": MistralConfig(
        vocab_size=512, hidden_size=128, intermediate_size=448, num_hidden_layers=6,
        num_attention_heads=8, num_key_value_heads=2, sliding_window=128, tie_word_embeddings=False, **_COMMON,
    ),
    # Original: 28 query over 4 key-value heads, biases on q, k and v, untied head.
    "qwen2.5-7b": Qwen2Config(
        vocab_size=1024, hidden_size=140, intermediate_size=740, num_hidden_layers=4,
        num_attention_heads=7, num_key_value_heads=1, tie_word_embeddings=False, **_COMMON,
    ),
    # Original: as many key-value as query heads, tied head.
    "smollm2-1.7b": LlamaConfig(
        vocab_size=768, hidden_size=96, intermediate_size=384, num_hidden_layers=4,
        num_attention_heads=6, num_key_value_heads=6, tie_word_embeddings=True, **_COMMON,
    ),
    # Original: attention and MLP side by side, LayerNorm, biases everywhere, rotary embedding on 40% of each head.
    "phi-2": PhiConfig(
        vocab_size=896, hidden_size=112, intermediate_size=448, num_hidden_layers=5,
        num_attention_heads=7, num_key_value_heads=7, tie_word_embeddings=False,
        rope_parameters={"rope_type": "default", "rope_theta": 10000.0, "partial_rotary_factor": 0.5}, **_COMMON,
    ),
    # Original: 14 query over 2 key-value heads, biases on q, k and v, tied head, 28% of the weights in the embedding.
    "qwen2.5-0.5b": Qwen2Config(
        vocab_size=1024, hidden_size=84, intermediate_size=280, num_hidden_layers=4,
        num_attention_heads=7, num_key_value_heads=1, tie_word_embeddings=True, **_COMMON,
    ),
}  # fmt: skip
