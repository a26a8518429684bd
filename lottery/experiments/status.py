"""What lies on disk of a profile: the records of each model, what is missing of it, and why. No model is ever loaded."""

import json
from collections.abc import Callable
from dataclasses import dataclass, field
from pathlib import Path

from lottery.common.errors import LotteryError
from lottery.common.paths import outputs
from lottery.config.checkpoint import checkpoint
from lottery.config.profile import WINNING_TICKET, Profile
from lottery.data.corpus import corpus, corpus_identity
from lottery.experiments.imp.records import TicketRecord, TicketRequest, read_ticket, recorded_requests
from lottery.experiments.protocols.records import ProtocolRecord, recorded
from lottery.experiments.protocols.records import wanted as wanted_protocols
from lottery.experiments.records import Record, Request, all_records, read_record, read_state, requests
from lottery.experiments.threshold import with_bisections
from lottery.pruning.catalogue import ALLOCATIONS, METHODS


@dataclass(frozen=True)
class RunStatus:
    """One part of a profile, a model or the ticket procedure: its records, how many there should be, and what is wrong, if anything."""

    name: str
    records: list[Record] | list[TicketRecord]
    wanted: int
    problem: str
    protocols: list[ProtocolRecord] = field(default_factory=list)  # of perplexity, where any are recorded


def run_status(profile: Profile, name: str) -> RunStatus:
    """Return the records of one part of a profile, in the order of its trials."""
    folder = outputs(profile.profile) / name
    if name == WINNING_TICKET:
        return _tickets(profile, folder)
    try:
        wanted = _requests(profile.with_model(name), folder)
    except LotteryError as error:
        return RunStatus(name, [], 0, str(error))
    records = [record for request in wanted if (record := read_record(folder, request))]
    asked = wanted_protocols(profile, wanted[0].checkpoint, wanted[0].text_sha256)
    scored = recorded(folder, asked)
    problem = _problem(folder, [record.request for record in records], wanted)
    if not problem and profile.protocols and len(scored) < len(asked):
        problem = _protocols_problem(folder, len(scored), len(asked))
    return RunStatus(name, records, len(wanted), problem, scored)


def _protocols_problem(folder: Path, scored: int, asked: int) -> str:
    """Say which of the protocols of perplexity that a profile asks for are missing, and why."""
    state = read_state(folder)
    why = f"it failed: {state.reason}" if state and state.state == "failed" else "run it again to continue."
    return f"{scored} of {asked} protocols are recorded; {why}"


def _tickets(profile: Profile, folder: Path) -> RunStatus:
    """Return the records of the lottery ticket procedure."""
    try:
        wanted = recorded_requests(profile)
    except LotteryError as error:
        return RunStatus(WINNING_TICKET, [], 0, str(error))
    records = [record for request in wanted if (record := read_ticket(folder, request))]
    return RunStatus(WINNING_TICKET, records, len(wanted), _problem(folder, [record.request for record in records], wanted))


def _requests(profile: Profile, folder: Path) -> list[Request]:
    """Return what should be recorded of a model. Where its text or folder is gone, its records say what they were made with."""
    made = [record.request for record in all_records(folder)]
    identity = _here_or_recorded(lambda: checkpoint(profile).identity, [request.checkpoint for request in made])
    made = [request for request in made if request.checkpoint == identity]
    text_sha256 = _here_or_recorded(lambda: corpus(profile.text).sha256, [request.text_sha256 for request in made])
    calibration = None
    if profile.calibrated:
        read = [request.calibration for request in made if request.text_sha256 == text_sha256 and request.calibration]
        calibration = _here_or_recorded(lambda: corpus_identity(profile.calibration_text, "calibration_text"), read)
    named = requests(profile, identity, text_sha256, calibration)
    return with_bisections(named, folder) if profile.bisect else named


def _here_or_recorded(look: Callable[[], str], recorded: list[str]) -> str:
    """Return what identifies a checkpoint or a text. Where it is gone, that is in the records, as long as they were all made with one."""
    try:
        return look()
    except LotteryError:
        if len(set(recorded)) != 1:
            raise
        return recorded[0]


def _problem(folder: Path, recorded: list[Request] | list[TicketRequest], wanted: list[Request] | list[TicketRequest]) -> str:
    """Say in one sentence why a part is not complete; empty where it is."""
    if len(recorded) == len(wanted):
        return ""
    state, count = read_state(folder), f"{len(recorded)} of {len(wanted)} trials are recorded"
    broken = [r.file_name for r in wanted if r not in recorded and (folder / "records" / r.file_name).exists()]
    if broken:
        return f"{count}; {', '.join(broken)} cannot be read and will be measured again."
    if state is None:
        return "it has not run."
    if state.state == "failed":
        return f"{count}; it failed: {state.reason}"
    if state.state == "stopped":
        return f"{count}; it was stopped between trials at {state.at:%Y-%m-%d %H:%M}; run it again to continue."
    if state.state == "running":
        return f"{count}; it started at {state.at:%Y-%m-%d %H:%M} and is still running or was killed."
    if _older(folder, wanted[0].measurement):
        return f"{count}; the others are of an older version, which measured otherwise, and will be measured again."
    return f"{count} under the present profile; the profile changed since it ran."


def _older(folder: Path, measurement: int) -> bool:
    """Return whether any records are older than ``measurement``, so that a number in them meant something else, or than what prunes."""
    for path in (folder / "records").glob("*.json"):
        try:
            asked = json.loads(path.read_bytes())["request"]
            pruned_by = {"method": METHODS.get(asked.get("method")), "allocation": ALLOCATIONS.get(asked.get("allocation"))}
            older = any(found and asked.get(f"{kind}_version", 1) < found.version for kind, found in pruned_by.items())
            if older or asked["measurement"] < measurement:
                return True
        except (ValueError, KeyError, TypeError):
            continue
    return False
