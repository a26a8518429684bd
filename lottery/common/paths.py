"""Where things are: the project's folder, its profiles, and what runs write."""

from pathlib import Path

from lottery.common.errors import LotteryError


def project_root() -> Path:
    """Return the project's folder.

    That is the nearest folder with ``params`` and ``notebooks`` at or above the working directory, else the package's own. So the copy of
    the project you work in wins over the place that ``lottery`` was installed from, and a notebook run from anywhere else still finds its
    profile.

    Raises:
        LotteryError: The package was installed without its project, and the working directory is elsewhere.
    """
    here = Path.cwd()
    for folder in [here, *here.parents, Path(__file__).resolve().parents[2]]:
        if (folder / "params").is_dir() and (folder / "notebooks").is_dir():
            return folder
    raise LotteryError(f"no folder with params/ and notebooks/ at or above {here}: change into your clone of the project first")


def outputs(profile: str) -> Path:
    return project_root() / "outputs" / profile


def resolve(path: str) -> Path:
    """Resolve a path from a profile: absolute, or relative to the project's folder."""
    return (project_root() / Path(path).expanduser()).resolve()


def decoding_results() -> list[Path]:
    """Return the project's own benchmarks of decoding real models on a CPU, which a report on stand-ins shows."""
    return sorted((project_root() / "benchmarks" / "results").glob("decoding-*-cpu.json"))
