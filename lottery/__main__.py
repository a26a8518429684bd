"""The commands of the package: ``python -m lottery COMMAND``. The targets of the Makefile call these.

A command imports what it needs when it is called, so that none waits for the libraries of another.
"""

import argparse
import sys
from collections.abc import Callable
from pathlib import Path

from lottery.common.errors import LotteryError, ParamsError
from lottery.config.profile import load_profile

COMMANDS: dict[str, tuple[Callable[[argparse.Namespace], int | None], list[tuple[str, dict]]]] = {}

PROFILE = ("profile", {"help": "the name of a file in params/"})
FOLDER = ("folder", {"type": Path, "help": "where to"})


def command(*arguments: tuple[str, dict]):
    """Register a function as the command of its name; its docstring is the help, its return value the exit status (``None``: 0)."""

    def register(function):
        COMMANDS[function.__name__.replace("_", "-")] = (function, list(arguments))
        return function

    return register


@command(PROFILE)
def run(given) -> int:
    """Run a profile's study and write its report."""
    from lottery.jobs.pipeline import run

    return run(load_profile(given.profile))


@command(
    PROFILE,
    ("--trials", {"type": int, "default": 3, "help": "how many, 3 unless given"}),
    ("--seed", {"type": int, "default": 0, "help": "of the draw, 0 unless given"}),
)
def verify(given) -> int:
    """Measure a random sample of recorded trials again and compare."""
    from lottery.experiments.verify import verify

    if given.trials < 1:
        raise LotteryError(f"--trials: given {given.trials}; allowed: a whole number of trials, at least 1")
    return 1 if verify(load_profile(given.profile), given.trials, given.seed) else 0


@command(PROFILE, ("--check", {"action": "store_true", "help": "only say what is missing; with HF_HUB_OFFLINE=1, as a job has it"}))
def fetch(given) -> None:
    """Fetch what a profile needs from the hub and the package index, and nothing else."""
    from lottery.jobs.fetch import fetch

    fetch(load_profile(given.profile), given.check)


@command(
    PROFILE,
    ("--partition", {"help": "a partition of slurm/sites.yaml"}),
    ("--set", {"nargs": "*", "default": [], "metavar": "key=value", "help": "keys of slurm/sites.yaml for this time only"}),
    ("--split", {"type": int, "default": 1, "help": "tasks that share the trials of one model, 1 unless given"}),
    ("--dry", {"action": "store_true", "help": "print the sbatch lines and submit nothing"}),
)
def submit(given) -> None:
    """Submit a profile's study to Slurm: a task a model, with a report job behind."""
    from lottery.jobs.slurm import site, submit

    profile = load_profile(given.profile)
    if given.split < 1:
        raise ParamsError(f"SPLIT: given {given.split}; allowed: a whole number of tasks, at least 1")
    submit(profile, site(given.partition, given.set), given.dry, given.split)


@command(PROFILE)
def status(given) -> None:
    """Show how far a submitted study is."""
    from lottery.jobs.slurm import status

    status(load_profile(given.profile))


@command(
    PROFILE,
    ("name", {"help": "a model of the profile, or report"}),
    ("--shared", {"action": "store_true", "help": "share the model's trials with other tasks"}),
)
def worker(given) -> int:
    """Measure one model of a profile, or write its report: one job on a cluster, called by slurm/*.sh."""
    from lottery.jobs.worker import model, report

    profile = load_profile(given.profile)
    return report(profile) if given.name == "report" else model(profile, given.name, given.shared)


@command(PROFILE, FOLDER)
def publish(given) -> None:
    """Copy a whole study into a folder that can be committed."""
    from lottery.jobs.publish import publish

    print(publish(load_profile(given.profile), given.folder))


@command(PROFILE, ("model", {"help": "a key of its checkpoints"}), ("variant", {"help": "what the report calls it, such as 'wanda 50%%'"}))
def export(given) -> None:
    """Write a pruned model as a folder in the sparse-bitmask format."""
    from lottery.experiments.export import export

    export(load_profile(given.profile, model=given.model), given.variant)


@command(
    ("folder", {"help": "a folder that export wrote"}),
    ("--prompt", {"default": "Once upon a time", "help": "the text to continue"}),
    ("--tokens", {"type": int, "default": 50, "help": "how many to write, 50 unless given"}),
)
def decode(given) -> None:
    """Continue a text with an exported model, and time it: sparse, dense, and dense by transformers."""
    from lottery.common.format import number, size
    from lottery.experiments.decode import compare
    from lottery.report.markdown import escape_unprintable

    if given.tokens < 2:
        raise LotteryError(f"--tokens: given {given.tokens}; allowed: a whole number of tokens, at least 2")
    ways = compare(given.folder, given.prompt, given.tokens)
    for way in ways:
        print(f"{way.how:20} {size(way.weights):>9} of weights a token, {number(way.tokens_per_second):>6} tokens/s")
    print(f"\n{given.prompt}{escape_unprintable(ways[0].text)}")


@command(
    PROFILE,
    ("model", {"nargs": "?", "help": "a key of its checkpoints; all of them unless given"}),
    ("--page", {"type": Path, "help": "also write what was found as a page of Markdown"}),
)
def protocols(given) -> None:
    """Score dense models by each perplexity protocol that people use."""
    from lottery.report.protocol_page import score

    score(load_profile(given.profile), given.model, given.page)


@command(PROFILE, FOLDER)
def ticket_summary(given) -> None:
    """Write the ticket procedure of a profile as a page of Markdown with its figures."""
    from lottery.report.imp_summary import summarize

    print(summarize(load_profile(given.profile), given.folder))


@command(
    ("names", {"nargs": "*", "metavar": "NAME", "help": "which; all unless given"}),
    ("--steps", {"type": int, "help": "fewer, for a trial"}),
    ("--out", {"type": Path, "help": "where to; over the shipped ones unless given"}),
)
def stand_ins(given) -> None:
    """Train the stand-ins from nothing."""
    from lottery.training.standins import train_all

    train_all(given.names, given.steps, given.out)


@command()
def notebooks(given) -> None:
    """Make the notebook of each model from notebooks/model.ipynb and its card."""
    from lottery.jobs.cards import write

    write()


@command()
def docs(given) -> None:
    """Write the tables of docs/profiles.md from the code."""
    from lottery.jobs.profile_page import write

    write()


def main() -> int:
    """Return the exit status; print a foreseen error on one line."""
    parser = argparse.ArgumentParser(prog="python -m lottery", description="Who has the best lottery ticket?")
    commands = parser.add_subparsers(dest="command", required=True, metavar="COMMAND")
    for name, (function, arguments) in COMMANDS.items():
        one = commands.add_parser(name, help=function.__doc__, description=function.__doc__)
        for flag, options in arguments:
            one.add_argument(flag, **options)
    given = parser.parse_args()
    try:
        return COMMANDS[given.command][0](given) or 0
    except LotteryError as error:
        print(f"{type(error).__name__}: {error}", file=sys.stderr)
        return 1


if __name__ == "__main__":
    sys.exit(main())
