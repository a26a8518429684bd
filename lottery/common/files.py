"""Files that appear whole or not at all."""

import errno
import os
import tempfile
from pathlib import Path

from lottery.common.errors import LotteryError


def atomic_write(path: Path, content: str | bytes) -> None:
    """Write a file whole or not at all.

    The content goes to a temporary file beside it, is flushed to disk, and the temporary file is renamed over the target.

    Args:
        path: The file to write; missing parent folders are created.
        content: Text, written as UTF-8, or bytes.

    Raises:
        LotteryError: The disk is full.
    """
    try:
        _write_and_rename(path, content.encode() if isinstance(content, str) else content)
    except OSError as error:
        if error.errno in (errno.ENOSPC, errno.EDQUOT):
            raise LotteryError(f"no room left on the disk for {path}; make some and run again, what is recorded stays") from error
        raise


def _write_and_rename(path: Path, content: bytes) -> None:
    path.parent.mkdir(parents=True, exist_ok=True)
    handle, part = tempfile.mkstemp(dir=path.parent, prefix=f".{path.name}.", suffix=".part")
    try:
        with os.fdopen(handle, "wb") as file:
            file.write(content)
            file.flush()
            os.fsync(file.fileno())
        os.chmod(part, 0o644)
        os.replace(part, path)
    except BaseException:
        Path(part).unlink(missing_ok=True)
        raise
