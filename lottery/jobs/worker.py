"""One job of a study on a cluster, a model or the report: ``python -m lottery worker PROFILE NAME``, called by ``slurm/*.sh``."""

import os
import signal

from lottery.common.errors import HeldError, StoppedError
from lottery.common.paths import outputs
from lottery.config.profile import Profile
from lottery.experiments.lifecycle import held
from lottery.experiments.records import read_state, write_state
from lottery.experiments.status import run_status
from lottery.jobs.pipeline import measure, write_report
from lottery.jobs.slurm import settle

STOPPED = 75  # sysexits' EX_TEMPFAIL: not done, try again
LAST_SECONDS = 20  # before the time limit: what is left of the trial at work is given up, so that the job can be requeued


class _Late(BaseException):
    """The time limit is near and the current trial is not done."""


def model(profile: Profile, name: str, shared: bool = False) -> int:
    """Measure a model. When warned by SIGUSR1, stop between trials, or at the latest just before the time limit.

    Args:
        profile: The profile.
        name: The model.
        shared: Whether to measure along with other tasks, each of which takes trials that no other is working on. The first task that finds
            all of them recorded runs the notebook, which then only shows them.

    Returns:
        0 when all is recorded; 75 when it was stopped and has made progress, so that it should go on later; 1 when it failed, also when not
        one trial was finished: the next time would end the same way.
    """
    folder, stop = outputs(profile.profile) / name, outputs(profile.profile) / name / "stop"
    before, sharing, asked = _recorded(profile, name), shared, False
    if not shared:
        try:
            with held(folder):
                stop.unlink(missing_ok=True)
        except HeldError as error:
            print(error, flush=True)
            return 1

    def warned(*_):
        nonlocal asked
        asked = True
        if not sharing:
            stop.touch()
        print("      received SIGUSR1, the time limit is near: will stop after this trial", flush=True)
        signal.alarm(max(1, int(os.environ.get("LOTTERY_WARNING", "60")) - LAST_SECONDS))

    def late(*_):
        raise _Late

    signal.signal(signal.SIGUSR1, warned)
    signal.signal(signal.SIGALRM, late)
    try:
        if shared:
            from lottery.experiments.study import Study  # with all that loads a model; elsewhere the notebook does

            Study(profile.with_model(name)).share(lambda: asked or stop.exists())
            sharing = False
        if measure(profile, name, name):
            return 0
    except StoppedError as error:
        print(f"{name}: {error}", flush=True)
    except _Late:
        write_state(folder, "stopped", "stopped in the middle of a trial, just before the time limit")
    finally:
        signal.alarm(0)
        if not shared:
            stop.unlink(missing_ok=True)
    state = read_state(folder)
    if shared and state and state.state in ("running", "finished"):
        return 0  # all is recorded, and another task is at the notebook
    if state is None or state.state != "stopped":
        return 1
    if _recorded(profile, name) == before:
        write_state(
            folder, "failed", "not one trial was finished within the time limit; give more time, or a smaller batch_size or seq_len"
        )
        return 1
    return STOPPED


def report(profile: Profile) -> int:
    """Write the report from whatever is there, and name its gaps, also those of tasks killed before they could say why."""
    settle(profile)
    return 0 if write_report(profile, "report") else 1


def _recorded(profile: Profile, name: str) -> int:
    """Count what is recorded of a model: trials, and protocols of perplexity."""
    part = run_status(profile, name)
    return len(part.records) + len(part.protocols)
