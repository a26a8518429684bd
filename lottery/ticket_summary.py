"""The ticket procedure of a profile as a page of Markdown with its figures: ``python -m lottery.ticket_summary PROFILE FOLDER``."""

import argparse
import sys
from pathlib import Path

from lottery.errors import LotteryError
from lottery.files import write_whole
from lottery.params import Profile, load_profile
from lottery.report import Report
from lottery.show import Picture

FIGURES = ("loss-over-weights-left", "steps-over-weights-left", "tickets-beside-one-shot")


def summarize(profile: Profile, folder: Path) -> Path:
    """Writes ``winning-ticket.md``, its figures as SVG and all runs as CSV into a folder. **Returns** the page.

    **Raises** ``LotteryError`` where a run is missing: what stands in a summary must be whole.
    """
    report = Report(profile)
    procedure = report.procedure
    if procedure is None or procedure.problem:
        raise LotteryError(
            f"profile {profile.profile}: {procedure.problem if procedure else 'it asks for no tickets'}; make report PROFILE=ticket first"
        )
    pictures = report.tickets_figure(), report.steps_figure(), report.bridge_figure()
    drawn = [_drawn(picture, name, folder) for picture, name in zip(pictures, FIGURES, strict=True) if picture]
    write_whole(folder / "winning-ticket.csv", report.tickets.data.drop(columns="record").to_csv(index=False))
    commits = sorted({record.provenance.commit for record in procedure.records})
    devices = sorted({record.provenance.device for record in procedure.records})
    text = [
        "# The winning ticket: a full run",
        f"Made by `make report PROFILE={profile.profile}` and `make ticket-summary PROFILE={profile.profile}`, at {', '.join(commits)}, on"
        f" {', '.join(devices)}. All runs are in [winning-ticket.csv](winning-ticket.csv).",
        "## Is there a ticket?",
        report.tickets.verdicts(),
        report.tickets.protocol(""),
        *drawn[:2],
        "## The bridge to one-shot pruning",
        report.bridge().data,
        *drawn[2:],
        "## Losses",
        report.tickets.losses(),
        report.tickets.problems(),
    ]
    page = folder / "winning-ticket.md"
    write_whole(page, "\n\n".join(part for part in text if part) + "\n")
    return page


def _drawn(picture: Picture, name: str, folder: Path) -> str:
    write_whole(folder / f"{name}.svg", picture.svg)
    return f"![{picture.caption}]({name}.svg)\n\n{picture.caption}"


def main() -> int:
    parser = argparse.ArgumentParser(description="Write a summary of a profile's ticket procedure.")
    parser.add_argument("profile", help="the name of a file in params/")
    parser.add_argument("folder", type=Path, help="where to")
    given = parser.parse_args()
    try:
        print(summarize(load_profile(given.profile), given.folder))
    except LotteryError as error:
        print(f"{type(error).__name__}: {error}", file=sys.stderr)
        return 1
    return 0


if __name__ == "__main__":
    sys.exit(main())
