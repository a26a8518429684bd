import subprocess
import sys
from fnmatch import fnmatch
from types import SimpleNamespace

import pytest
from huggingface_hub.errors import (
    DryRunError,
    GatedRepoError,
    HfHubHTTPError,
    HTTPError,
    LocalEntryNotFoundError,
    OfflineModeIsEnabled,
    RevisionNotFoundError,
)

from lottery.common.errors import LotteryError
from lottery.config.profile import load_profile
from lottery.jobs import fetch
from tests.conftest import ROOT


class Response:
    status_code, headers, request, text = 403, {}, None, ""


@pytest.fixture
def hub(monkeypatch, tmp_path):
    """A hub of our own: nothing is cached until it is downloaded."""
    here, calls = set(), []

    def snapshot_download(repository, *, dry_run=False, revision, allow_patterns, repo_type):
        calls.append((repository, dry_run))
        if dry_run:
            return [SimpleNamespace(file_size=2**30, will_download=True), SimpleNamespace(file_size=5, will_download=False)]
        here.add(repository)
        return str(tmp_path)

    def is_cached(download):
        return download.repository in here

    monkeypatch.setattr(fetch, "snapshot_download", snapshot_download)
    monkeypatch.setattr(fetch, "_is_cached", is_cached)
    monkeypatch.setattr(fetch.Download, "cached", lambda self: None, raising=False)
    monkeypatch.setattr(fetch, "downloads", lambda profile: [_plain(d) for d in DOWNLOADS(profile)])
    return SimpleNamespace(calls=calls, here=here)


DOWNLOADS = fetch.downloads


def caused_by(cause: Exception) -> DryRunError:
    error = DryRunError("Dry run cannot be performed")
    error.__cause__ = cause
    return error


def _plain(download):
    return fetch.Download(download.repository, download.revision, download.repo_type, download.patterns, lambda: None)


def test_the_full_profile_takes_five_models_and_one_text_and_no_code():
    found = fetch.downloads(load_profile("full"))
    assert [d.repository for d in found] == [
        "mistralai/Mistral-7B-v0.1", "Qwen/Qwen2.5-7B", "HuggingFaceTB/SmolLM2-1.7B", "microsoft/phi-2", "Qwen/Qwen2.5-0.5B", "Salesforce/wikitext",
    ]  # fmt: skip
    patterns = {pattern for d in found for pattern in d.patterns}
    unsafe = [
        "modeling_phi.py",
        "tokenizer.py",
        "tokenizer.pkl",
        "tokenizer_config.py",
        "pytorch_model.bin",
        "model.pt",
        "training_args.bin",
    ]
    assert not [(name, pattern) for name in unsafe for pattern in patterns if fnmatch(name, pattern)]


def test_the_demo_profile_takes_nothing(monkeypatch):
    assert fetch.downloads(load_profile("demo")) == []


def test_it_says_how_much_then_downloads_what_is_missing_and_only_that(hub, capsys):
    hub.here |= {"microsoft/phi-2", "Qwen/Qwen2.5-7B", "Salesforce/wikitext"}
    fetch.fetch_missing(load_profile("full"))
    out = capsys.readouterr().out
    assert out.startswith("asking the hub how much there is to fetch of 3 repositories\nfetching 3 repositories, 3.00 GiB, into ")
    assert "[2/3] HuggingFaceTB/SmolLM2-1.7B@effd688a12, 1.00 GiB" in out
    assert [call for call in hub.calls if not call[1]] == [
        (name, False) for name in ("mistralai/Mistral-7B-v0.1", "HuggingFaceTB/SmolLM2-1.7B", "Qwen/Qwen2.5-0.5B")
    ]
    hub.calls.clear()
    fetch.fetch_missing(load_profile("full"))
    assert hub.calls == []


@pytest.mark.parametrize(
    ("error", "said"),
    [
        (GatedRepoError("gated", response=Response()), "mistralai/Mistral-7B-v0.1@27d67f1b5f is gated: accept its terms on its page while logged in, then run: hf auth login"),
        (RevisionNotFoundError("gone", response=Response()), "mistralai/Mistral-7B-v0.1@27d67f1b5f was not found on the Hub, or you have no access; check its name and revision in params/"),
        (TimeoutError(), "is not cached and the hub cannot be reached (TimeoutError); where there is a network, run: make fetch PROFILE=…"),
        (OSError(28, "No space left on device"), "cannot be written into "),
        (HfHubHTTPError("500 Server Error", response=Response()), "the hub cannot be reached (500 Server Error)"),
        (HTTPError("no route"), "the hub cannot be reached (no route)"),
        (OfflineModeIsEnabled("offline"), "the hub cannot be reached (offline)"),
        (DryRunError("no dry run"), "the hub cannot be reached (no dry run)"),
        (caused_by(GatedRepoError("gated", response=Response())), "27d67f1b5f is gated: accept its terms on its page"),
        (caused_by(HTTPError("no route")), "the hub cannot be reached (no route)"),
        (OSError(5, "Input/output error"), "27d67f1b5f cannot be fetched: OSError: [Errno 5] Input/output error"),
        (RuntimeError("checksum\nmore"), "27d67f1b5f cannot be fetched: RuntimeError: checksum"),
        (LocalEntryNotFoundError("no network\nmore"), "is not cached and the hub cannot be reached (no network); where there is a network, run: make fetch PROFILE=…"),
    ],
)  # fmt: skip
def test_what_goes_wrong_is_one_line_that_says_what_to_do(hub, monkeypatch, error, said):
    def failing(*_, **__):
        raise error

    monkeypatch.setattr(fetch, "snapshot_download", failing)
    with pytest.raises(LotteryError) as caught:
        fetch.fetch_missing(load_profile("full"))
    assert said in str(caught.value)
    assert "\n" not in str(caught.value)


def test_a_mistake_in_the_program_is_not_blamed_on_the_network(hub, monkeypatch):
    monkeypatch.setattr(fetch, "snapshot_download", lambda *_, **__: 1 + "1")
    with pytest.raises(TypeError, match="unsupported operand"):
        fetch.fetch_missing(load_profile("full"))


def test_a_disk_too_small_is_found_before_the_download(hub, monkeypatch):
    monkeypatch.setattr(fetch.shutil, "disk_usage", lambda _: SimpleNamespace(free=2**20))
    with pytest.raises(LotteryError, match=r"the download needs 6\.00 GiB, only 1.0 MiB are free; set HF_HOME to a larger disk"):
        fetch.fetch_missing(load_profile("full"))
    assert all(dry for _, dry in hub.calls)


def test_without_a_network_the_command_itself_says_so_in_its_last_line(tmp_path):
    """The real command against an address where nobody answers."""
    environment = {
        "PATH": "/usr/bin:/bin",
        "HOME": str(tmp_path),
        "HF_HOME": str(tmp_path),
        "HF_ENDPOINT": "http://127.0.0.1:9",
        "HF_HUB_OFFLINE": "1",
    }
    run = subprocess.run([sys.executable, "-m", "lottery", "fetch", "full"], cwd=ROOT, env=environment, capture_output=True, text=True)
    assert run.returncode == 1
    assert "is not cached and the hub cannot be reached" in run.stderr.splitlines()[-1]
    assert run.stderr.splitlines()[-1].endswith("run: make fetch PROFILE=…")


def test_calibration_text_is_fetched_only_where_a_variant_needs_it():
    plain = load_profile("full")
    assert "allenai/c4" not in {d.repository for d in fetch.downloads(plain)}
    calibrated = load_profile("full", methods=["magnitude", "wanda"], calibration_text="c4")
    wanted = {d.repository: d for d in fetch.downloads(calibrated)}
    assert wanted["allenai/c4"].patterns == ["en/c4-train.00000-of-01024.json.gz"]
    assert set(wanted) == {d.repository for d in fetch.downloads(plain)} | {"allenai/c4"}


def test_a_check_looks_for_the_data_of_tasks_too(monkeypatch):
    asked = []
    monkeypatch.setattr(fetch.lm_eval_tasks, "fetch", asked.append)
    fetch.fetch(load_profile("demo").model_copy(update={"tasks": ["arc_easy"]}), check=True)
    assert asked == [["arc_easy"]]


@pytest.mark.parametrize("check", [False, True])
def test_a_text_that_is_no_file_here_is_found_before_any_download(hub, check):
    wanting = load_profile("full", methods=["wanda"], calibration_text="../nowhere/c4.jsonl")
    with pytest.raises(LotteryError, match=r"^calibration_text: given '\.\./nowhere/c4\.jsonl'; allowed: stories, .* \(looked for "):
        fetch.fetch(wanting, check)
    assert not hub.calls
