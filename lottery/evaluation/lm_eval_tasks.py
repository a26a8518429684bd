"""Optional tests of knowledge: tasks of lm-evaluation-harness on a model as it stands in memory.

Perplexity misses lost knowledge (arXiv 2310.01382). The harness is an extra, ``pip install -e ".[tasks]"``, and nothing here imports it
unless a profile names tasks.
"""

import contextlib
import difflib
import importlib.util
import io
import logging
import math
import os
from functools import cache

from lottery.common.errors import LotteryError, NotFetchedError, ParamsError, first_line, with_class
from lottery.common.hashing import sha256
from lottery.common.paths import resolve

_FILE = (".yaml", ".yml")


def identities(tasks: list[str]) -> list[str]:
    """Return what identifies each task: its name, or for a file its name and the SHA-256 of its contents.

    Raises:
        ParamsError: A file is missing.
    """
    found = []
    for task in tasks:
        if not task.endswith(_FILE):
            found.append(task)
            continue
        path = resolve(task)
        if not path.is_file():
            raise ParamsError(f"tasks: given {task!r}; allowed: names of lm-evaluation-harness, or .yaml files (looked for {path})")
        found.append(f"{path.name}@{sha256(path)[:16]}")
    return found


def check(tasks: list[str]) -> None:
    """Check that the harness is installed and knows every task; read no data.

    Raises:
        ParamsError: The harness is not installed, or does not know a task.
    """
    if importlib.util.find_spec("lm_eval") is None:
        raise ParamsError(
            f"tasks: given {tasks!r}, but lm_eval is not installed; install it: make .venv/tasks, or remove tasks from the profile"
        )
    known = _manager().all_tasks
    for task in tasks:
        if not task.endswith(_FILE) and task not in known:
            close = ", ".join(difflib.get_close_matches(task, known, n=3)) or "lm_eval ls tasks shows them"
            raise ParamsError(f"tasks: given {task!r}; allowed: a task of lm-evaluation-harness ({close}), or a .yaml file")


def fetch(tasks: list[str]) -> None:
    """Let the harness load the data of each task, which leaves it in the cache of ``datasets``.

    Raises:
        ParamsError: As for ``check``.
        NotFetchedError: A task's data is not here and cannot be fetched.
    """
    check(tasks)
    for task in tasks:
        try:
            _manager().load([_spec(task)])
        except Exception as error:  # whatever a task's own code and the hub's client let through
            raise NotFetchedError(
                f"the data of task {task} is not here and cannot be fetched ({first_line(error)});"
                " where there is a network, run: make fetch PROFILE=…"
            ) from None


def scores(model, tokenizer, tasks: list[str], batch_size: int = 1) -> dict[str, dict[str, float]]:
    """Score a model that is in memory, as it stands: ``{"arc_easy": {"acc": 0.61, "acc_stderr": 0.01, …}, …}``.

    What running out of memory raises, ``RuntimeError`` and ``MemoryError``, is passed on unchanged.

    Args:
        model: A causal language model.
        tokenizer: A tokenizer that nobody else uses, because the harness gives it a padding token.
        tasks: Tasks, each with the number of few-shot examples that it names itself.
        batch_size: Sequences at a time, which changes the speed only.

    Returns:
        The scores of each task.

    Raises:
        LotteryError: A task fails; the message is the first line of its reason.
    """
    import lm_eval
    from lm_eval.models.huggingface import HFLM

    for name in ("lm_eval", "evaluate", "datasets"):
        logging.getLogger(name).setLevel(logging.ERROR)
    try:
        with contextlib.redirect_stderr(io.StringIO()):  # its progress bars would fill a log
            harness = HFLM(pretrained=model, tokenizer=tokenizer, batch_size=batch_size)
            found = lm_eval.simple_evaluate(
                harness, tasks=[_spec(task) for task in tasks], task_manager=_manager(), log_samples=False, bootstrap_iters=1000
            )
    except (RuntimeError, MemoryError):
        raise
    except Exception as error:
        raise LotteryError(f"tasks: {with_class(error)[:300]}") from error
    return {task: _numbers(values) for task, values in found["results"].items()}


def _spec(task: str) -> str:
    return os.fspath(resolve(task)) if task.endswith(_FILE) else task


def _numbers(values: dict) -> dict[str, float]:
    """Collect a task's numbers. The harness writes 'acc,none', with the filter behind the comma; 'none' is left out."""
    named = {name.removesuffix(",none"): value for name, value in values.items() if name not in ("alias", "sample_len", "sample_count")}
    return {name: float(value) for name, value in named.items() if isinstance(value, int | float) and not math.isnan(value)}


@cache
def _manager():
    """Make the task manager once: it reads the names of some thousand tasks, which takes seconds."""
    from lm_eval.tasks import TaskManager

    return TaskManager()
