"""What many tests share: small models, a copy of the project, and what must be there for a test to run."""

import os
import shutil
from collections.abc import Iterator
from contextlib import chdir, contextmanager
from pathlib import Path

import pytest
import torch

from lottery.evaluation import bootstrap
from tests.browser import Browser

ROOT = Path(__file__).resolve().parents[1]
DATA = ROOT.parent / "shared" / "data"

TOY = {
    "profile": "toy",
    "checkpoints": {"qwen2.5-0.5b": "stand-in:qwen2.5-0.5b"},
    "model": "qwen2.5-0.5b",
    "text": "stories",
    "methods": ["magnitude"],
    "sparsities": [0.5, 0.9],
    "seq_len": 64,
    "max_windows": 4,
    "prompts": 2,
    "new_tokens": 8,
    "repeats": 2,
}


def need(available: bool, what: str) -> None:
    """Skips a test where something is not on this machine; in CI it must be, so there the test fails instead."""
    if not available:
        if os.environ.get("CI"):
            pytest.fail(f"{what} is missing, and CI must have it")
        pytest.skip(f"{what} is not on this machine")


def need_program(name: str) -> str:
    need(shutil.which(name) is not None, f"the program {name}")
    return shutil.which(name)


def need_compiler(name: str = "cc") -> None:
    """Skips a whole file of tests where nothing compiles the kernel; in CI they fail instead."""
    if shutil.which(name) is None and not os.environ.get("CI"):
        pytest.skip(f"no compiler ({name}) is on this machine", allow_module_level=True)


def need_data() -> Path:
    need(DATA.is_dir(), "the folder ../shared/data")
    return DATA


@pytest.fixture(autouse=True)
def _one_seed():
    torch.manual_seed(0)


@pytest.fixture(autouse=True)
def _no_data_beside_the_project(monkeypatch):
    """So that tests find the same on every machine; those that want the data name its folder."""
    monkeypatch.setenv("LOTTERY_DATA", "/nowhere")


@contextmanager
def project_in(folder: Path) -> Iterator[Path]:
    """Copy the project's notebooks and params into a folder, which is the working directory inside."""
    for name in ("notebooks", "params"):
        shutil.copytree(ROOT / name, folder / name)
    with chdir(folder):
        yield folder


@pytest.fixture
def project(tmp_path, monkeypatch) -> Iterator[Path]:
    """A copy of the project's notebooks and params in an empty folder, which is then the working directory."""
    monkeypatch.setattr("lottery.models.memory.bandwidth", lambda device: 1e10)  # its seconds would be most of a small study's
    with project_in(tmp_path):
        yield tmp_path


@pytest.fixture
def toy(project) -> dict:
    """A profile small enough for a test, as plain values."""
    return dict(TOY)


@pytest.fixture(scope="module")
def browser(tmp_path_factory):
    running = Browser(need_program("chromium"), tmp_path_factory.mktemp("chromium"))
    yield running
    running.close()


@pytest.fixture
def few_draws(monkeypatch):
    """A tenth of the bootstrap's draws, for tests that make hundreds of intervals."""
    monkeypatch.setattr(bootstrap, "N_RESAMPLES", 2000)
    bootstrap.draws.cache_clear()
    yield
    bootstrap.draws.cache_clear()
