"""Decoding at batch 1 on a GPU: a token is one replay of a CUDA graph, so that Python's many small launches are paid once."""

import torch
from torch import nn
from transformers import Cache
from transformers.cache_utils import StaticLayer

from lottery.evaluation.decoder import block_bytes
from lottery.sparse import gpu
from lottery.sparse.kernel import KernelError
from lottery.sparse.linear import SparseLinear

_WARM_UPS = 2  # steps before the capture: kernels are compiled and loaded, libraries take their memory


class GraphDecoder:
    """A model of transformers that writes token by token with a cache of fixed size; dense and sparse models by the same code.

    A step is transformers' own forward pass, captured once. On a CPU there are no graphs, and a step runs as it is written: slow, but the
    same numbers.
    """

    def __init__(self, model: nn.Module, room: int):
        """Prepare a model for decoding, and capture a step.

        Args:
            model: A causal language model of transformers, whole on one device; its layers are ``torch.nn.Linear`` or ``SparseLinear``.
            room: Tokens that the cache can hold, those of the prompt included.

        Raises:
            KernelError: The model is sparse, and there is no kernel for its GPU. Unpacking waits for the GPU, which no graph can hold.
        """
        self.model, self.room, self.position = model, room, 0
        self.device = next(model.parameters()).device
        # Layers of full length for sliding windows, too: transformers' own keep their place in Python, which a graph would freeze.
        self._cache = Cache(layers=[StaticLayer(max_cache_len=room) for _ in range(model.config.num_hidden_layers)])
        self._token = torch.zeros(1, 1, dtype=torch.int64, device=self.device)
        self._graph = None
        if self.device.type == "cuda":
            sparse = any(isinstance(layer, SparseLinear) for layer in model.modules())
            if sparse and (reason := gpu.why_not(gpu.architecture_of(self.device))):
                raise KernelError(f"no sparse kernel for this GPU: {reason}")
            self._graph = self._captured()

    @torch.inference_mode()
    def prefill(self, tokens: torch.Tensor) -> torch.Tensor:
        """Read a prompt.

        Args:
            tokens: int64 [1, length], on any device.

        Returns:
            The logits after its last token, fp32 [1, vocabulary].

        Raises:
            ValueError: The cache has no room for so many.
        """
        length = tokens.shape[1]
        if length > self.room:
            raise ValueError(f"tokens: given {length}; allowed: as many as the cache has room for, {self.room}")
        self._cache.reset()
        given = self.model(tokens.to(self.device), past_key_values=self._cache, use_cache=True, logits_to_keep=1)
        self.position = length
        return given.logits[:, -1].float()

    @torch.inference_mode()
    def step(self, token: int | torch.Tensor) -> torch.Tensor:
        """Read one more token.

        Args:
            token: Its number; a tensor on the device is not waited for.

        Returns:
            The logits after it, fp32 [1, vocabulary]; the next step writes over them.

        Raises:
            ValueError: The cache is full.
        """
        if self.position >= self.room:
            raise ValueError(f"the cache has room for {self.room} tokens, and they are there; make a GraphDecoder with more room")
        self._token.copy_(token) if isinstance(token, torch.Tensor) else self._token.fill_(token)
        if self._graph is None:
            self.logits = self._forward()
        else:
            self._graph.replay()
        self.position += 1
        return self.logits

    def read_bytes(self) -> int:
        """Return the bytes of weights that a step reads: those of the blocks and the head."""
        return block_bytes(self.model) + self.model.get_output_embeddings().weight.nbytes

    def _forward(self) -> torch.Tensor:
        """Read the token that ``_token`` holds, at the place that the cache counts; nothing here may ask the device for a number."""
        return self.model(self._token, past_key_values=self._cache, use_cache=True).logits[:, -1].float()

    @torch.inference_mode()
    def _captured(self) -> torch.cuda.CUDAGraph:
        beside, graph = torch.cuda.Stream(self.device), torch.cuda.CUDAGraph()
        with torch.cuda.device(self.device):
            beside.wait_stream(torch.cuda.current_stream())
            with torch.cuda.stream(beside):
                for _ in range(_WARM_UPS):
                    self._forward()
                    self._cache.reset()
            torch.cuda.current_stream().wait_stream(beside)
            with torch.cuda.graph(graph):
                self.logits = self._forward()
        return graph
