"""What the runs of the lottery ticket procedure say, as sentences and tables."""

from lottery.analysis.imp.results import ImpResults
from lottery.analysis.imp.verdict import MARGIN, mean
from lottery.common.format import counted, percent
from lottery.config.profile import Tickets
from lottery.experiments.imp.arms import ARMS
from lottery.experiments.imp.records import TicketRequest
from lottery.report.markdown import table
from lottery.report.sentences import sentences


def verdicts(outcome: ImpResults) -> str:
    """Return a line for each model, and what a verdict means."""
    if not outcome.records:
        return "*No run is recorded.*"
    lines = [f"- {sentences('verdict', model=model, found=found)}" for model, found in outcome.verdict.items()]
    return "\n".join(lines) + "\n\n" + sentences("verdict_meaning", margin=MARGIN)


def protocol(outcome: ImpResults, notebook: str) -> str:
    """Say how it was measured, in the numbers of the records, and what it took."""
    if not outcome.records:
        return ""
    minutes = sum(record.result.seconds for record in outcome.records + outcome.of_other_rates) / 60
    return sentences("tickets", found=outcome, asked=outcome.records[0].request, minutes=minutes, notebook=notebook)


def schedule(asked: TicketRequest | Tickets) -> str:
    """Say how each run is trained, pruned and rewound."""
    return sentences("schedule", asked=asked)


def losses(outcome: ImpResults) -> str:
    """Return a table for each model: a row an arm, a column a level."""
    parts = []
    for model in outcome.models:
        rows = []
        for arm in ARMS:
            levels = (0, *outcome.levels)
            cells = {f"{percent(outcome.left(level) if level else 1)} left": _cell(outcome, model, arm, level) for level in levels}
            rows.append({"Arm": arm, **cells})
        caption = f"{model}: held-out loss in nats a token after training, the mean of {counted(outcome.seeds, 'seed')}"
        parts.append(table(rows, f"{caption}{of_intervals(outcome.seeds)}."))
    return "\n\n".join(parts)


def _cell(outcome: ImpResults, model: str, arm: str, level: int) -> str:
    """Return a mean loss, and of how many seeds where some could not be made."""
    found = outcome.by_seed(model, arm, level)
    few = f", {found.notna().sum()} of {counted(len(found), 'seed')}" if found.isna().any() and found.notna().any() else ""
    return "none" if len(found) and found.isna().all() else f"{mean(found)}{few}"


def problems(outcome: ImpResults) -> str:
    """Say what diverged, and what could not be pruned, a line a level."""
    return "\n".join(
        f"- {at.model} with {percent(at.left)} left, {', '.join(at.arms)} of seed {', '.join(map(str, at.seeds))}: {at.problem}"
        for at in outcome.troubles
    )


def of_intervals(seeds: int) -> str:
    """Return what a caption says of intervals over so many seeds."""
    return " with its 95% interval" if seeds > 1 else "; one seed is too few for an interval"
