"""The ticket procedure as a whole: its runs in workers, resumed after any end, never made twice."""

import hashlib
import os
import re
import shutil
import signal
import subprocess
import sys
import time
from datetime import timedelta

import psutil
import pytest

from lottery.__main__ import main
from lottery.analysis.imp.results import ImpResults
from lottery.common.errors import LotteryError, StoppedError
from lottery.common.paths import outputs
from lottery.config.profile import WINNING_TICKET, validated
from lottery.experiments.imp.records import MEASUREMENT, TicketRecord, folder_of, recorded_requests, requests
from lottery.experiments.imp.study import TicketStudy
from lottery.experiments.records import read_state, write_record, write_state
from lottery.experiments.status import run_status
from lottery.models.memory import Room
from lottery.report.builder import Report
from lottery.report.imp_page import TicketPage
from lottery.report.imp_summary import BY_HAND, summarize
from lottery.report.sections import imp
from tests.conftest import TOY
from tests.factory import ticket_of
from tests.test_ticket_run import NAME, SMALL

TICKETS = {**SMALL, "levels": 1, "seeds": 2}


@pytest.fixture
def profile(project):
    return validated({**TOY, "model": None, "tickets": TICKETS})


def written(profile) -> dict[str, int]:
    return {path.name: path.stat().st_mtime_ns for path in (folder_of(profile) / "records").iterdir()}


def test_all_runs_are_made_once_and_only_what_is_missing_again(profile, capfd):
    study = TicketStudy(profile)
    assert "0 of 14 trials are recorded" in TicketPage(study).describe().data
    with pytest.raises(LotteryError, match=r"^14 of 14 trials are not recorded; run the cells above$"):
        study.finish()
    study.train()
    study.finish()
    first, records = written(profile), study.records
    assert len(first) == 14
    assert {record.provenance.threads for record in records} == {1}
    assert read_state(folder_of(profile)).state == "finished"
    assert run_status(profile, WINNING_TICKET).problem == ""
    assert "winning-ticket: finished: 14 trials are recorded" in capfd.readouterr().out
    study.train()
    assert "all trials are recorded" in capfd.readouterr().out
    assert written(profile) == first

    # One record lost, and all weights: the dense run of that seed is made again because its mask is needed, and nothing else.
    lost = next(record for record in records if record.request.arm == "random mask" and record.request.seed == 1)
    (folder_of(profile) / "records" / lost.request.file_name).unlink()
    shutil.rmtree(folder_of(profile) / "weights")
    assert "13 of 14 trials are recorded" in run_status(profile, WINNING_TICKET).problem
    again = TicketStudy(profile)
    again.train()
    changed = {name for name, at in written(profile).items() if first.get(name) != at}
    made = [(r.request.seed, r.request.arm) for r in again.records if r.request.file_name in changed]
    assert made == [(1, "dense"), (1, "random mask")]
    assert [r.result.curve for r in again.records] == [r.result.curve for r in records], "the same to the last bit"


def test_of_several_learning_rates_each_architecture_takes_its_best(project):
    """Far too low, fair, and so high that it diverges: the dense model of the first seed tries all three, and the rest uses one."""
    profile = validated({**TOY, "model": None, "tickets": {**TICKETS, "learning_rate": [1e-9, 0.01, 1e9]}})
    assert [(r.arm, r.seed, r.learning_rate) for r in requests(profile)] == [("dense", 0, 1e-9), ("dense", 0, 0.01), ("dense", 0, 1e9)]
    study = TicketStudy(profile)
    study.train()
    study.finish()
    assert len(study.records) == 2 + 14
    assert sorted({(r.request.seed, r.request.learning_rate) for r in study.records}) == [(0, 1e-9), (0, 0.01), (0, 1e9), (1, 0.01)]
    part = run_status(profile, WINNING_TICKET)
    assert (len(part.records), part.wanted, part.problem) == (16, 16, "")
    outcome = ImpResults(part.records)
    assert len(outcome.records) == 14, "what was only tried is no run of the procedure"
    said = imp.protocol(outcome, "")
    assert f"The peak learning rate is 0.01 for {NAME}: the best of 1e-09, 0.01, 1e+09 for the dense model" in said
    assert "outside this range" not in said
    assert re.search(
        rf"Held-out loss of the dense models, and of the checkpoints' own weights: {re.escape(NAME)} [56]\.\d+ \(1\.\d+\)\. ", said
    )
    tried = {r.request.learning_rate: r.result.validation_loss for r in part.records if r.request.arm == "dense" and r.request.seed == 0}
    assert tried[0.01] < tried[1e-9]
    assert tried[1e9] is None


def test_a_stop_ends_it_between_runs(profile):
    study = TicketStudy(profile)
    folder_of(profile).mkdir(parents=True, exist_ok=True)
    (folder_of(profile) / "stop").touch()
    with pytest.raises(StoppedError, match=r"^stopped between trials, 0 of 14 are recorded; run again to continue$"):
        study.train()
    assert read_state(folder_of(profile)).state == "stopped"
    assert "it was stopped between trials" in run_status(profile, WINNING_TICKET).problem


def test_killed_without_a_word_its_workers_end_and_the_next_run_goes_on(profile, tmp_path):
    script = tmp_path / "procedure.py"
    script.write_text(
        "from lottery.config.profile import validated\nfrom lottery.experiments.imp.study import TicketStudy\n"
        f"if __name__ == '__main__':\n    TicketStudy(validated({profile.model_dump()!r})).train()\n"
    )
    process = subprocess.Popen(
        [sys.executable, script], start_new_session=True, env={**os.environ, "PYTHONPATH": os.pathsep.join(sys.path)}
    )
    records, until = folder_of(profile) / "records", time.monotonic() + 120
    while not (records.exists() and len(list(records.glob("*.json"))) >= 2):
        assert process.poll() is None
        assert time.monotonic() < until
        time.sleep(0.02)
    workers = [child for child in psutil.Process(process.pid).children(recursive=True) if "spawn_main" in " ".join(child.cmdline())]
    assert workers
    process.send_signal(signal.SIGKILL)
    process.wait()
    _, alive = psutil.wait_procs(workers, timeout=30)
    assert not alive
    kept = written(profile)
    study = TicketStudy(profile)
    study.train()
    study.finish()
    assert {name: at for name, at in written(profile).items() if name in kept} == kept


def test_a_profile_without_it_is_told_where_an_example_is(project):
    with pytest.raises(LotteryError, match=r"^tickets: not given in profile 'toy'; allowed: .*; params/ticket.yaml is an example$"):
        TicketStudy(validated({**TOY, "model": None}))


def test_a_failure_leaves_its_reason(profile):
    with pytest.raises(LotteryError, match="made for at most 512"):
        TicketStudy(profile.model_copy(update={"tickets": profile.tickets.model_copy(update={"seq_len": 4096})}))
    assert "failed: LotteryError: tickets['seq_len']: given 4096 tokens" in run_status(profile, WINNING_TICKET).problem


def test_the_text_that_is_scored_is_not_learned_from_under_another_name(profile, project):
    (project / "scored.txt").write_text("A text of a few words. " * 400)
    same = profile.model_copy(update={"text": "scored.txt", "tickets": profile.tickets.model_copy(update={"train_text": "./scored.txt"})})
    with pytest.raises(LotteryError, match=r"^tickets\['train_text'\]: given './scored.txt', the text that is scored under another name"):
        requests(same)


def test_other_settings_are_other_runs(profile, project):
    asked = {request.key for request in requests(profile)}
    assert len(asked) == 14
    for change in (
        {"prune_fraction": 0.5},
        {"rewind": 1},
        {"steps": 7},
        {"batch_size": 3},
        {"seq_len": 17},
        {"learning_rate": [0.02]},
        {"scope": "layer"},
    ):
        other = requests(profile.model_copy(update={"tickets": profile.tickets.model_copy(update=change)}))
        assert not asked & {request.key for request in other}, change
        assert {request.lineage for request in other}.isdisjoint(request.lineage for request in requests(profile))
    (project / "another.txt").write_text("Another text of a few words. " * 400)
    for change in ({"tickets": profile.tickets.model_copy(update={"train_text": "another.txt"})}, {"text": "another.txt"}):
        assert not asked & {request.key for request in requests(profile.model_copy(update=change))}, change
    more = profile.model_copy(update={"tickets": profile.tickets.model_copy(update={"levels": 2, "seeds": 3})})
    assert asked < {request.key for request in requests(more)}, "more levels and seeds keep what is recorded"


def test_the_report_tells_what_is_recorded_and_names_the_gap(profile):
    half = [request for request in requests(profile) if request.seed == 0]
    for request in half:
        made = ticket_of(
            NAME, request.arm, request.level, 0, {"dense": 2.0, "dense rewound": 2.0, "pruned": 5.0, "ticket": 2.1}.get(request.arm, 2.3)
        )
        write_record(folder_of(profile), made.model_copy(update={"request": request}))
    write_state(folder_of(profile), "stopped")
    report = Report(profile)
    assert "- winning-ticket: 7 of 14 trials are recorded; it was stopped between trials" in report.answer().data
    said = report.winning_tickets().data
    assert "- **qwen2.5-0.5b: not decided.** An interval needs at least two seeds." in said
    assert "7 runs, 1 seed, 0.7" in said
    assert "[executed notebook](winning-ticket/winning-ticket.ipynb)" in said
    assert "Cannot be decided with fewer than 5 architectures" in report.bridge().data
    assert report.tickets_figure()
    assert report.steps_figure()
    assert {path.name for path in (outputs("toy") / "figures").iterdir()} >= {"loss-over-weights-left.svg", "steps-over-weights-left.png"}
    assert (outputs("toy") / "tables" / "winning-ticket.csv").exists()


def test_a_summary_is_whole_or_refused(profile, tmp_path, capsys, monkeypatch):
    asked = requests(profile)
    with pytest.raises(LotteryError, match=r"^profile toy: it has not run; make report PROFILE=toy first$"):
        summarize(profile, tmp_path / "docs")
    for request in asked:
        made = ticket_of(
            NAME, request.arm, request.level, request.seed, {"dense": 2.0, "dense rewound": 2.0, "ticket": 2.0}.get(request.arm, 2.3)
        )
        write_record(folder_of(profile), made.model_copy(update={"request": request}))
    page = summarize(profile, tmp_path / "docs")
    text = page.read_text()
    assert "- **qwen2.5-0.5b: ticket.** With 40% of the weights left it does as well as the dense model" in text
    assert "14 runs, 2 seeds" in text
    assert all((page.parent / name).exists() for name in re.findall(r"\]\(([\w.-]+)\)", text))
    assert {path.name for path in page.parent.iterdir()} >= {"loss-over-weights-left.svg", "steps-over-weights-left.svg"}
    page.write_text(text.replace("14 runs", "13 runs") + f"\n{BY_HAND}\n\n## Withdrawn\n\nOnce more.\n")
    for _ in range(2):
        assert summarize(profile, tmp_path / "docs").read_text() == f"{text}\n{BY_HAND}\n\n## Withdrawn\n\nOnce more.\n"
    monkeypatch.setattr("sys.argv", ["lottery", "ticket-summary", "demo", str(tmp_path)])
    assert main() == 1
    assert capsys.readouterr().err.startswith("LotteryError: profile demo: it has not run; make report PROFILE=demo first")


def test_a_report_without_the_procedure_says_nothing_of_it(project):
    report = Report(validated({**TOY, "model": None}))
    assert report.winning_tickets() is None
    assert report.tickets_figure() is None
    assert report.bridge() is None


def test_a_report_is_made_where_the_text_is_gone(profile, monkeypatch):
    for request in requests(profile):
        write_record(folder_of(profile), ticket_of(NAME, "dense", 0, 0, 2.0).model_copy(update={"request": request}))

    def gone(*_):
        raise LotteryError("text: gone")

    monkeypatch.setattr("lottery.experiments.imp.records.corpus", gone)
    assert {request.key for request in recorded_requests(profile)} == {
        TicketRecord.model_validate_json(path.read_text()).request.key for path in (folder_of(profile) / "records").iterdir()
    }
    assert run_status(profile, WINNING_TICKET).problem == ""


def test_where_the_text_is_gone_runs_of_different_texts_are_not_mixed(profile, monkeypatch):
    """The newest record says which text counts, and the profile how many runs there should be."""
    asked, other = requests(profile), hashlib.sha256(b"another").hexdigest()
    for request in [*(r.model_copy(update={"text_sha256": other}) for r in asked), *asked[:3]]:
        write_record(folder_of(profile), ticket_of(NAME, "dense", 0, 0, 2.0).model_copy(update={"request": request}))
    newest = folder_of(profile) / "records" / asked[2].file_name
    record = TicketRecord.model_validate_json(newest.read_text())
    record.provenance.finished += timedelta(days=1)
    newest.write_text(record.model_dump_json())

    def gone(*_):
        raise LotteryError("text: gone")

    monkeypatch.setattr("lottery.experiments.imp.records.corpus", gone)
    assert recorded_requests(profile) == asked
    found = run_status(profile, WINNING_TICKET)
    assert (len(found.records), found.wanted) == (3, 14)


def test_records_of_an_older_version_are_not_mixed_in_where_the_text_is_gone(profile, monkeypatch):
    for request in requests(profile):
        for version in (request.measurement - 1, request.measurement):
            other = request.model_copy(update={"measurement": version})
            write_record(folder_of(profile), ticket_of(NAME, "dense", 0, 0, 2.0).model_copy(update={"request": other}))

    def gone(*_):
        raise LotteryError("text: gone")

    monkeypatch.setattr("lottery.experiments.imp.records.corpus", gone)
    assert {request.measurement for request in recorded_requests(profile)} == {MEASUREMENT}
    assert len(recorded_requests(profile)) == 14


def test_a_dense_model_is_rewound_where_pruning_leaves_nothing_and_the_weights_are_gone(profile):
    """Its first level cannot be made; what the rewound one starts from is made again."""
    study = TicketStudy(profile)
    dense, rewound = study.requests[:2]
    assert (dense.arm, rewound.arm) == ("dense", "dense rewound")
    made = ticket_of(NAME, "dense", 0, 0, 2.0).model_copy(update={"request": dense})
    made.result.no_next = "leaves nothing of q"
    write_record(study.folder, made)
    assert dense in study._todo()


def test_a_changed_profile_is_not_taken_for_an_older_version(profile):
    """Tickets and trials have versions of their own, and those of trials are ahead."""
    for request in requests(profile):
        write_record(folder_of(profile), ticket_of(NAME, "dense", 0, 0, 2.0).model_copy(update={"request": request}))
    write_state(folder_of(profile), "finished")
    longer = profile.model_copy(update={"tickets": profile.tickets.model_copy(update={"steps": 9})})
    assert (
        run_status(longer, WINNING_TICKET).problem
        == "0 of 14 trials are recorded under the present profile; the profile changed since it ran."
    )


def test_workers_share_one_budget_of_memory(profile, monkeypatch):
    monkeypatch.setattr("lottery.experiments.imp.study.os.sched_getaffinity", lambda _: set(range(16)))
    monkeypatch.setattr("torch.cuda.is_available", lambda: False)
    study, counts = TicketStudy(profile), {}
    for room in (0, 3 << 30, 1 << 40):
        monkeypatch.setattr("lottery.experiments.imp.study.memory.main_memory", lambda room=room: Room(room, room))
        counts[room] = study._workers
    assert counts == {0: 1, 3 << 30: 2, 1 << 40: 14}
