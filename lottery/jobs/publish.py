"""A whole study as a folder that can be committed or handed on: ``python -m lottery publish PROFILE FOLDER``.

It holds the report with all that its links lead to, the records and the executed notebooks, and the report's tables as CSV. A later run can
go on from the records, as long as a record's version is the same: copy the folders of the models back into ``outputs/PROFILE``.
"""

import shutil
from pathlib import Path

import nbformat

from lottery.common.errors import LotteryError
from lottery.common.files import atomic_write
from lottery.common.paths import outputs
from lottery.config.profile import Profile
from lottery.experiments.impossible import FOLDER as IMPOSSIBLE
from lottery.experiments.protocols.records import FOLDER
from lottery.experiments.status import run_status

LEFT_OUT = {"zeros-by-layer.csv"}  # large, and the records hold it


def publish(profile: Profile, folder: Path) -> Path:
    """Copy what was made of a profile.

    Args:
        profile: The profile.
        folder: Where the copy goes.

    Returns:
        The report.

    Raises:
        LotteryError: Anything is missing: what is published must be complete. Or the folder is that of the study itself.
    """
    made = outputs(profile.profile)
    if not (made / "report.html").exists():
        raise LotteryError(f"profile {profile.profile}: there is no report; run make report PROFILE={profile.profile} first")
    if folder.resolve() == made.resolve():
        raise LotteryError(f"given {folder}, where the study itself lies; name another folder, such as docs/{profile.profile}")
    parts = [run_status(profile, name) for name in profile.parts]
    for part in parts:
        if part.problem:
            raise LotteryError(f"profile {profile.profile}, {part.name}: {part.problem} Run make report PROFILE={profile.profile} first")
    for part in parts:
        shutil.rmtree(folder / part.name, ignore_errors=True)  # of an earlier time
        names = [f"records/{record.request.file_name}" for record in part.records]
        names += [f"{FOLDER}/{record.request.file_name}" for record in part.protocols]
        names += [f"{IMPOSSIBLE}/{path.name}" for path in (made / part.name / IMPOSSIBLE).glob("*.json")]  # where bisections ended
        for name in names:
            _copy(made, folder, f"{part.name}/{name}")
        notebook = nbformat.read(made / part.name / f"{part.name}.ipynb", as_version=4)
        for holder in (notebook, *notebook.cells):
            holder.metadata.pop("papermill", None)  # when and where on this machine it ran
            holder.metadata.pop("execution", None)
        atomic_write(folder / part.name / f"{part.name}.ipynb", nbformat.writes(notebook) + "\n")
    shutil.rmtree(folder / "tables", ignore_errors=True)
    for table in sorted((made / "tables").glob("*.csv")):
        if table.name not in LEFT_OUT:
            _copy(made, folder, f"tables/{table.name}")
    return _copy(made, folder, "report.html")


def _copy(source: Path, target: Path, name: str) -> Path:
    atomic_write(target / name, (source / name).read_text(encoding="utf-8"))
    return target / name
