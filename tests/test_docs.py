"""What README and docs promise is there: files, headings, targets, profiles, modules and keys; and generated tables are current."""

import math
import re
import tomllib
from importlib.util import find_spec

import pandas as pd
import pytest
import torch

from lottery.config.profile import WINNING_TICKET, Profile, Recovery, Tickets, known_profiles
from lottery.evaluation import metrics
from lottery.experiments.imp.records import TicketRecord
from lottery.experiments.records import Record
from lottery.jobs.profile_page import BEGIN, END, with_tables
from lottery.pruning import registry
from lottery.pruning.activations import ActivationStats
from lottery.pruning.catalogue import ALLOCATIONS, METHODS
from lottery.pruning.layer_spec import LayerSpec
from lottery.pruning.rounding import ROUNDERS
from lottery.training.recoveries import RECOVERIES
from tests.conftest import ROOT

PAGES = {str(path.relative_to(ROOT)): path.read_text() for path in [ROOT / "README.md", *sorted((ROOT / "docs").glob("*.md"))]}
FENCE = re.compile(r"^```.*?^```$", re.MULTILINE | re.DOTALL)
CODE = re.compile(r"^```.*?^```$|`[^`\n]+`", re.MULTILINE | re.DOTALL)
MAKEFILE = (ROOT / "Makefile").read_text()


def anchors(page: str) -> set[str]:
    """What GitHub calls the headings of a page."""
    headings = re.findall(r"^#+ (.+)$", FENCE.sub("", page), re.MULTILINE)
    return {re.sub(r"[^\w\- ]", "", heading.lower()).replace(" ", "-") for heading in headings}


def links(page: str) -> list[str]:
    text = CODE.sub("", page)
    return re.findall(r"\]\(([^)\s]+)\)", text) + re.findall(r"(?:src|href)=\"([^\"]+)\"", text)


def code(page: str) -> str:
    return "\n".join(CODE.findall(page))


def test_the_readme_names_every_method():
    rows = [row for row in PAGES["README.md"].splitlines() if row.startswith("|")]
    named = set(re.findall(r"`([\w-]+)`", "\n".join(rows)))
    assert {*METHODS, *ALLOCATIONS, *RECOVERIES, *ROUNDERS} <= named


@pytest.mark.parametrize("name", PAGES)
def test_every_link_leads_to_a_file_and_a_heading_that_are_there(name):
    for link in links(PAGES[name]):
        if link.startswith(("https://", "http://")):
            continue
        path, _, anchor = link.partition("#")
        target = (ROOT / name).parent / path if path else ROOT / name
        assert target.exists(), link
        assert not anchor or anchor in anchors(target.read_text()), link


@pytest.mark.parametrize("name", PAGES)
def test_every_make_target_and_every_profile_is_there(name):
    targets = set(re.findall(r"^([\w./-]+):(?!=)", MAKEFILE, re.MULTILINE))
    assert {"report", "notebooks", "docs", ".venv/tasks"} <= targets
    commands = re.sub(r"\s#.*", "", code(PAGES[name]))  # without comments
    for target in re.findall(r"\bmake +([\w./-]+)", commands):
        assert target in targets
    for profile in re.findall(r"\bPROFILE=([\w.-]+)", code(PAGES[name])):
        assert profile in known_profiles() or profile == "NAME"


@pytest.mark.parametrize("name", PAGES)
def test_every_variable_of_make_is_one_that_the_makefile_reads(name):
    shell = {"HF_HOME", "LOTTERY_KERNEL", "BIN", "READY"}  # exported; make reads the last two
    for variable in re.findall(r"\b([A-Z_]{3,})=", code(PAGES[name])):
        assert f"$({variable})" in MAKEFILE or variable in shell, variable


@pytest.mark.parametrize("name", PAGES)
def test_every_path_and_every_module_in_code_is_there(name):
    for path in re.findall(r"(?<![\w./-])(?:notebooks|params|lottery|slurm|benchmarks|tests)/[\w./-]*", code(PAGES[name])):
        example = path in ("params/mine.yaml", "notebooks/cards/NAME.md")
        assert example or (ROOT / path).exists(), path
    for module in re.findall(r"python -m ((?:lottery|benchmarks)[\w.]*)", code(PAGES[name])):
        assert find_spec(module), module


def test_every_command_of_a_notebook_names_an_exporter_that_is_there():
    exporters = tomllib.loads((ROOT / "pyproject.toml").read_text())["project"]["entry-points"]["nbconvert.exporters"]
    named = [name for page in PAGES.values() for name in re.findall(r"--to (\w+)", code(page))]
    assert set(named) == set(exporters)


def test_the_tables_of_profiles_are_what_make_docs_writes():
    page = PAGES["docs/profiles.md"]
    assert with_tables(page) == page, "run: make docs"
    assert with_tables(page.split(BEGIN)[0] + BEGIN + "\n\nold\n\n" + END + page.split(END)[1]) == page


def test_every_key_that_profiles_names_exists():
    page = PAGES["docs/profiles.md"]
    known = {*Profile.model_fields, *Tickets.model_fields, *Recovery.model_fields}
    tables = re.findall(r"^\| Key \|.*\n\| ---.*\n((?:\|.*\n)+)", page, re.MULTILINE)
    assert [len(table.splitlines()) for table in tables] == [len(model.model_fields) for model in (Profile, Tickets, Recovery)]
    assert {key for table in tables for key in re.findall(r"^\| `([^`]+)` \|", table, re.MULTILINE)} == known
    written = re.findall(r"`(\w+):(?= |`)", page.split(BEGIN)[0]) + re.findall(r"^(\w+):", "\n".join(FENCE.findall(page)), re.MULTILINE)
    assert len(written) > 8
    assert set(written) <= known


def test_every_profile_that_ships_has_a_row():
    rows = re.findall(r"^\| `([\w-]+)` \|", PAGES["docs/profiles.md"].split(BEGIN)[0], re.MULTILINE)
    assert sorted(rows) == known_profiles()


def test_the_page_for_newcomers_is_short():
    assert len(PAGES["README.md"].splitlines()) <= 90


def test_the_examples_of_extending_work(monkeypatch):
    method, metric = re.findall(r"^```python\n(.*?)^```", PAGES["docs/extending.md"], re.MULTILINE | re.DOTALL)
    monkeypatch.setattr(registry, "METHODS", {})
    names = {}
    exec(method, names)
    assert list(registry.METHODS) == ["quiet-inputs"]
    inputs, weight = ActivationStats(4, torch.device("cpu")), torch.ones(3, 4)
    inputs.add(torch.tensor([[4.0, 1.0, 3.0, 2.0]]))
    names["quiet_inputs_"](weight, LayerSpec("layer", 0.5), inputs)
    assert weight.tolist() == [[1, 0, 1, 0]] * 3
    monkeypatch.setattr(metrics, "METRICS", {})
    names = dict(vars(metrics))
    exec(metric, names)
    found = metrics.METRICS["bits_per_word"].function(metrics.window_sums([math.log(2)] * 4, 0, 0, 1, 2, 1))
    assert found.value == pytest.approx(0.5)


def test_the_lines_that_read_an_exported_folder_do(tmp_path):
    from safetensors.torch import save_file

    from lottery.sparse.bitmask import pack
    from tests.test_sparse_bitmask import sparse

    weights = {"a.b": sparse(7, 30, 0.4), "c": sparse(5, 64, 0.1, torch.float16), "d": sparse(9, 40, 0.5, torch.bfloat16)}
    tensors = {f"{layer}.{part}": value for layer, weight in weights.items() for part, value in pack(weight)._asdict().items()}
    save_file(tensors | {"norm.weight": torch.ones(3)}, tmp_path / "model.safetensors")
    code = re.search(r"```python\n(import numpy.*?)```", (ROOT / "docs" / "sparse.md").read_text(), re.S)[1]
    exec(code, names := {})
    found = names["dense_weights"](tmp_path / "model.safetensors")
    assert found.keys() == {"a.b.weight", "c.weight", "d.weight"}
    assert all(torch.equal(found[f"{layer}.weight"], weight) for layer, weight in weights.items())


def test_published_records_are_those_that_their_names_say():
    """They can be shown again and gone on from. ``real-models`` is of an older measurement: its page is all that is left of it."""
    found = [path for path in (ROOT / "docs").glob("*/*/records/*.json") if path.parts[-4] != "real-models"]
    assert len(found) > 300
    for path in found:
        kind = TicketRecord if path.parts[-3] == WINNING_TICKET else Record
        assert kind.model_validate_json(path.read_text(encoding="utf-8")).request.file_name == path.name


def test_the_table_of_methods_on_a_real_model_is_that_of_its_records():
    rows = PAGES["docs/real-models.md"].split("| | 50% | 60% | 70% | 80% | 90% |\n")[1].split("\n\n")[0].splitlines()[1:]
    measured = pd.read_csv(ROOT / "docs" / "real-methods" / "tables" / "trials.csv").set_index(["method", "sparsity"])["perplexity"]
    assert len(rows) == 6
    for row in rows:
        name, *cells = (cell.strip(" *") for cell in row.strip("|").split("|"))
        for sparsity, cell in zip((0.5, 0.6, 0.7, 0.8, 0.9), cells, strict=True):
            mantissa, _, power = cell.replace(",", "").partition("×10")
            shown = float(mantissa) * 10 ** int(power.translate(str.maketrans("⁰¹²³⁴⁵⁶⁷⁸⁹", "0123456789")) or 0)
            assert shown == pytest.approx(measured[name.lower(), sparsity], rel=0.006 if not power else 0.02), (name, sparsity)
