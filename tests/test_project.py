"""The project about itself: its lock, its targets, its size."""

import re
import tomllib

from tests.conftest import ROOT


def test_the_locks_hold_every_dependency_in_an_exact_version():
    """The extra for tasks has a lock of its own, which adds to the other and changes nothing in it."""
    project = tomllib.loads((ROOT / "pyproject.toml").read_text())
    wanted = project["project"]["dependencies"] + [d for extra in project["project"]["optional-dependencies"].values() for d in extra]
    lines, more = (re.sub("#.*", "", (ROOT / f"requirements{name}.lock").read_text()).split() for name in ("", "-tasks"))
    assert not {line.split("==")[0] for line in lines} & {line.split("==")[0] for line in more}
    lines += more
    assert all(re.fullmatch(r"[\w.-]+==[\w.]+", line) for line in lines)
    locked = {line.split("==")[0].lower().replace("-", "_"): line.split("==")[1] for line in lines}
    for requirement in wanted:
        name = re.match(r"[\w-]+", requirement)[0].lower().replace("-", "_")
        assert name in locked, f"{name} is in pyproject.toml but not in requirements.lock"
    assert locked["torch"] == "2.13.0"


def test_the_makefile_holds_no_logic():
    recipes = re.findall(r"^([\w./-]+):[^\n=]*\n((?:\t.*\n)*)", (ROOT / "Makefile").read_text(), re.MULTILINE)
    assert {"report", "test", "lint", "lab", "fetch"} <= {name for name, _ in recipes}
    assert all(body.count("\n") <= 3 for _, body in recipes)


def test_no_file_of_the_package_is_two_files():
    long = {path.name: n for path in (ROOT / "lottery").rglob("*.py") if (n := len(path.read_text().splitlines())) > 400}
    assert not long


def test_models_are_loaded_without_their_code_and_from_safetensors():
    for path in (ROOT / "lottery").rglob("*.py"):
        for call in re.findall(r"\.from_(?:pretrained|config)\([^)]*\)", path.read_text()):
            if "training" not in path.parts:
                assert "trust_remote_code=False" in call, (path.name, call)
    assert "use_safetensors=True" in (ROOT / "lottery" / "models" / "loading.py").read_text()
