"""The study on a cluster: submit what is missing to Slurm, one task per model, followed by a report job.

The commands are ``python -m lottery submit PROFILE`` and ``python -m lottery status PROFILE``. Slurm does all the scheduling; here are only
its command lines, and what it says about jobs.
"""

import getpass
import os
import re
import shlex
import shutil
import subprocess
import sys
from typing import NamedTuple

from pydantic import BaseModel, ConfigDict, Field, ValidationError

from lottery.common.errors import LotteryError, ParamsError, on_one_line
from lottery.common.paths import outputs, project_root
from lottery.config.profile import Profile, read_yaml
from lottery.experiments.records import read_state, write_state
from lottery.experiments.status import run_status
from lottery.jobs.pipeline import complete

ACTIVE = {"PENDING", "RUNNING", "CONFIGURING", "COMPLETING", "REQUEUED", "SUSPENDED", "STOPPED", "RESIZING", "SIGNALING", "STAGE_OUT"}


class Site(BaseModel):
    """Where and how jobs run; the keys of ``slurm/sites.yaml``, where each is explained."""

    model_config = ConfigDict(extra="forbid", strict=True, frozen=True)

    partition: str = Field(description="a partition of the cluster")
    gres: str | None = Field(None, description="such as gpu:v100:1, or null")
    account: str | None = Field(None, description="the name of an account, or null")
    qos: str | None = Field(None, description="the name of a quality of service, or null")
    time: str = Field(description="a time limit of Slurm's in quotes, such as '1-00:00:00'", pattern=r"^[\d:-]+$")
    cpus: int = Field(description="a whole number of cores a task, at least 1", ge=1)
    memory: str = Field(description="main memory a task, such as 64G", pattern=r"^\d+[KMGT]$")
    concurrency: int = Field(description="a whole number of tasks at a time, at least 1", ge=1)
    warning: int = Field(description="a whole number of seconds, 30 to 65535", ge=30, le=65535)
    python: str | None = Field(None, description="the path of an environment's own python, or null for the one that submits")
    hf_home: str | None = Field(None, description="the folder of the Hugging Face caches, or null for HF_HOME of the shell that submits")


class Job(NamedTuple):
    """A job in the queue: its id, Slurm's word for its state, and where it runs or why it waits."""

    id: str
    state: str
    where: str


def site(partition: str | None, changes: list[str]) -> Site:
    """Return the site of a partition with single keys changed.

    Args:
        partition: A partition of ``slurm/sites.yaml``.
        changes: The changes, each as ``key=value``.

    Raises:
        ParamsError: The partition, a key or a value is not allowed; in one line.
    """
    written = read_yaml(project_root() / "slurm" / "sites.yaml")
    presets = written["partitions"]
    if partition not in presets:
        raise ParamsError(f"PARTITION: given {partition!r}; allowed: {', '.join(presets)}; slurm/sites.yaml says what they are")
    values = {**written["defaults"], "partition": partition, **(presets[partition] or {})}
    for change in changes:
        key, equals, value = change.partition("=")
        if not equals or key not in Site.model_fields:
            raise ParamsError(f"SET: given {change!r}; allowed: key=value with a key of {', '.join(Site.model_fields)}")
        whole = value.isdigit() and Site.model_fields[key].annotation is int
        values[key] = int(value) if whole else value or None
    try:
        return Site(**values)
    except ValidationError as error:
        fault = error.errors()[0]
        key = str(fault["loc"][0])
        allowed = Site.model_fields[key].description if key in Site.model_fields else f"a key of {', '.join(Site.model_fields)}"
        raise ParamsError(f"slurm/sites.yaml or SET, {key}: given {fault['input']!r}; allowed: {allowed}") from None


def study_line(profile: Profile, models: list[str], where: Site) -> list[str]:
    """Return the sbatch line of an array with a task for each name in ``models``; tasks for the same model share its trials."""
    script = project_root() / "slurm" / "study.sh"
    return [
        *_sbatch(profile, where, f"lottery-{profile.profile}", "%x-%A_%a.log"),
        *([f"--gres={where.gres}"] if where.gres else []),
        f"--cpus-per-task={where.cpus}", f"--mem={where.memory}", f"--time={where.time}",
        f"--array=0-{len(models) - 1}%{where.concurrency}", f"--comment={' '.join(models)}",
        "--requeue", f"--signal=B:USR1@{where.warning}",
        str(script), profile.profile, *models,
    ]  # fmt: skip


def report_line(profile: Profile, after: list[str], where: Site) -> list[str]:
    """Return the sbatch line of the report, which is written when the given jobs have ended, however they ended."""
    behind = ",".join([f"afterany:{':'.join(after)}"] * bool(after) + ["singleton"])
    return [
        *_sbatch(profile, where, f"lottery-{profile.profile}-report", "%x-%j.log"),
        "--cpus-per-task=2", "--mem=8G", "--time=01:00:00", f"--dependency={behind}",
        str(project_root() / "slurm" / "report.sh"), profile.profile,
    ]  # fmt: skip


def _sbatch(profile: Profile, where: Site, name: str, log: str) -> list[str]:
    return [
        "sbatch", "--parsable", f"--job-name={name}", f"--partition={where.partition}",
        *([f"--account={where.account}"] if where.account else []), *([f"--qos={where.qos}"] if where.qos else []),
        f"--chdir={project_root()}", f"--output={_logs(profile)}/{log}", "--open-mode=append",
        f"--export={','.join(['ALL', *_variables(where)])}",
    ]  # fmt: skip


def submit(profile: Profile, where: Site, dry: bool, split: int = 1) -> None:
    """Submit what is missing and not yet in the queue, and a report behind all of it.

    Args:
        profile: The profile.
        where: Where and how the jobs run.
        dry: Only print the command lines.
        split: How many tasks share the trials of a model; no more than there are trials left.
    """
    queued = _queue_if_slurm_answers(profile) if dry else queue(profile)
    missing = [name for name in profile.parts if name not in queued and not complete(profile, name)]
    for name, jobs in queued.items():
        print(f"{name}: {' and '.join(f'{job.state.lower()} in job {job.id}' for job in jobs)} already")
    if queued and not missing:
        print("nothing to submit: all that is missing is in the queue")
        return
    if missing:
        _check(profile, where, dry)
    if not dry:
        _logs(profile).mkdir(parents=True, exist_ok=True)  # Slurm does not make it, and a job without it dies without a word
    after = sorted({job.id.split("_")[0] for jobs in queued.values() for job in jobs})
    if missing:
        tasks = [name for name in missing for _ in range(_tasks(profile, name, split))]
        if not dry:
            for name in missing:
                (outputs(profile.profile) / name / "stop").unlink(missing_ok=True)
        after.append(_say_or_do(study_line(profile, tasks, where), dry))
        print(f"job {after[-1]}: {', '.join(missing)}; logs in {_logs(profile)}")
    else:
        print("all trials are recorded")
    job = _say_or_do(report_line(profile, after, where), dry)
    print(f"job {job}: the report, {outputs(profile.profile) / 'report.html'}")


def _tasks(profile: Profile, name: str, split: int) -> int:
    """Return how many tasks share what is left of a part; the ticket procedure has workers of its own."""
    part = run_status(profile, name)
    return min(split, max(1, part.wanted - len(part.records))) if name in profile.checkpoints else 1


def _say_or_do(line: list[str], dry: bool) -> str:
    if dry:
        print(shlex.join(line))
        return "JOB"
    return _asked(line).strip().split(";")[0]


def _check(profile: Profile, where: Site, dry: bool) -> None:
    """Check now what a job at night would otherwise be the first to find out.

    Raises:
        LotteryError: The job's python or a checkpoint is missing.
    """
    environment = {**os.environ, **dict(variable.split("=", 1) for variable in _variables(where))}
    line = [_python(where), "-m", "lottery", "fetch", profile.profile, "--check"]
    try:
        answer = subprocess.run(line, cwd=project_root(), env=environment, capture_output=True, text=True)
    except OSError as error:
        raise ParamsError(f"slurm/sites.yaml or SET, python: given {where.python!r}, which cannot be run: {error.strerror}") from None
    if answer.returncode:
        reason = (answer.stderr.strip().splitlines() or ["no reason given"])[-1]
        if not dry:
            raise LotteryError(f"nothing was submitted: {reason}")
        print(f"this would be refused: {reason}")


def _python(where: Site) -> str:
    return os.path.expandvars(where.python) if where.python else sys.executable


def _variables(where: Site) -> list[str]:
    """Return the environment variables that jobs get in addition to those of the submitting shell."""
    found = [f"LOTTERY_PYTHON={_python(where)}", f"LOTTERY_WARNING={where.warning}", "HF_HUB_OFFLINE=1"]
    return [*found, f"HF_HOME={os.path.expandvars(where.hf_home)}"] if where.hf_home else found


def queue(profile: Profile) -> dict[str, list[Job]]:
    """Return the waiting and running jobs of a profile's study, by model; none where there is no Slurm."""
    if shutil.which("squeue") is None:
        return {}
    line = ["squeue", "--noheader", "--array", f"--user={getpass.getuser()}", f"--name=lottery-{profile.profile}"]
    found = {}
    for row in _asked([*line, "--format=%F|%K|%T|%R|%k"]).splitlines():
        job, index, state, where, comment = row.split("|", 4)
        found.setdefault(comment.split()[int(index)], []).append(Job(f"{job}_{index}", state, where))
    return found


def _queue_if_slurm_answers(profile: Profile) -> dict[str, list[Job]]:
    try:
        return queue(profile)
    except LotteryError as error:  # what is recorded can be told all the same
        print(f"Slurm does not answer: {error}")
        return {}


def fate(job: str) -> str:
    """Say in a few words how a job ended; empty where it has not ended, or nobody knows any more."""
    for line, pattern in _RECALL:
        if shutil.which(line[0]) is None:
            continue
        answer = subprocess.run([*line, job], capture_output=True, text=True)
        match = re.search(pattern, answer.stdout)
        if answer.returncode or not match:
            continue
        if match["state"] in ACTIVE:
            return ""
        signal = int(match["signal"]) or max(0, int(match["status"]) - 128)
        how = {0: f"exit status {match['status']}", 9: "killed by signal 9, as happens when memory runs out"}
        return f"job {job}: {match['state']}, {how.get(signal, f'ended by signal {signal}')}"
    return ""


# scontrol forgets a job some minutes after its end, sacct does not but needs a database.
_RECALL = [
    (["scontrol", "--oneliner", "show", "job"], r"JobState=(?P<state>\w+).*?ExitCode=(?P<status>\d+):(?P<signal>\d+)"),
    (["sacct", "-nPX", "-o", "State,ExitCode", "-j"], r"(?P<state>\w+).*?\|(?P<status>\d+):(?P<signal>\d+)"),
]


def settle(profile: Profile) -> None:
    """Give each model whose task was killed before it could say why the reason that Slurm knows, if it answers."""
    queued = _queue_if_slurm_answers(profile)
    for name in profile.parts:
        state = read_state(outputs(profile.profile) / name)
        if state and state.state in ("running", "stopped") and state.job and name not in queued and (ended := fate(state.job)):
            write_state(outputs(profile.profile) / name, "failed", ended)


def status(profile: Profile) -> None:
    """Print for each model how much is recorded, and whether it is done, running, waiting, failed or missing."""
    queued, folder = _queue_if_slurm_answers(profile), outputs(profile.profile)
    for model in (run_status(profile, name) for name in profile.parts):
        state, jobs = read_state(folder / model.name), queued.get(model.name)
        if jobs:
            how = "; ".join(f"{job.state.lower()} {job.where}, job {job.id}" for job in jobs)
        elif not model.problem:
            how = "done"
        elif state is None:
            how = "missing" if model.wanted else f"missing: {model.problem}"
        elif state.state == "failed":
            how = f"failed: {state.reason}"
        elif state.state == "finished":
            how = f"missing: {model.problem}"
        else:
            ended = fate(state.job) if state.job else ""
            how = f"failed: {ended}" if ended else f"{state.state} since {state.at:%Y-%m-%d %H:%M}"
        print(f"{model.name:24}{len(model.records):4} of {model.wanted:<4}{how}")
    html = folder / "report.html"
    print(f"{'report':24}{'':12}{html if html.exists() else 'not written'}")


def _logs(profile: Profile):
    return outputs(profile.profile) / "logs"


def _asked(line: list[str]) -> str:
    """Return what a command of Slurm's answers.

    Raises:
        LotteryError: The command refuses; with its own reason.
    """
    if shutil.which(line[0]) is None:
        raise LotteryError(f"{line[0]} is not on this machine: submit from a node of the cluster, or use make report")
    answer = subprocess.run(line, capture_output=True, text=True)
    if answer.returncode:
        raise LotteryError(f"{line[0]}: {on_one_line(answer.stderr)}")
    return answer.stdout
