"""The ticket procedure of a profile as a page of Markdown with its figures: ``python -m lottery ticket-summary PROFILE FOLDER``."""

from pathlib import Path

from lottery.common.errors import LotteryError
from lottery.common.files import atomic_write
from lottery.common.format import commit
from lottery.config.profile import Profile
from lottery.experiments.provenance import COMMIT, DIRTY
from lottery.report.builder import Report
from lottery.report.markdown import Picture
from lottery.report.sections import imp

BY_HAND = "<!-- `make ticket-summary` keeps what stands below -->"
FIGURES = ("loss-over-weights-left", "steps-over-weights-left", "tickets-beside-one-shot")


def summarize(profile: Profile, folder: Path) -> Path:
    """Write ``winning-ticket.md``, its figures as SVG and all runs as CSV into a folder.

    What stands below ``BY_HAND`` in an earlier page is kept.

    Args:
        profile: The profile, which has to ask for tickets.
        folder: Where the files go.

    Returns:
        The page.

    Raises:
        LotteryError: A run is missing. A summary must be complete.
    """
    report = Report(profile)
    procedure = report.procedure
    if procedure is None:
        raise LotteryError(f"profile {profile.profile}: it asks for no tickets; take one that does, such as ticket")
    if procedure.problem:
        problem = procedure.problem.removesuffix(".")
        raise LotteryError(f"profile {profile.profile}: {problem}; make report PROFILE={profile.profile} first")
    pictures = report.tickets_figure(), report.steps_figure(), report.bridge_figure()
    drawn = [_drawn(picture, name, folder) for picture, name in zip(pictures, FIGURES, strict=True) if picture]
    commits = sorted({commit(record.provenance.commit, record.provenance.dirty) for record in procedure.records})
    devices = sorted({record.provenance.device for record in procedure.records})
    text = [
        "# The winning ticket: a full run",
        report.stand_in_notice(),
        f"Made by `make report PROFILE={profile.profile}` and `make ticket-summary PROFILE={profile.profile}`. The runs are of"
        f" {', '.join(commits)}, on {' and '.join(devices)}; the page is of {commit(COMMIT, DIRTY)}."
        f" All runs at the chosen rates are in [a table]({profile.profile}/tables/winning-ticket.csv), which `make publish` writes. After"
        " one round the ticket and one-shot pruning are the same run, which stands there under both names.",
        "## Is there a ticket?",
        imp.verdicts(report.tickets),
        imp.protocol(report.tickets, ""),
        *drawn[:2],
        "## The bridge to one-shot pruning",
        report.bridge().data,
        *drawn[2:],
        "## Losses",
        imp.losses(report.tickets),
        imp.problems(report.tickets),
    ]
    page = folder / "winning-ticket.md"
    _, *kept = page.read_text(encoding="utf-8").split(BY_HAND) if page.exists() else [""]
    text += [BY_HAND + below.rstrip() for below in kept]
    atomic_write(page, "\n\n".join(part for part in text if part) + "\n")
    return page


def _drawn(picture: Picture, name: str, folder: Path) -> str:
    atomic_write(folder / f"{name}.svg", picture.svg)
    return f"![{picture.caption}]({name}.svg)\n\n{picture.caption}"
