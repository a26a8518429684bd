import os
import re
import subprocess
import sys

import psutil
import pytest
import typst
import yaml

from lottery.common.files import atomic_write
from lottery.config.profile import load_profile
from lottery.experiments.records import read_state, write_state
from lottery.jobs import pipeline as module
from tests.conftest import TOY

TWO = {
    **{key: value for key, value in TOY.items() if key != "model"},
    "checkpoints": {"qwen2.5-0.5b": "stand-in:qwen2.5-0.5b", "phi-2": "stand-in:phi-2"},
}


@pytest.fixture
def toy_project(project):
    (project / "params" / "toy.yaml").write_text(yaml.safe_dump(TWO, sort_keys=False))
    return project


@pytest.fixture
def one_model(project):
    values = {**TWO, "checkpoints": {"qwen2.5-0.5b": "stand-in:qwen2.5-0.5b"}}
    (project / "params" / "toy.yaml").write_text(yaml.safe_dump(values, sort_keys=False))
    return project


def command(project):
    return [sys.executable, "-m", "lottery", "run", "toy"], {"cwd": project, "text": True}


def test_the_whole_way_a_gap_and_its_mending(toy_project, capsys):
    """Two models, one without its notebook: the report is there with the gap named; then whole; then nothing is done again."""
    hidden = toy_project / "notebooks" / "phi-2.ipynb"
    source = hidden.read_text()
    hidden.write_text(source.replace("study.sweep()", "study.no_such_thing()"))
    arguments, options = command(toy_project)
    first = subprocess.run(arguments, capture_output=True, **options)
    folder = toy_project / "outputs" / "toy"
    assert first.returncode == 1
    assert "[2/3] phi-2: failed: AttributeError: 'Study' object has no attribute 'no_such_thing'" in first.stdout
    assert "done in" in first.stdout
    assert first.stdout.rstrip().endswith("failed: phi-2")
    assert "1 of 3 trials are recorded; it failed: AttributeError" in (folder / "report.html").read_text()
    publish = [sys.executable, "-m", "lottery", "publish", "toy", "docs/toy"]
    refused = subprocess.run(publish, capture_output=True, **options)
    assert (refused.returncode, refused.stdout) == (1, "")
    assert refused.stderr.startswith("LotteryError: profile toy, phi-2: 1 of 3 trials are recorded; it failed: ")
    assert refused.stderr.endswith(" Run make report PROFILE=toy first\n")
    assert not (toy_project / "docs" / "toy").exists()

    hidden.write_text(source)
    second = subprocess.run(arguments, capture_output=True, **options)
    assert second.returncode == 0, second.stdout + second.stderr
    assert "[1/3] qwen2.5-0.5b: all trials are recorded, nothing to do" in second.stdout
    assert "phi-2: dense: recorded already" in second.stdout
    html = (folder / "report.html").read_text()
    assert "Incomplete" not in html
    assert "These are stand-ins" in html
    assert (folder / "report.pdf").read_bytes().startswith(b"%PDF")

    before = {path: path.stat().st_mtime_ns for path in folder.rglob("*") if path.is_file()}
    third = subprocess.run(arguments, capture_output=True, **options)
    assert third.returncode == 0
    assert "[3/3] report: nothing changed" in third.stdout
    assert str(folder / "report.html") in third.stdout
    assert {path: path.stat().st_mtime_ns for path in folder.rglob("*") if path.is_file()} == before
    assert not list(folder.rglob("*.part"))

    (folder / "phi-2" / "records" / "old.json").write_text("{}")
    assert subprocess.run(publish, capture_output=True, **options).stdout == "docs/toy/report.html\n"
    there = toy_project / "docs" / "toy"
    links = {link for link in re.findall(r'href="([^"#]+)', (there / "report.html").read_text()) if "://" not in link}
    assert {"phi-2/phi-2.ipynb", "qwen2.5-0.5b/qwen2.5-0.5b.ipynb"} < links
    assert all((there / link).is_file() for link in links)
    files = {path.relative_to(there).as_posix(): path.read_text() for path in there.rglob("*") if path.is_file()}
    assert len([name for name in files if "/records/" in name]) == 6
    assert "tables/trials.csv" in files
    assert not [name for name, text in files.items() if str(toy_project) in text], "no path of this machine"


def test_killed_in_a_trial_the_next_run_goes_on_and_believes_no_notebook(one_model):
    """The notebook hangs in its second trial and is killed there."""
    notebook = one_model / "notebooks" / "qwen2.5-0.5b.ipynb"
    source = notebook.read_text()
    hang = "import time, lottery.experiments.pruned as pruned; pruned.prune = lambda *_, **__: time.sleep(600); study.sweep()"
    notebook.write_text(source.replace("study.sweep()", hang))
    arguments, options = command(one_model)
    process = subprocess.Popen(arguments, stdout=subprocess.PIPE, stderr=subprocess.DEVNULL, **options)
    assert any("trial 2 of 3" in line for line in process.stdout)
    # The kernel has a session of its own. papermill and it die at once, as by the OOM killer or at a time limit.
    for victim in [*psutil.Process(process.pid).children(recursive=True), process]:
        victim.kill()
    process.wait(60)
    notebook.write_text(source)
    folder = one_model / "outputs" / "toy" / "qwen2.5-0.5b"
    assert read_state(folder).state == "running"
    done = {path: path.stat().st_mtime_ns for path in (folder / "records").glob("[!.]*.json")}
    assert len(done) == 1
    again = subprocess.run(arguments, capture_output=True, **options)
    assert again.returncode == 0, again.stdout + again.stderr
    assert read_state(folder).state == "finished"
    assert {path: path.stat().st_mtime_ns for path in done} == done


def test_if_the_pdf_fails_the_html_is_there_and_the_reason_is_one_line(toy_project, monkeypatch, capsys):
    real = module.render

    def render(notebook, exporter, target):
        if exporter == "lottery_pdf":
            raise typst.TypstError("no such font\nsecond line")
        return real(notebook, exporter, target)

    monkeypatch.setattr(module, "render", render)
    profile = load_profile("toy")
    paths = module.write_report(profile, "[3/3]")
    assert [path.name for path in paths] == ["report.html"]
    assert "[3/3] report: no PDF: TypstError: no such font second line" in capsys.readouterr().out


def test_everything_that_the_report_shows_is_in_its_stamp(toy_project, monkeypatch):
    package, folder, runs = toy_project / "lottery", toy_project / "outputs" / "toy", []
    shown = [package / "published.csv", package / "a.py", package / "report" / "text" / "size.md.j2"]
    shown += [folder / "phi-2" / name for name in ("records/a.json", "protocols/a.json", "state.json")]
    shown += [toy_project / "benchmarks" / "results" / "decoding-a-cpu.json"]
    for path in shown:
        atomic_write(path, "old")
    monkeypatch.setattr(module, "__file__", str(package / "jobs" / "pipeline.py"))
    monkeypatch.setattr(module, "execute", lambda *_: runs.append(1) or "")
    monkeypatch.setattr(module, "render", lambda notebook, exporter, target: atomic_write(target, "made"))
    for count, path in enumerate(shown, 1):
        for _ in range(2):
            module.write_report(load_profile("toy"), "")
            assert len(runs) == count
        path.write_text("new")


def test_an_old_reason_is_not_told_again(one_model, monkeypatch):
    """A first run that fails in the study, a second that fails outside of it: the report tells the second reason."""
    folder = one_model / "outputs" / "toy" / "qwen2.5-0.5b"
    write_state(folder, "failed", "an old reason")
    monkeypatch.setattr(module, "execute", lambda *_: "ZeroDivisionError: division by zero")
    assert not module.measure(load_profile("toy"), "qwen2.5-0.5b", "[1/2]")
    assert read_state(folder).reason == "ZeroDivisionError: division by zero"


def test_with_nothing_fetched_there_is_one_line_that_names_the_command(project, tmp_path):
    environment = {**os.environ, "HF_HOME": str(tmp_path / "empty")}
    run = subprocess.run([sys.executable, "-m", "lottery", "run", "full"], cwd=project, env=environment, capture_output=True, text=True)
    assert run.returncode == 1
    assert run.stderr == (
        "NotFetchedError: wikitext-2-raw is not in the Hugging Face cache; fetch it first, where there is a network: make fetch PROFILE=…;"
        " or put its original file into the folder that LOTTERY_DATA names, as wikitext-2-raw/wiki.test.raw\n"
    )


def test_a_model_that_is_not_fetched_is_a_gap_and_the_rest_appears(toy_project, tmp_path):
    values = {**TWO, "checkpoints": {"phi-2": "owner/model@" + "0" * 40, "qwen2.5-0.5b": "stand-in:qwen2.5-0.5b"}}
    (toy_project / "params" / "toy.yaml").write_text(yaml.safe_dump(values, sort_keys=False))
    arguments, options = command(toy_project)
    run = subprocess.run(arguments, capture_output=True, env={**os.environ, "HF_HOME": str(tmp_path / "empty")}, **options)
    assert run.returncode == 1
    html = (toy_project / "outputs" / "toy" / "report.html").read_text()
    assert "is not in the Hugging Face cache; fetch it first" in html
    assert "<strong>qwen2.5-0.5b</strong> is the only model measured" in html


def test_a_profile_that_is_not_there_is_one_line_and_exit_status_1(project):
    run = subprocess.run([sys.executable, "-m", "lottery", "run", "nonsense"], cwd=project, capture_output=True, text=True)
    assert run.returncode == 1
    assert (
        run.stderr
        == "ParamsError: profile: given 'nonsense'; allowed: the name of a file in params/ (demo, full, full-methods, methods, real, real-allocation, real-bytes, real-methods, real-models, real-one-shot, real-recovery, ticket)\n"
    )
