"""From a profile to a report: ``python -m lottery run PROFILE`` runs what is missing and writes HTML and PDF."""

import hashlib
import time
from datetime import datetime
from pathlib import Path

import nbformat
from nbconvert.exporters import get_exporter

from lottery.common.errors import HeldError, NotFetchedError, on_one_line
from lottery.common.files import atomic_write
from lottery.common.paths import decoding_results, outputs
from lottery.config.checkpoint import checkpoint
from lottery.config.profile import Profile
from lottery.data.corpus import corpus
from lottery.experiments.lifecycle import held
from lottery.experiments.protocols.records import FOLDER
from lottery.experiments.records import read_state, write_state
from lottery.experiments.status import run_status
from lottery.jobs.notebooks import execute, notebook_of


def run(profile: Profile) -> int:
    """Run every model notebook that is not complete, then the report.

    A model that fails does not stop the others, and the report is written with its gap named.

    Returns:
        0, or 1 where a model failed or no HTML came.
    """
    started, steps = time.monotonic(), len(profile.parts) + 1
    _check_anything_is_here(profile)
    failed = [name for number, name in enumerate(profile.parts, 1) if not measure(profile, name, f"[{number}/{steps}]")]
    paths = write_report(profile, f"[{steps}/{steps}]")
    say(f"done in {time.monotonic() - started:.0f} s" + (f"; failed: {', '.join(failed)}" if failed else ""))
    return 1 if failed or not paths else 0


def measure(profile: Profile, name: str, step: str) -> bool:
    """Run a model's notebook unless it is complete, and return whether it then is; if not, its state on disk says why."""
    if complete(profile, name):
        say(f"{step} {name}: all trials are recorded, nothing to do")
        return True
    folder, began = outputs(profile.profile) / name, datetime.now().astimezone()
    try:
        with held(folder):  # the notebook's kernel takes hold of it itself; here it is only seen before anything is written
            pass
    except HeldError as error:
        say(f"{step} {error}")
        return False
    say(f"{step} {name}: running notebooks/{notebook_of(name).name}")
    reason = execute(name, profile.profile, folder / f"{name}.ipynb")
    state = read_state(folder)
    if reason.startswith("HeldError: "):  # it began between the look above and the kernel's own
        say(f"{step} {reason.removeprefix('HeldError: ')}")
        return False
    if reason or state is None or state.state != "finished":
        reason = reason or "it did not finish"
        say(f"{step} {name}: {state.reason}" if state and state.state == "stopped" else f"{step} {name}: failed: {reason}")
        if state is None or state.state not in ("failed", "stopped") or state.at < began:
            # The study could not say why itself: its kernel died, or a cell around it failed.
            write_state(folder, "failed", reason)
        return False
    atomic_write(folder / "stamp", _stamp_of_model(profile, name))
    say(f"{step} {name}: done in {(datetime.now().astimezone() - began).total_seconds():.0f} s")
    return True


def _check_anything_is_here(profile: Profile) -> None:
    """Raise ``NotFetchedError`` where the text, or every model, is still to be fetched; one missing model is only a gap."""
    if any((outputs(profile.profile) / name / "records").is_dir() for name in profile.checkpoints):
        return
    corpus(profile.text)
    absent = []
    for name in profile.checkpoints:
        try:
            wanted = checkpoint(profile.with_model(name))
            if wanted.kind != "gguf":  # its file is here, and the study converts it
                wanted.check()
        except NotFetchedError as error:
            absent.append(error)
    if len(absent) == len(profile.checkpoints):
        raise absent[0]


def say(line: str) -> None:
    print(line, flush=True)


def complete(profile: Profile, name: str) -> bool:
    """Return whether a model's notebook would have nothing to do: every trial recorded, and executed from just these sources."""
    folder = outputs(profile.profile) / name
    if run_status(profile, name).problem:
        return False
    stamp = folder / "stamp"
    return (folder / f"{name}.ipynb").exists() and stamp.exists() and stamp.read_text() == _stamp_of_model(profile, name)


def _stamp_of_model(profile: Profile, name: str) -> str:
    return _stamp(profile, name, *_recorded(outputs(profile.profile) / name))


def _recorded(folder: Path) -> list[Path]:
    return sorted(path for kind in ("records", FOLDER) for path in folder.glob(f"{kind}/*.json"))


def _stamp(profile: Profile, name: str, *inputs: Path) -> str:
    """Return a digest of all that decides what an executed notebook shows: its source, the package, the profile, and the given files."""
    total = hashlib.sha256(profile.model_dump_json().encode())
    package = Path(__file__).parents[1]
    kinds = ("**/*.py", "**/*.csv", "report/text/*.j2", "report/render/templates/**/*.*")
    sources = [*(path for kind in kinds for path in package.glob(kind)), notebook_of(name), *inputs]
    for path in sorted(sources):
        total.update(f"{path.name}\0".encode() + path.read_bytes())
    return total.hexdigest() + "\n"


def write_report(profile: Profile, step: str) -> list[Path]:
    """Run the report notebook and render it, unless nothing changed; print and return the files that are there."""
    folder = outputs(profile.profile)
    html, pdf, stamp = folder / "report.html", folder / "report.pdf", folder / "report.stamp"
    parts = sorted(path for path in folder.glob("*") if path.is_dir())
    inputs = [path for part in parts for path in (*_recorded(part), *part.glob("state.json"))]
    wanted = _stamp(profile, "report", *inputs, *decoding_results())
    if html.exists() and pdf.exists() and stamp.exists() and stamp.read_text() == wanted:
        say(f"{step} report: nothing changed")
        return _named([html, pdf])
    say(f"{step} report: running notebooks/report.ipynb")
    executed = folder / "report.ipynb"
    if reason := execute("report", profile.profile, executed):
        say(f"{step} report: failed: {reason}")
        return []
    render(executed, "lottery_html", html)
    try:
        render(executed, "lottery_pdf", pdf)
    except Exception as error:  # whatever pandoc, Typst or a font objects to: the HTML is there all the same
        pdf.unlink(missing_ok=True)
        say(f"{step} report: no PDF: {type(error).__name__}: {on_one_line(error)}")
        return _named([html])
    atomic_write(stamp, wanted)
    return _named([html, pdf])


def _named(paths: list[Path]) -> list[Path]:
    for path in paths:
        say(f"      {path}")
    return paths


def render(notebook: Path, exporter: str, target: Path) -> None:
    """Convert an executed notebook; the file appears whole or not at all."""
    node = nbformat.read(notebook, as_version=4)
    title = next((c.source.lstrip("# ").splitlines()[0] for c in node.cells if c.source.startswith("# ")), notebook.stem)
    body, _ = get_exporter(exporter)().from_notebook_node(node, resources={"metadata": {"name": notebook.stem, "title": title}})
    atomic_write(target, body)
