"""Kernels that share a machine with others."""

import os
import shutil
import subprocess
import sys
import tempfile
from pathlib import Path

import nbformat
import psutil
import pytest

from lottery.jobs import notebooks

RUN = "import sys; from pathlib import Path; from lottery.jobs.notebooks import execute; sys.exit(execute('one', 'demo', Path(sys.argv[1])) or 0)"


@pytest.fixture
def small(tmp_path, monkeypatch):
    """A project with a notebook that imports nothing."""
    for name in ("params", "notebooks"):
        (tmp_path / name).mkdir()
    cell = nbformat.v4.new_code_cell("profile = 'x'", metadata={"tags": ["parameters"]})
    notebook = nbformat.v4.new_notebook(cells=[cell, nbformat.v4.new_code_cell("print(profile)")])
    notebook.metadata["kernelspec"] = {"name": "python3", "language": "python", "display_name": "Python 3"}
    nbformat.write(notebook, tmp_path / "notebooks" / "one.ipynb")
    monkeypatch.chdir(tmp_path)
    return tmp_path


def test_eight_at_once_all_start_and_leave_nothing_behind(small):
    room = Path(tempfile.mkdtemp(prefix="k-", dir="/tmp"))  # a short path, because sockets are made in it
    try:
        environment = {**os.environ, "TMPDIR": str(room), "JUPYTER_RUNTIME_DIR": str(room / "runtime")}
        runs = [
            subprocess.Popen([sys.executable, "-c", RUN, str(small / "out" / f"{i}.ipynb")], env=environment, stdout=subprocess.PIPE)
            for i in range(8)
        ]
        said = [run.communicate(timeout=300)[0].decode() for run in runs]
        assert [run.returncode for run in runs] == [0] * 8, said
        assert [text.strip() for text in said] == ["demo"] * 8
        assert len(list((small / "out").glob("*.ipynb"))) == 8
        assert not [path for path in room.rglob("*") if path.is_file() or path.is_socket()]
        assert not [p for p in psutil.process_iter(["cmdline"]) if str(room) in " ".join(p.info["cmdline"] or [])]
    finally:
        shutil.rmtree(room)


def test_a_kernel_that_died_before_its_first_reply_is_started_again(small, monkeypatch, capsys):
    died = "RuntimeError: Kernel died before replying to kernel_info"
    answers = iter([died, died, ""])
    monkeypatch.setattr(notebooks, "_run", lambda *_: next(answers))
    assert notebooks.execute("one", "demo", small / "out.ipynb") == ""
    assert f"start 2 of 3: {died}" in capsys.readouterr().out
    monkeypatch.setattr(notebooks, "_run", lambda *_: died)
    assert notebooks.execute("one", "demo", small / "out.ipynb") == died


def test_a_kernel_that_dies_in_a_cell_is_not_started_again(small, monkeypatch, capsys):
    path = small / "notebooks" / "one.ipynb"
    path.write_text(path.read_text().replace("print(profile)", "import os; os.kill(os.getpid(), 9)"))
    assert notebooks.execute("one", "demo", small / "out.ipynb").startswith("DeadKernelError: Kernel died")
    assert "start" not in capsys.readouterr().out
