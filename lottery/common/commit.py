"""Which commit this code is of."""

import os
import subprocess
from pathlib import Path


def commit_of(folder: Path, *pathspec: str) -> tuple[str, bool]:
    """Return the commit that a folder's files belong to, and whether any of them differ from it or are not in it.

    The commit is 'unknown' for files that git does not know.

    Args:
        folder: A folder of a checkout.
        *pathspec: What of the folder counts, as ``git status`` takes it; all of it unless given.
    """

    # A hook's environment names another checkout.
    environment = {name: value for name, value in os.environ.items() if name not in ("GIT_DIR", "GIT_WORK_TREE", "GIT_INDEX_FILE")}

    def git(*arguments: str) -> str:
        line = ["git", "-C", str(folder), *arguments]
        return subprocess.run(line, capture_output=True, text=True, check=True, env=environment).stdout.strip()

    try:
        if not git("ls-files", "."):
            return "unknown", False
        return git("rev-parse", "HEAD"), bool(git("status", "--porcelain", "--untracked-files=all", "--", ".", *pathspec))
    except (OSError, subprocess.CalledProcessError):
        return "unknown", False


# Read once, when this code was loaded: a later pull changes the files, not what runs.
COMMIT, DIRTY = commit_of(Path(__file__).parents[1])
