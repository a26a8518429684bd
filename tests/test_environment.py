"""environment.yml beside pyproject.toml: two places that name versions must agree."""

import subprocess
import sys
import tomllib

import yaml
from packaging.requirements import Requirement
from packaging.specifiers import SpecifierSet

from tests.conftest import ROOT

PROJECT = tomllib.loads((ROOT / "pyproject.toml").read_text())["project"]
WANTED = yaml.safe_load((ROOT / "environment.yml").read_text())["dependencies"]


def test_its_python_is_one_that_the_package_allows():
    python = next(line for line in WANTED if str(line).startswith("python="))
    assert SpecifierSet(PROJECT["requires-python"]).contains(python.removeprefix("python=") + ".0")


def test_it_installs_the_package_with_extras_that_exist_and_a_torch_that_drives_a_v100():
    torch, package = (
        Requirement(line) if not line.startswith("-e") else line for line in next(w for w in WANTED if isinstance(w, dict))["pip"]
    )
    assert str(torch.specifier) == "==2.10.*"
    allowed = next(Requirement(line) for line in PROJECT["dependencies"] if line.startswith("torch")).specifier
    assert allowed.contains("2.10.0")
    assert not torch.specifier.contains("2.11.0")
    extras = Requirement("lottery" + package.removeprefix("-e .")).extras
    assert extras == {"lab", "dev"}
    assert extras <= set(PROJECT["optional-dependencies"])


def test_one_worker_takes_a_whole_group_of_tests(tmp_path):
    """Tests that share a cluster, a browser or a measurement rely on it. A pytest that breaks it says nothing."""
    (tmp_path / "test_group.py").write_text(
        "import os, pathlib, pytest\n\n"
        '@pytest.mark.xdist_group("one")\n'
        '@pytest.mark.parametrize("number", range(6))\n'
        "def test_(number):\n"
        '    pathlib.Path(os.environ["PYTEST_XDIST_WORKER"]).touch()\n'
    )
    line = [sys.executable, "-m", "pytest", "-q", "-n", "2", "--dist", "loadgroup", "-p", "no:cacheprovider", "--rootdir", "."]
    done = subprocess.run(line, cwd=tmp_path, capture_output=True, text=True)
    assert done.returncode == 0, done.stdout
    assert len(list(tmp_path.glob("gw*"))) == 1
