"""The study on a real Slurm, whose nodes pose as ROSIE's. Where there is none the lines are tested, and the rest is skipped."""

import json
import os
import re
import shlex
import shutil
import subprocess
import sys
import tempfile
from pathlib import Path

import psutil
import pytest
import yaml

from lottery.common.errors import ParamsError
from lottery.config.profile import load_profile
from lottery.data.corpus import corpus
from lottery.experiments.records import read_state, write_state
from lottery.jobs import slurm, worker
from tests.conftest import ROOT, TOY, need
from tests.slurm.cluster import Cluster

MODELS = ["mistral-7b", "qwen2.5-7b", "smollm2-1.7b", "phi-2", "qwen2.5-0.5b"]
HANG = "study.measure_dense(); import time; time.sleep(600)"


@pytest.fixture(scope="module")
def running():
    need(not Cluster.missing(), Cluster.missing())
    with tempfile.TemporaryDirectory(prefix="slurm-") as folder:
        cluster = Cluster(Path(folder))
        try:
            cluster.start()
            yield cluster
        finally:
            cluster.stop()


@pytest.fixture
def cluster(running):
    """The cluster with nothing in its queue, whatever became of the test before."""
    yield running
    running.clear()


@pytest.fixture
def toy_project(project):
    """A project with a profile of five toy models."""
    shutil.copytree(ROOT / "slurm", project / "slurm")
    values = {key: value for key, value in TOY.items() if key != "model"} | {"checkpoints": {name: f"stand-in:{name}" for name in MODELS}}
    (project / "params" / "toy.yaml").write_text(yaml.safe_dump(values, sort_keys=False))
    return project


def with_tickets(project) -> None:
    """Asks for the smallest ticket procedure there is, beside the models."""
    path = project / "params" / "toy.yaml"
    tickets = {
        "models": ["qwen2.5-0.5b"],
        "levels": 1,
        "prune_fraction": 0.5,
        "rewind": 1,
        "steps": 4,
        "batch_size": 2,
        "seq_len": 16,
        "learning_rate": 0.01,
        "seeds": 1,
    }
    path.write_text(path.read_text() + yaml.safe_dump({"tickets": tickets}))


def one_model(project, sparsities: list[float], **more) -> None:
    """Leaves one model in the profile, with many trials."""
    path = project / "params" / "toy.yaml"
    values = yaml.safe_load(path.read_text()) | {"checkpoints": {"phi-2": "stand-in:phi-2"}, "sparsities": sparsities, **more}
    path.write_text(yaml.safe_dump(values, sort_keys=False))


def make(project, target, environment, **variables) -> subprocess.CompletedProcess:
    """A target of the Makefile, as a user of a ready environment calls it."""
    given = {"BIN": Path(sys.executable).parent, "READY": "", "PROFILE": "toy", **variables}
    line = ["make", "-s", "-f", str(ROOT / "Makefile"), target, *(f"{name}={value}" for name, value in given.items())]
    return subprocess.run(line, cwd=project, env=environment, capture_output=True, text=True)


def submitted(project, cluster, **variables) -> str:
    secret = {**cluster.environment, "HF_TOKEN": "hf_not_for_the_log"}
    done = make(project, "submit", secret, **{"PARTITION": "dgx", "SET": "memory=4G cpus=2 concurrency=5", **variables})
    assert done.returncode == 0, done.stdout + done.stderr
    return done.stdout


def records(project) -> dict[str, int]:
    """Every record with the time when it was written."""
    return {str(path.relative_to(project)): path.stat().st_mtime_ns for path in project.glob("outputs/toy/*/records/[!.]*.json")}


def states(cluster) -> dict[str, str]:
    return dict(row.split() for row in cluster.run("squeue", "--noheader", "--array", "--format=%i %T").splitlines())


def most_at_once(logs: list[str]) -> int:
    """How many tasks ran at one time, by their own logs: to ask Slurm now and then misses them where the machine is busy."""
    began = [re.search(r"^--- job .*, (\S+)$", log, re.MULTILINE)[1] for log in logs]
    ended = [re.search(r"^--- exit 0, (\S+)$", log, re.MULTILINE)[1] for log in logs]
    return max(sum(start <= moment < end for start, end in zip(began, ended, strict=True)) for moment in began)


def edit(project, model, before, after) -> None:
    path = project / "notebooks" / f"{model}.ipynb"
    text = path.read_text()
    assert before in text
    path.write_text(text.replace(before, after))


@pytest.mark.xdist_group("slurm")
def test_from_one_command_to_the_report_five_tasks_at_a_time_on_one_node(toy_project, cluster):
    with_tickets(toy_project)
    show = 'page.describe()\\n",\n    "import os; print(os.environ.get(\\"HF_TOKEN\\"), \\"is the token here\\")'
    edit(toy_project, "phi-2", "page.describe()", show)
    said = submitted(toy_project, cluster)
    assert f"{', '.join(MODELS)}, winning-ticket; logs in {toy_project}/outputs/toy/logs" in said
    cluster.wait(lambda: not states(cluster), 500)
    status = make(toy_project, "status", cluster.environment).stdout
    assert re.findall(r"^(\S+) +3 of 3 +done$", status, re.MULTILINE) == MODELS
    assert re.search(r"^winning-ticket +7 of 7 +done$", status, re.MULTILINE)
    html = (toy_project / "outputs" / "toy" / "report.html").read_text()
    assert "Incomplete" not in html
    assert (toy_project / "outputs" / "toy" / "report.pdf").exists()
    logs = {path.name: path.read_text() for path in (toy_project / "outputs" / "toy" / "logs").iterdir()}
    assert len(logs) == 7
    assert most_at_once([log for name, log in logs.items() if "report" not in name]) == 5
    job = re.search(r"job (\d+): mistral", said)[1]
    first = logs[f"lottery-toy-{job}_0.log"]
    assert re.match(rf"--- job {job}_0 on dgx01, start 1, .*\n--- profile toy, model mistral-7b, commit \w+\n--- GPU: ", first)
    assert re.search(r"\n--- exit 0, .*\n$", first)
    record = json.loads(next((toy_project / "outputs" / "toy" / "mistral-7b" / "records").glob("*.json")).read_text())
    assert record["provenance"]["slurm_job"] == f"{job}_0"
    assert "None is the token here" in (toy_project / "outputs" / "toy" / "phi-2" / "phi-2.ipynb").read_text()
    for path in (toy_project / "outputs").rglob("*"):
        assert path.is_dir() or b"hf_not_for_the_log" not in path.read_bytes(), path

    before = records(toy_project)
    assert "all trials are recorded" in submitted(toy_project, cluster)
    cluster.wait(lambda: not states(cluster), 100)
    assert records(toy_project) == before


@pytest.mark.xdist_group("slurm")
def test_killed_out_of_memory_cancelled_and_a_node_down_then_only_the_rest_runs(toy_project, cluster):
    """Four models hang after their first trial: one is killed, one takes too much memory, one is cancelled, and of one the node fails."""
    killed, greedy, cancelled, orphaned = MODELS[:4]
    profile = toy_project / "params" / "toy.yaml"
    values = yaml.safe_load(profile.read_text())
    del values["checkpoints"][MODELS[4]]
    profile.write_text(yaml.safe_dump(values, sort_keys=False))
    for model in MODELS[:4]:
        edit(toy_project, model, "study.sweep()", HANG if model != greedy else f"hog = b'x' * (5 << 30); {HANG}")
    job, report = re.search(r"job (\d+): mistral(?s:.*)job (\d+): the report", submitted(toy_project, cluster)).groups()
    cluster.wait(lambda: len(records(toy_project)) == 4, 240)
    first = records(toy_project)
    status = make(toy_project, "status", cluster.environment).stdout
    assert f"{killed:24}   1 of 3   running dgx01, job {job}_0" in status

    victim = next(p for p in psutil.process_iter(["cmdline"]) if (p.info["cmdline"] or [])[-3:] == ["worker", "toy", killed])
    for process in [*victim.children(recursive=True), victim]:
        process.kill()
    cluster.run("scancel", f"{job}_2")
    cluster.wait(lambda: set(states(cluster)) == {f"{job}_3", report}, 60)
    assert "nothing to submit: all that is missing is in the queue" not in (again := submitted(toy_project, cluster, DRY=1))
    assert f"study.sh toy {killed} {greedy} {cancelled}\n" in again
    for model in MODELS[:4]:  # run again, they do what they always did
        shutil.copy(ROOT / "notebooks" / f"{model}.ipynb", toy_project / "notebooks")
    cluster.run("scontrol", "update", "NodeName=dgx01", "State=DOWN", "Reason=test")
    cluster.wait(lambda: cluster.job(f"{job}_3")["JobState"] == "PENDING", 60)
    cluster.resume("dgx01")
    cluster.wait(lambda: not states(cluster), 500)
    log = (toy_project / "outputs" / "toy" / "logs" / f"lottery-toy-{job}_3.log").read_text()
    assert "start 2" in log
    assert "phi-2: dense: recorded already" in log

    html = (toy_project / "outputs" / "toy" / "report.html").read_text()
    assert f"1 of 3 trials are recorded; it failed: job {job}_0: FAILED, killed by signal 9, as happens when memory runs out" in html
    assert re.search(rf"it failed: job {job}_1: (FAILED|OUT_OF_MEMORY), killed by signal 9, as happens when memory runs out", html)
    assert f"it failed: job {job}_2: CANCELLED, " in html
    status = make(toy_project, "status", cluster.environment).stdout
    assert re.search(rf"^{greedy} +1 of 3 +failed: job {job}_1: ", status, re.MULTILINE)
    assert re.search(rf"^{orphaned} +3 of 3 +done$", status, re.MULTILINE)

    said = submitted(toy_project, cluster)
    assert f": {killed}, {greedy}, {cancelled}; logs in" in said
    cluster.wait(lambda: not states(cluster), 500)
    assert "Incomplete" not in (toy_project / "outputs" / "toy" / "report.html").read_text()
    assert first.items() <= records(toy_project).items()  # no trial was run twice


@pytest.mark.xdist_group("slurm")
def test_three_tasks_share_the_trials_of_one_model_and_outlive_a_fourth(toy_project, cluster):
    # Timed so often that trials are left when a task is killed.
    one_model(toy_project, [round(0.04 * step, 2) for step in range(1, 15)], repeats=30)
    (folder := toy_project / "outputs" / "toy" / "phi-2").mkdir(parents=True)
    (folder / "stop").touch()  # of an earlier time
    said = submitted(toy_project, cluster, SPLIT=4, SET="memory=2G cpus=1 concurrency=8")
    job = re.search(r"job (\d+): phi-2; ", said)[1]

    def tasks_at_work():
        lines = ((process, process.info["cmdline"] or []) for process in psutil.process_iter(["cmdline"]))
        return [process for process, line in lines if line[-4:] == ["worker", "toy", "phi-2", "--shared"]]

    cluster.wait(lambda: len(tasks_at_work()) == 4 and len(list(folder.glob("records/[!.]*.json"))) >= 3, 240)
    tasks_at_work()[0].kill()
    # Beside busy tasks it may take so long to read the status that all trials are done by then.
    status = make(toy_project, "status", cluster.environment).stdout
    assert re.search(r"^phi-2 +(\d+ of 15 +.*running dgx01, job \d+_\d; running dgx01, job \d+_\d|15 of 15 +done)", status, re.MULTILINE)
    cluster.wait(lambda: not states(cluster), 500)
    found = {path: json.loads(path.read_text()) for path in folder.glob("records/[!.]*.json")}
    assert len(found) == 15
    assert len({record["provenance"]["slurm_job"] for record in found.values()}) >= 3, "the work was shared"
    logs = [path.read_text() for path in (toy_project / "outputs" / "toy" / "logs").glob(f"*-{job}_[0-3].log")]
    assert sum(log.count(", recorded\n") for log in logs) == 15, "no trial was measured twice"
    assert sum("exit 137" in log for log in logs) == 1
    assert sum("exit 0" in log for log in logs) == 3
    assert sum("running notebooks/phi-2.ipynb" in log for log in logs) >= 1
    assert (folder / "phi-2.ipynb").exists()
    assert "Incomplete" not in (toy_project / "outputs" / "toy" / "report.html").read_text()
    refused = make(toy_project, "submit", cluster.environment, PARTITION="dgx", SET="", SPLIT=0)
    assert "SPLIT: given 0; allowed: a whole number of tasks, at least 1" in refused.stderr


@pytest.mark.xdist_group("slurm")
def test_a_task_near_its_time_limit_or_preempted_stops_between_trials_and_goes_on_from_there(toy_project, cluster):
    one_model(toy_project, [round(0.04 * step, 2) for step in range(1, 23)], repeats=30)
    job = re.search(r"job (\d+): phi-2", submitted(toy_project, cluster, SET="memory=4G cpus=2 warning=30"))[1]
    cluster.wait(lambda: len(records(toy_project)) >= 2, 120)
    cluster.run("scontrol", "update", f"JobId={job}_0", "EndTime=now+35")
    log = toy_project / "outputs" / "toy" / "logs" / f"lottery-toy-{job}_0.log"
    cluster.wait(lambda: "start 2" in log.read_text(), 120)
    between = log.read_text()
    first = records(toy_project)
    assert 2 <= len(first) < 23
    assert "received SIGUSR1, the time limit is near: will stop after this trial" in between
    assert re.search(r"phi-2: stopped between trials, \d+ of 23 are recorded; run again to continue\n", between)
    assert "--- exit 75, " in between
    cluster.run("scontrol", "update", f"JobId={job}_0", "TimeLimit=1:00:00")

    cluster.wait(lambda: len(records(toy_project)) > len(first), 120)
    cluster.run("sbatch", "--partition=urgent", "--gres=gpu:v100:8", "--output=/dev/null", "--wrap=sleep 3")
    cluster.wait(lambda: "start 3" in log.read_text(), 120)
    assert log.read_text().count("received SIGUSR1, the time limit is near: will stop after this trial") == 2
    second = records(toy_project)
    assert len(first) < len(second) < 23
    cluster.wait(lambda: not states(cluster), 500)
    assert first.items() <= second.items() <= records(toy_project).items()
    assert len(records(toy_project)) == 23
    assert "Incomplete" not in (toy_project / "outputs" / "toy" / "report.html").read_text()


@pytest.mark.xdist_group("slurm")
@pytest.mark.parametrize("partition", ["teaching", "dgx", "dgxh100"])
def test_slurm_takes_the_lines_of_every_preset(toy_project, cluster, partition):
    said = submitted(toy_project, cluster, PARTITION=partition, DRY=1, SET="")
    lines = [shlex.split(line) for line in said.splitlines() if line.startswith("sbatch ")]
    assert len(lines) == 2
    assert [word for word in lines[0] if word.startswith("--array=")] == ["--array=0-4%4"], "some accounts may run four jobs at a time"
    for line in lines:
        ready = [word.replace("afterany:JOB", "afterany:1") for word in line if word != "--parsable"]
        tested = subprocess.run([ready[0], "--test-only", *ready[1:]], env=cluster.environment, capture_output=True, text=True)
        assert tested.returncode == 0, tested.stderr
        assert f"in partition {partition}" in tested.stderr


@pytest.mark.xdist_group("slurm")
def test_a_job_knows_how_much_memory_slurm_lets_it_take(tmp_path):
    """Slurm itself makes the control group, and kills what goes beyond it, however much the machine has."""
    need(not Cluster.missing(), Cluster.missing())
    if reason := Cluster.cannot_confine():
        pytest.skip(reason)
    asks = shlex.join([sys.executable, "-c", "from lottery.models.memory import main_memory; print(*main_memory())"])
    with tempfile.TemporaryDirectory(prefix="slurm-") as folder:
        confining = Cluster(Path(folder), confines=True)
        try:
            confining.start()
            output = tmp_path / "output"
            confining.run("sbatch", f"--wrap={asks}", f"--output={output}", "--mem=700M")
            confining.wait(lambda: not states(confining), 60)
            free, total = map(int, output.read_text().split())
        finally:
            confining.stop()
    assert total == 700 << 20 < psutil.virtual_memory().total
    assert 0 < free < total


@pytest.mark.xdist_group("slurm")
def test_a_bad_profile_is_refused_before_anything_is_submitted(toy_project, cluster):
    with (toy_project / "params" / "toy.yaml").open("a") as file:
        file.write("sparsties: [0.5]\n")
    done = make(toy_project, "submit", cluster.environment, PARTITION="dgx")
    assert done.returncode != 0
    assert "ParamsError: unknown key 'sparsties' (given [0.5]), did you mean 'sparsities'?" in done.stderr
    assert not states(cluster)
    assert not (toy_project / "outputs").exists()


@pytest.mark.parametrize(
    ("partition", "changes", "message"),
    [
        ("dgxx", [], "PARTITION: given 'dgxx'; allowed: teaching, dgx, dgxh100; slurm/sites.yaml says what they are"),
        (None, [], "PARTITION: given None; allowed: teaching, dgx, dgxh100; "),
        ("dgx", ["cpus=no"], "slurm/sites.yaml or SET, cpus: given 'no'; allowed: a whole number of cores a task, at least 1"),
        ("dgx", ["cpus=0"], "slurm/sites.yaml or SET, cpus: given 0; allowed: a whole number of cores a task, at least 1"),
        ("dgx", ["time"], "SET: given 'time'; allowed: key=value with a key of partition, gres, "),
        ("dgx", ["mem=4G"], "SET: given 'mem=4G'; allowed: key=value with a key of partition, gres, "),
        ("dgx", ["memory=much"], "slurm/sites.yaml or SET, memory: given 'much'; allowed: main memory a task, such as 64G"),
    ],
)
def test_a_site_that_makes_no_sense_is_one_line(partition, changes, message):
    with pytest.raises(ParamsError) as caught:
        slurm.site(partition, changes)
    assert str(caught.value).startswith(message)


def test_a_value_for_one_time_wins_over_the_preset_and_that_over_the_defaults():
    found = slurm.site("dgx", ["account=csc4611", "time=0-04:00:00", "concurrency=2", "gres=gpu:v100:2"])
    assert (found.account, found.time, found.concurrency, found.gres, found.cpus) == ("csc4611", "0-04:00:00", 2, "gpu:v100:2", 8)
    line = slurm.study_line(load_profile("demo"), ["phi-2"], found)
    assert {"--account=csc4611", "--time=0-04:00:00", "--array=0-0%2", "--gres=gpu:v100:2", "--signal=B:USR1@900"} <= set(line)
    assert slurm.site("teaching", []).gres == "gpu:t4:1"


def test_without_slurm_submitting_says_what_to_do_and_the_status_still_tells(toy_project, monkeypatch, capsys):
    profile = load_profile("toy")
    monkeypatch.setattr(slurm.shutil, "which", lambda _: None)
    write_state(toy_project / "outputs" / "toy" / "phi-2", "failed", "a reason")
    slurm.status(profile)
    assert re.search(r"^phi-2 +0 of 3 +failed: a reason$", capsys.readouterr().out, re.MULTILINE)
    monkeypatch.setattr("huggingface_hub.constants.HF_HUB_CACHE", str(toy_project))
    corpus.cache_clear()
    slurm.status(profile.model_copy(update={"text": "wikitext-2-raw", "profile": "gone"}))
    assert re.search(
        r"^phi-2 +0 of 0 +missing: wikitext-2-raw is not in the Hugging Face cache; fetch it", capsys.readouterr().out, re.MULTILINE
    )
    with pytest.raises(slurm.LotteryError, match=r"^sbatch is not on this machine: submit from a node of the cluster, or use make report$"):
        slurm.submit(profile, slurm.site("dgx", []), dry=False)


def test_a_python_that_is_not_there_is_found_before_the_jobs_find_out(toy_project, monkeypatch):
    monkeypatch.setattr(slurm, "queue", lambda _: {})
    with pytest.raises(ParamsError, match=r"python: given '/nowhere/python', which cannot be run: No such file or directory"):
        slurm.submit(load_profile("toy"), slurm.site("dgx", ["python=/nowhere/python"]), dry=False)


@pytest.mark.parametrize(
    ("answer", "said"),
    [
        ("JobId=7 JobState=RUNNING ExitCode=0:0", ""),
        ("JobId=7 JobState=TIMEOUT Reason=TimeLimit ExitCode=0:15", "job 7: TIMEOUT, ended by signal 15"),
        ("JobId=7 JobState=FAILED ExitCode=137:0", "job 7: FAILED, killed by signal 9, as happens when memory runs out"),
        ("JobId=7 JobState=FAILED ExitCode=3:0", "job 7: FAILED, exit status 3"),
        ("slurm_load_jobs error: Invalid job id specified", ""),
    ],
)
def test_what_became_of_a_job_is_said_in_a_few_words(monkeypatch, tmp_path, answer, said):
    program = tmp_path / "scontrol"
    program.write_text(f"#!/bin/sh\necho '{answer}'\n")
    program.chmod(0o755)
    monkeypatch.setenv("PATH", str(tmp_path), prepend=os.pathsep)
    assert slurm.fate("7") == said


def test_a_warning_that_comes_too_late_gives_up_the_trial_but_not_the_study(toy_project, monkeypatch):
    """The trial at work does not end in time; one was recorded before, so the task asks to be run again. With none it would be no use."""
    profile = load_profile("toy")
    folder = toy_project / "outputs" / "toy" / "phi-2"
    monkeypatch.setenv("LOTTERY_WARNING", str(worker.LAST_SECONDS + 1))
    counts = iter([0, 1, 1, 1])
    monkeypatch.setattr(worker, "_recorded", lambda *_: next(counts))

    def slow(*_):
        os.kill(os.getpid(), worker.signal.SIGUSR1)
        assert (folder / "stop").exists()
        worker.signal.pause()

    monkeypatch.setattr(worker, "measure", slow)
    assert worker.model(profile, "phi-2") == worker.STOPPED
    assert (read_state(folder).state, (folder / "stop").exists()) == ("stopped", False)
    assert worker.model(profile, "phi-2") == 1
    assert read_state(folder).reason.startswith("not one trial was finished within the time limit; give more time")


def test_the_report_is_written_where_slurm_does_not_answer(toy_project, monkeypatch, tmp_path, capsys):
    program = tmp_path / "squeue"
    program.write_text("#!/bin/sh\necho 'slurm_load_jobs error: Unable to contact slurm controller' >&2\nexit 1\n")
    program.chmod(0o755)
    monkeypatch.setenv("PATH", str(tmp_path), prepend=os.pathsep)
    write_state(toy_project / "outputs" / "toy" / "phi-2", "running")
    monkeypatch.setattr(worker, "write_report", lambda *_: ["report.html"])
    assert worker.report(load_profile("toy")) == 0
    slurm.submit(load_profile("toy"), slurm.site("dgx", []), dry=True)
    with pytest.raises(slurm.LotteryError, match="Unable to contact slurm controller"):
        slurm.submit(load_profile("toy"), slurm.site("dgx", []), dry=False)
    assert "Slurm does not answer: squeue: slurm_load_jobs error: Unable to contact slurm controller" in capsys.readouterr().out
