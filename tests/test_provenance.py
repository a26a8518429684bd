"""Which commit a record names: that of the files that ran."""

import subprocess
from datetime import datetime
from importlib.util import find_spec

import pytest
import torch

from benchmarks import alternate
from lottery.experiments import provenance
from lottery.experiments.provenance import commit_of
from lottery.models.loading import Plan
from tests.conftest import ROOT


@pytest.fixture
def checkout(tmp_path):
    """A repository with a package in it, and files beside that."""
    (tmp_path / "package").mkdir()
    for name in ("package/a.py", "package/b.csv", "README.md"):
        (tmp_path / name).write_text("old")
    (tmp_path / ".gitignore").write_text("__pycache__/\n")
    for line in (["init", "-q"], ["add", "-A"], ["-c", "user.name=a", "-c", "user.email=a@b.c", "commit", "-qm", "a"]):
        subprocess.run(["git", *line], cwd=tmp_path, check=True)
    return tmp_path


def test_the_commit_is_that_of_the_packages_files(checkout, monkeypatch):
    head = subprocess.run(["git", "rev-parse", "HEAD"], cwd=checkout, capture_output=True, text=True, check=True).stdout.strip()
    monkeypatch.chdir(ROOT)  # another checkout: it is not asked
    assert commit_of(checkout / "package") == (head, False)
    (checkout / "README.md").write_text("new")
    (checkout / "package" / "__pycache__").mkdir()
    (checkout / "package" / "__pycache__" / "a.pyc").write_text("")
    assert commit_of(checkout / "package") == (head, False), "what is beside the package changes no number"
    (checkout / "package" / "c.py").write_text("a module that git does not know")
    assert commit_of(checkout / "package") == (head, True)
    subprocess.run(["git", "config", "status.showUntrackedFiles", "no"], cwd=checkout, check=True)
    assert commit_of(checkout / "package") == (head, True), "whatever a person's git shows"
    monkeypatch.setenv("GIT_DIR", str(ROOT / ".git"))  # as in a hook of another repository
    assert commit_of(checkout / "package") == (head, True)
    monkeypatch.delenv("GIT_DIR")
    (checkout / "package" / "c.py").unlink()
    (checkout / "package" / "b.csv").write_text("new")
    assert commit_of(checkout / "package") == (head, True)
    assert commit_of(checkout / "package", ":!package/b.csv") == (head, True), "a path is that of the folder"
    assert commit_of(checkout / "package", ":!b.csv") == (head, False)


def test_a_package_that_is_in_no_checkout_has_no_commit(checkout, tmp_path_factory):
    (checkout / "site" / "package").mkdir(parents=True)  # an environment inside of a clone, say
    assert commit_of(checkout / "site" / "package") == ("unknown", False)
    assert commit_of(tmp_path_factory.mktemp("nowhere")) == ("unknown", False)


def test_it_is_read_when_the_code_is_loaded(monkeypatch):
    """A pull while a study runs changes the files, and not what runs."""
    assert len(provenance.COMMIT) == 40
    monkeypatch.setattr(provenance, "commit_of", lambda *_: ("b" * 40, True))
    plan = Plan(torch.device("cpu"), torch.float32, "")
    found = provenance.provenance(plan, datetime.now().astimezone())
    assert (found.commit, found.dirty) == (provenance.COMMIT, provenance.DIRTY)
    assert {"accelerate", "datasets"} <= set(found.versions)
    assert ("lm_eval" in found.versions) == bool(find_spec("lm_eval"))


@pytest.mark.parametrize(("commit", "dirty"), [("a" * 40, True), ("unknown", False)])
def test_a_benchmark_writes_nothing_from_a_tree_with_changes(monkeypatch, capsys, tmp_path, commit, dirty):
    monkeypatch.setattr(alternate, "__file__", str(tmp_path / "alternate.py"))
    monkeypatch.setattr(alternate, "COMMIT", commit)
    monkeypatch.setattr(alternate, "DIRTY", dirty)
    alternate.publish("thing", alternate.torch.device("cpu"), 1, [{"a": 1.0}])
    assert "not written to thing-cpu.json: the tree has changes that are not committed" in capsys.readouterr().out
    assert not (tmp_path / "results").exists()
    monkeypatch.setattr(alternate, "COMMIT", "a" * 40)
    monkeypatch.setattr(alternate, "DIRTY", False)
    alternate.publish("thing", alternate.torch.device("cpu"), 1, [{"a": 1.0}])
    assert '"commit": "' + "a" * 40 in (tmp_path / "results" / "thing-cpu.json").read_text()
