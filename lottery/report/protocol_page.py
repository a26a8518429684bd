"""What each protocol gave, as a page of Markdown: ``python -m lottery protocols PROFILE [MODEL]``."""

from pathlib import Path

from lottery.analysis.protocols import frame
from lottery.analysis.published import name_of
from lottery.common.files import atomic_write
from lottery.common.format import commit
from lottery.config.checkpoint import checkpoint
from lottery.config.profile import Profile
from lottery.experiments.protocols.records import ProtocolRecord
from lottery.experiments.protocols.runs import measure
from lottery.models.checkpoints import shown
from lottery.report.sections import published
from lottery.report.sections.protocols import told


def page(profile: Profile, records: dict[str, list[ProtocolRecord]]) -> str:
    """Return what was found as a page of Markdown, with the commands and the commits that it came from."""
    frames = {name: frame(found) for name, found in records.items()}
    commits = sorted({commit(record.provenance.commit, record.provenance.dirty) for found in records.values() for record in found})
    devices = sorted({record.provenance.device for found in records.values() for record in found})
    parts = [
        "# Why does my perplexity differ from the paper's?",
        f"Text: {profile.text}. Made by `make protocols PROFILE={profile.profile}`, at {', '.join(commits)}, on {', '.join(devices)}.",
    ]
    for name, data in frames.items():
        model_of = checkpoint(profile.with_model(name))
        source = model_of.public_source
        parts += [f"## {name}", f"{shown(model_of.kind, source)}.", told(name, data), published.reproduced(name_of(source), data)]
    parts += ["## On paper", published.by_protocol(frames)]
    return "\n\n".join(parts) + "\n"


def score(profile: Profile, name: str | None = None, page_path: Path | None = None) -> None:
    """Score one dense model of a profile, or all of them, by each protocol, and write a page about it where one is asked for."""
    names = [name] if name else list(profile.checkpoints)
    records = {name: measure(profile.with_model(name)) for name in names}
    if page_path:
        atomic_write(page_path, page(profile, records))
