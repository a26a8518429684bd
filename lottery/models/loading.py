"""The one place that decides device and dtype, and loads a model accordingly."""

import warnings
from dataclasses import dataclass, replace
from typing import Protocol

import torch
from accelerate import init_empty_weights
from accelerate.utils import set_module_tensor_to_device
from transformers import AutoConfig, AutoModelForCausalLM, AutoTokenizer
from transformers.utils import logging as transformers_logging

from lottery.common.errors import LotteryError, NoRoomError
from lottery.common.format import dtype_name
from lottery.models import memory
from lottery.models.checkpoints import Checkpoint
from lottery.models.devices import describe
from lottery.sparse import folder
from lottery.sparse.bitmask import FormatError, Packed
from lottery.sparse.linear import SparseLinear, unpack

# Progress is the study's own; a bar a shard would fill the log.
transformers_logging.disable_progress_bar()


class Asked(Protocol):
    """What a plan needs to know of a profile."""

    device: str
    dtype: str
    memory: str
    batch_size: int
    seq_len: int


@dataclass(frozen=True)
class Plan:
    """Where and in which dtype a model runs, whether it is loaded whole or streamed block by block, and why.

    Attributes:
        device: Where the model runs.
        dtype: The dtype of its weights.
        dtype_reason: Why this dtype.
        streamed: Whether the model is streamed to the device block by block.
        memory_reason: Why it is streamed or not.
        generates_on: Where it generates text, which needs the whole model in memory; by default the device.
        spread: Whether accelerate spreads it over all GPUs.
    """

    device: torch.device
    dtype: torch.dtype
    dtype_reason: str
    streamed: bool = False
    memory_reason: str = "asked for in the profile"
    generates_on: torch.device | None = None
    spread: bool = False  # over all GPUs, by accelerate

    def __post_init__(self):
        object.__setattr__(self, "generates_on", self.generates_on or self.device)

    @property
    def home(self) -> torch.device:
        """Where the weights are: main memory for a streamed model, else the device."""
        return torch.device("cpu") if self.streamed else self.device

    @property
    def streams_to(self) -> torch.device | None:
        """Where blocks are moved to, one at a time; ``None`` unless the model is streamed."""
        return self.device if self.streamed else None


def plan(asked: Asked, model: torch.nn.Module, *, raised: str = "", streamed: str = "") -> Plan:
    """Choose device, dtype and memory for a model.

    Args:
        asked: What the profile asks for.
        model: The model without its weights.
        raised: Why float32 is needed although the device would do with less; empty if it is not.
        streamed: Why the model must be streamed; empty if it need not be.

    Returns:
        The plan with its reasons.

    Raises:
        LotteryError: The device is missing, this build of torch cannot drive it, or the weights do not fit.
    """
    device = torch.device(asked.device if asked.device != "auto" else "cuda" if torch.cuda.is_available() else "cpu")
    if device.type == "cuda":
        _check_gpu()
    weights = sum(p.numel() for p in model.parameters())
    dtype, reason = (torch.float32, raised) if raised else _dtype(asked.dtype, device, weights)
    free, needed = available(device), weights * dtype.itemsize
    work = _work(model.config, asked, dtype)
    wanted = f"weights of {needed / 2**30:.1f} GiB and {work / 2**30:.1f} GiB of work"
    beside = f"{free / 2**30:.1f} GiB free on {describe(device)}"
    gpus = torch.cuda.device_count() if device.type == "cuda" else 1
    if gpus > 1 and needed + work > free and asked.memory != "streamed" and not streamed:
        together = sum(available(torch.device("cuda", i)) for i in range(gpus))
        if needed + work <= together:
            return Plan(device, dtype, reason, False, f"{wanted} do not fit in the {beside}; spread over {gpus} GPUs", spread=True)
    if asked.memory != "auto" or streamed:
        streams, why = streamed or asked.memory == "streamed", streamed or "asked for in the profile"
    else:
        streams = needed + work > free and streaming_spares(device)
        why = f"{wanted} {'do not fit' if streams else 'fit' if needed + work <= free else 'do not safely fit'} in the {beside}"
    found = Plan(device, dtype, reason, bool(streams), why)
    if streams and needed > free and streaming_spares(device):
        why += "; texts and speed on the CPU, since generation needs the whole model in memory"
        found = replace(found, memory_reason=why, generates_on=found.home)
    if needed > (free := available(found.home)):
        smaller = ["dtype: float16"] * (dtype.itemsize > 2) + ["memory: streamed"] * (found.home.type == "cuda")
        raise NoRoomError(
            f"the weights need {needed / 2**30:.1f} GiB in {dtype_name(dtype)}, {describe(found.home)} has {free / 2**30:.1f} GiB free;"
            f" take {' or '.join(['a machine with more memory', *smaller])}"
        )
    return found


def streaming_spares(device: torch.device) -> bool:
    """Return whether a device holds less if blocks are streamed to it: not if they wait in its own memory."""
    return device.type != "cpu"


def available(device: torch.device) -> int:
    """Return the bytes that this process may still take, within the share of a GPU that torch was told to keep to."""
    if device.type != "cuda":
        return memory.main_memory().free
    free, total = torch.cuda.mem_get_info(device)
    return min(free, int(torch.cuda.get_per_process_memory_fraction(device) * total) - torch.cuda.memory_reserved(device))


def _work(config, asked: Asked, dtype: torch.dtype) -> int:
    """Return a rough bound on what an evaluation needs besides weights: a batch's states in one block, and a slice of fp32 logits."""
    wide = 8 * config.hidden_size + 3 * (getattr(config, "intermediate_size", None) or 4 * config.hidden_size)
    return asked.batch_size * asked.seq_len * wide * dtype.itemsize + (1 << 29)


def _dtype(asked: str, device: torch.device, weights: int) -> tuple[torch.dtype, str]:
    if asked != "auto":
        return getattr(torch, asked), "asked for in the profile"
    if device.type == "cuda":
        # is_bf16_supported() says yes on a T4, through emulation; the capability does not lie.
        major, minor = torch.cuda.get_device_capability()
        if (major, minor) >= (8, 0):
            return torch.bfloat16, f"bfloat16 is native from compute capability 8.0, this is {major}.{minor}"
        return torch.float16, f"no native bfloat16 below compute capability 8.0, this is {major}.{minor}"
    # Of all that there is, so that it does not hang on the moment; a study that goes on keeps its dtype in any case.
    if weights * 4 < memory.main_memory().total / 2:
        return torch.float32, "a CPU, and float32 takes less than half of the memory"
    return torch.bfloat16, "a CPU, and float32 would take more than half of the memory"


def _check_gpu() -> None:
    if not torch.cuda.is_available():
        raise LotteryError("device: given 'cuda', but torch sees no GPU; set device: auto or cpu, or load the GPU driver")
    major, minor = torch.cuda.get_device_capability()
    built_for = torch.cuda.get_arch_list()
    # A build for sm_80 also drives 8.6 and 8.9: same major, lower or equal minor. PTX ("compute_") serves all that is newer.
    fits = [a for a in built_for if a.startswith("sm_") and _capability(a)[0] == major and _capability(a)[1] <= minor]
    ptx = [a for a in built_for if a.startswith("compute_") and _capability(a) <= (major, minor)]
    if not fits and not ptx:
        raise LotteryError(
            f"torch {torch.__version__} is built for {' '.join(built_for)} and cannot drive {torch.cuda.get_device_name()}"
            f" (sm_{major}{minor}); install torch==2.10.*, the last release whose default build drives a V100"
        )


def _capability(architecture: str) -> tuple[int, int]:
    digits = "".join(c for c in architecture.split("_")[1] if c.isdigit())
    return int(digits[:-1]), int(digits[-1])


def tokenizer(checkpoint: Checkpoint):
    """Load the checkpoint's tokenizer.

    Raises:
        LotteryError: The tokenizer cannot tell which characters a token came from.
    """
    found = AutoTokenizer.from_pretrained(checkpoint.folder, trust_remote_code=False, local_files_only=True)
    if not found.is_fast:
        raise LotteryError(
            f"model: {checkpoint.source} has no tokenizer.json; save it as a fast tokenizer, bytes per token are counted with it"
        )
    return found


def skeleton(checkpoint: Checkpoint, dtype: torch.dtype | None = None) -> torch.nn.Module:
    """Return the model without its weights, on the meta device: shapes and modules of a 7B model in a second, using no memory.

    Args:
        checkpoint: Whose configuration is read.
        dtype: Of the parameters; that of the configuration unless given.

    Raises:
        LotteryError: It is no model of text alone.
    """
    config = AutoConfig.from_pretrained(checkpoint.folder, trust_remote_code=False, local_files_only=True)
    if not hasattr(config, "hidden_size"):
        raise LotteryError(
            f"model: {checkpoint.name} is of the kind {config.model_type}; allowed: a model of text alone, with its own config"
        )
    with init_empty_weights():
        model = AutoModelForCausalLM.from_config(config, dtype=dtype or config.dtype, trust_remote_code=False)
    model.tie_weights()
    return model.eval()


def load(checkpoint: Checkpoint, plan: Plan) -> torch.nn.Module:
    """Load the model where its weights belong, in evaluation mode. Read safetensors only, and run no code from the checkpoint.

    A folder in the sparse-bitmask format is unpacked: an exported model is studied like any other.
    """
    if folder.is_sparse(checkpoint.folder):
        return load_sparse(checkpoint, plan.dtype, packed=False).to(plan.home)
    with warnings.catch_warnings():
        warnings.simplefilter("ignore", FutureWarning)
        model = AutoModelForCausalLM.from_pretrained(
            checkpoint.folder,
            dtype=plan.dtype,
            device_map="auto" if plan.spread else {"": plan.home},
            use_safetensors=True,
            trust_remote_code=False,
            local_files_only=True,
        )
    return model.eval()


def load_sparse(checkpoint: Checkpoint, dtype: torch.dtype | None = None, packed: bool = True) -> torch.nn.Module:
    """Load a model from a folder in the sparse-bitmask format into main memory. Beyond the result, one layer is held.

    Args:
        checkpoint: The folder.
        dtype: Of the parameters; that of the file unless given. Packed weights keep theirs.
        packed: Whether weights stay packed, in ``SparseLinear``; else they are unpacked.

    Raises:
        FormatError: A file is damaged, or lacks a weight of the model.
    """
    model = skeleton(checkpoint, dtype)
    for name, value in folder.read(checkpoint.folder):
        layer = name.rpartition(".")[0]
        try:
            module = model.get_submodule(layer)
            if isinstance(value, Packed) and packed:
                if (module.out_features, module.in_features) != tuple(value.shape.tolist()):
                    raise ValueError
                model.set_submodule(layer, SparseLinear(value, module.bias))  # which came before: read() sorts by name
            else:
                dense = unpack(value) if isinstance(value, Packed) else value
                set_module_tensor_to_device(model, name, "cpu", value=dense, dtype=dtype or model.dtype)
        except (AttributeError, ValueError) as error:
            raise FormatError(f"{checkpoint.source}: {name} does not fit the model of its config.json; export it again") from error
    if not packed and hasattr(model.config, "sparsity_config"):
        del model.config.sparsity_config  # so that a copy of it does not call itself packed
    model.tie_weights()
    if empty := [name for name, parameter in model.named_parameters() if parameter.is_meta]:
        raise FormatError(f"{checkpoint.source} lacks {empty[0]}; export the model again")
    return model.eval()


@torch.no_grad()
def cast(model: torch.nn.Module, dtype: torch.dtype) -> None:
    """Give a model's parameters another dtype; its buffers, such as the frequencies of the positions, stay in float32."""
    for parameter in model.parameters():
        parameter.data = parameter.data.to(dtype)
