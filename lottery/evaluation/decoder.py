"""Decoding at batch 1 near the floor, which is the bytes that must be read: a token is one call of ``decode.c``, sparse or dense."""

import ctypes
import time

import torch
from torch import nn

from lottery.common.errors import LotteryError
from lottery.evaluation.generation import Generated
from lottery.models.blocks import blocks
from lottery.sparse.kernel import DTYPE_CODES, Kernel, Product, kernel, product_of
from lottery.sparse.linear import SparseLinear

FAMILIES = ("llama", "mistral", "qwen2", "phi")  # model types of transformers
_ROPES = ("default", "linear", "llama3")  # whose angles do not depend on the length of the text


class UnsupportedError(LotteryError):
    """The decoder does not know the architecture; transformers' own loop decodes it."""


class _Block(ctypes.Structure):
    _fields_ = [
        ("qkv", Product * 3), ("out", Product), ("up", Product * 2), ("down", Product),
        *((name, ctypes.c_void_p) for name in ("norm", "norm_bias", "mlp_norm", "keys", "values")),
    ]  # fmt: skip


class _Decoder(ctypes.Structure):
    _fields_ = [
        ("blocks", ctypes.c_void_p), ("head", Product),
        *((name, ctypes.c_void_p) for name in ("embedding", "norm", "norm_bias", "cosine", "sine")),
        *((name, ctypes.c_void_p) for name in ("state", "normed", "qkv", "mixed", "inner", "added")),
        *((name, ctypes.c_int64) for name in ("n_blocks", "hidden", "heads", "kv_heads", "head_size", "rotated", "intermediate")),
        *((name, ctypes.c_int64) for name in ("room", "window")),
        *((name, ctypes.c_int32) for name in ("embedding_dtype", "gated", "layer_norm")), ("epsilon", ctypes.c_float),
    ]  # fmt: skip


class Decoder:
    """A model of the Llama, Mistral, Qwen2 or Phi family that writes token by token on the CPU, with a cache of fixed size.

    Activations and sums are fp32 whatever the weights are. It reads the weights of the model that it is made from and copies only norms and
    biases, and the head where fewer bits hold it exactly.
    """

    def __init__(self, model: nn.Module, room: int):
        """Prepare a model for decoding.

        Args:
            model: A causal language model of transformers on the CPU; its layers are ``torch.nn.Linear`` or ``SparseLinear``.
            room: Tokens that the cache can hold, those of the prompt included.

        Raises:
            UnsupportedError: Its architecture is none of ``FAMILIES``, or something in its configuration is not supported.
            KernelError: There is no kernel on this machine.
        """
        check_supported(model.config)
        self._kernel: Kernel = kernel()
        self.model, self.room, self.position = model, room, 0
        self._kept: list = []  # what only an address leads to from here
        config, base = model.config, model.model
        phi, hidden, inner_size = config.model_type == "phi", config.hidden_size, config.intermediate_size
        heads, kv_heads = config.num_attention_heads, config.num_key_value_heads
        size = getattr(config, "head_dim", None) or hidden // heads
        self._cache = torch.zeros(2, config.num_hidden_layers, kv_heads, room, size)
        self.logits = torch.zeros(1, config.vocab_size)
        widths = {"state": hidden, "normed": hidden, "qkv": (heads + 2 * kv_heads) * size, "mixed": heads * size}
        buffers = {name: torch.zeros(1, width) for name, width in (widths | {"inner": 2 * inner_size, "added": hidden}).items()}
        normed, qkv, mixed, inner, added = (buffers[name] for name in ("normed", "qkv", "mixed", "inner", "added"))
        self._blocks = (_Block * config.num_hidden_layers)()
        for block, layer, keys, values in zip(self._blocks, blocks(model), *self._cache, strict=True):
            attention, mlp = layer.self_attn, layer.mlp
            block.qkv[:] = self._products(normed, qkv, attention.q_proj, attention.k_proj, attention.v_proj)
            (block.out,) = self._products(mixed, added, attention.dense if phi else attention.o_proj)
            up = self._products(normed, inner, *([mlp.fc1] if phi else [mlp.gate_proj, mlp.up_proj]))
            block.up[: len(up)] = up
            (block.down,) = self._products(inner[:, :inner_size], added, mlp.fc2 if phi else mlp.down_proj)
            block.norm, block.norm_bias = self._norm(layer.input_layernorm)
            block.mlp_norm = None if phi else self._norm(layer.post_attention_layernorm)[0]
            block.keys, block.values = keys.data_ptr(), values.data_ptr()
        norm, norm_bias = self._norm(base.final_layernorm if phi else base.norm)
        self._head = _narrowest(model.lm_head.weight.detach())
        embedding, (cosine, sine) = base.embed_tokens.weight.detach(), self._angles()
        self._decoder = _Decoder(
            blocks=ctypes.addressof(self._blocks), head=self._product(normed, self._head, model.lm_head.bias, self.logits),
            embedding=self._address(embedding), embedding_dtype=DTYPE_CODES[embedding.dtype],
            norm=norm, norm_bias=norm_bias, cosine=self._address(cosine), sine=self._address(sine), rotated=2 * cosine.shape[1],
            n_blocks=config.num_hidden_layers, hidden=hidden, heads=heads, kv_heads=kv_heads, head_size=size, intermediate=inner_size,
            room=room, window=getattr(config, "sliding_window", None) or 0, gated=not phi, layer_norm=phi,
            epsilon=config.layer_norm_eps if phi else config.rms_norm_eps,
            **{name: self._address(buffer) for name, buffer in buffers.items()},
        )  # fmt: skip

    @torch.inference_mode()
    def prefill(self, tokens: torch.Tensor) -> torch.Tensor:
        """Read a prompt by the model's own forward pass, and keep its keys and values.

        Args:
            tokens: int64 [1, length].

        Returns:
            The logits after its last token, fp32 [1, vocabulary].

        Raises:
            ValueError: The cache has no room for so many.
        """
        length = tokens.shape[1]
        if length > self.room:
            raise ValueError(f"tokens: given {length}; allowed: as many as the cache has room for, {self.room}")
        given = self.model(tokens, use_cache=True, logits_to_keep=1)
        for keys, values, layer in zip(*self._cache, given.past_key_values.layers, strict=True):
            kept = slice(length - layer.keys.shape[2], length)  # of a sliding window only the end
            keys[:, kept], values[:, kept] = layer.keys[0].float(), layer.values[0].float()
        self.position = length
        return given.logits[:, -1].float()

    def step(self, token: int | torch.Tensor) -> torch.Tensor:
        """Read one more token.

        Args:
            token: Its number.

        Returns:
            The logits after it, fp32 [1, vocabulary]; the next step writes over them.

        Raises:
            ValueError: The cache is full.
            MemoryError: There is no memory for the step.
        """
        if self.position >= self.room:
            raise ValueError(f"the cache has room for {self.room} tokens, and they are there; make a Decoder with more room")
        decode, place = self._kernel.library.lottery_decode, (ctypes.c_int64(int(token)), ctypes.c_int64(self.position))
        if decode(ctypes.byref(self._decoder), *place, self._kernel.isa, torch.get_num_threads()):
            raise MemoryError("no memory for a decoding step")
        self.position += 1
        return self.logits

    def read_bytes(self) -> int:
        """Return the bytes of weights that a step reads: those of the blocks and the head."""
        return self._head.nbytes + block_bytes(self.model)

    def _address(self, tensor: torch.Tensor) -> int:
        tensor = tensor.contiguous()
        self._kept.append(tensor)
        return tensor.data_ptr()

    def _product(self, x: torch.Tensor, weight, bias: torch.Tensor | None, y: torch.Tensor) -> Product:
        bias = None if bias is None else bias.detach().float()
        self._kept += [x, weight, bias, y]
        return product_of(x, weight, bias, y)

    def _products(self, x: torch.Tensor, y: torch.Tensor, *layers: nn.Module) -> list[Product]:
        """Return the products of the same ``x`` with several layers, one after the other in ``y``."""
        weights = [layer.packed if isinstance(layer, SparseLinear) else layer.weight.detach().contiguous() for layer in layers]
        ends = torch.tensor([layer.out_features for layer in layers]).cumsum(0).tolist()
        places = [y[:, end - layer.out_features : end] for layer, end in zip(layers, ends, strict=True)]
        return [self._product(x, weight, layer.bias, place) for layer, weight, place in zip(layers, weights, places, strict=True)]

    def _norm(self, norm: nn.Module) -> tuple[int, int | None]:
        bias = getattr(norm, "bias", None)
        return self._address(norm.weight.detach().float()), None if bias is None else self._address(bias.detach().float())

    def _angles(self) -> tuple[torch.Tensor, torch.Tensor]:
        """Return cosines and sines of the rotary positions [room, rotated / 2], as the model itself computes them."""
        with torch.inference_mode():
            cosine, sine = self.model.model.rotary_emb(torch.zeros(1, 1), torch.arange(self.room)[None])
        half = cosine.shape[-1] // 2
        return cosine[0, :, :half].contiguous(), sine[0, :, :half].contiguous()


def decode(decoder: Decoder, prompt: torch.Tensor, new_tokens: int) -> Generated:
    """Generate exactly ``new_tokens`` tokens after a prompt, int64 [1, length], greedily; an end-of-text token does not stop it.

    It takes a ``GraphDecoder`` as well.
    """
    started = time.perf_counter()
    found = [decoder.prefill(prompt).argmax()]
    found[0].item()  # which waits for a GPU; nothing else does before the last token
    first = time.perf_counter()
    while len(found) < new_tokens:
        found.append(decoder.step(found[-1]).argmax())
    tokens = torch.stack(found)[None].cpu()
    return Generated(tokens, first - started, time.perf_counter() - first)


def block_bytes(model: nn.Module) -> int:
    """Return the bytes of the linear layers inside a model's blocks, packed or dense."""
    layers = (layer for block in blocks(model) for layer in block.modules() if isinstance(layer, nn.Linear | SparseLinear))
    return sum((one.packed if isinstance(one, SparseLinear) else one.weight).nbytes for one in layers)


def _narrowest(weight: torch.Tensor) -> torch.Tensor:
    """Return a weight in 16 bits where these hold it exactly, as those of a head that was published in 16 bits do."""
    for dtype in (torch.bfloat16, torch.float16):
        narrow = weight.to(dtype)
        if torch.equal(narrow.to(weight.dtype), weight):
            return narrow
    return weight.contiguous()


def check_supported(config) -> None:
    """Raise ``UnsupportedError`` where a model's configuration asks for something that the decoder does not compute."""
    if config.model_type not in FAMILIES:
        raise UnsupportedError(f"given {config.model_type!r}; the decoder knows {', '.join(FAMILIES)}")
    activation = "gelu_new" if config.model_type == "phi" else "silu"
    rope = (getattr(config, "rope_parameters", None) or {}).get("rope_type", "default")
    if config.hidden_act != activation or getattr(config, "qk_layernorm", False) or rope not in _ROPES:
        raise UnsupportedError(
            f"given {config.model_type} with {config.hidden_act} and {rope} positions; the decoder knows it with {activation}, positions of"
            f" {', '.join(_ROPES)}, and queries that are not normalized"
        )
    if len(set(getattr(config, "layer_types", None) or ["full_attention"])) > 1:
        raise UnsupportedError(f"given {config.model_type} with windows in some blocks only; the decoder knows one window for all of them")
