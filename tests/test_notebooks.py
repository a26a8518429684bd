import ast
import json
import subprocess
import sys

import nbformat
import papermill
import pytest
import yaml
from papermill.exceptions import PapermillExecutionError

from lottery.common.errors import LotteryError
from lottery.common.paths import outputs
from lottery.config.profile import load_profile
from lottery.experiments.records import read_state
from lottery.jobs import cards
from tests.conftest import ROOT, TOY

MODELS = list(load_profile("demo").checkpoints)
NOTEBOOKS = {path.stem: nbformat.read(path, as_version=4) for path in sorted((ROOT / "notebooks").glob("*.ipynb"))}
TOY_PARAMETERS = {**{key: value for key, value in TOY.items() if key != "model"}, "checkpoints": load_profile("demo").checkpoints}


def code_cells(notebook):
    return [cell for cell in notebook.cells if cell.cell_type == "code"]


def test_there_is_one_notebook_a_model_one_for_all_others_one_for_tickets_one_for_the_report_and_one_to_explore():
    assert set(NOTEBOOKS) == {*MODELS, "model", "winning-ticket", "report", "explore"}


@pytest.mark.parametrize("name", NOTEBOOKS)
def test_committed_notebooks_hold_no_outputs(name):
    for cell in code_cells(NOTEBOOKS[name]):
        assert cell.outputs == []
        assert cell.execution_count is None
    nbformat.validate(NOTEBOOKS[name])


@pytest.mark.parametrize("name", NOTEBOOKS)
def test_a_notebook_holds_no_function_no_class_and_short_cells(name):
    for cell in code_cells(NOTEBOOKS[name]):
        tree = ast.parse(cell.source)
        assert not [node for node in ast.walk(tree) if isinstance(node, ast.FunctionDef | ast.AsyncFunctionDef | ast.ClassDef | ast.Lambda)]
        assert 1 <= len(tree.body) <= 3
    assert [cell.metadata.get("tags") for cell in code_cells(NOTEBOOKS[name])].count(["parameters"]) == 1


@pytest.mark.parametrize("name", MODELS)
def test_a_model_notebook_is_the_shared_one_with_its_card(name):
    committed = (ROOT / "notebooks" / f"{name}.ipynb").read_text()
    assert committed == cards.model_notebook(name), "edit notebooks/model.ipynb or the card, then: make notebooks"


def test_each_model_has_a_card_with_prose_and_a_look_of_its_own():
    assert cards.names() == sorted(MODELS)
    written = {name: (ROOT / "notebooks" / "cards" / f"{name}.md").read_text() for name in MODELS}
    for name, text in written.items():
        assert "**What is special.**" in text
        assert "**Why that may matter for pruning.**" in text
        parameters = next(cell.source for cell in NOTEBOOKS[name].cells if cell.id == "parameters")
        assert f'model = "{name}"\nprofile = "demo"' in parameters
    assert len({text.split("```python")[1] for text in written.values()}) == 5


def test_only_title_look_and_model_differ_from_the_shared_notebook():
    def rest(notebook):
        own = ("title", "look", "parameters")
        return [(cell.id, cell.cell_type, cell.source) for cell in notebook.cells if not cell.id.startswith(own)]

    assert len(rest(NOTEBOOKS["model"])) == 18
    assert all(rest(NOTEBOOKS[name]) == rest(NOTEBOOKS["model"]) for name in MODELS)
    assert all(NOTEBOOKS[name].cells[4].id == "look-1" for name in MODELS), "the look comes before the dense model"


@pytest.mark.parametrize("card", ["prose\n\n## What is special\n", "# Title\n\nprose\n", "# Title\n\n## One\n\n## Two\n"])
def test_a_card_without_title_or_with_other_than_one_section_is_refused(card, project):
    (project / "notebooks" / "cards" / "mine.md").write_text(card)
    with pytest.raises(LotteryError, match=r"^mine\.md: \d sections; a card is '# TITLE' and prose, then one section"):
        cards.model_notebook("mine")


def test_a_new_card_makes_a_notebook_with_its_code_in_turn(project):
    card = "# Mine\n\nProse.\n\n## Look\n\nFirst.\n\n```python\nstudy.skeleton\n```\n\nSecond.\n\n```python\n1 + 1\n```\n"
    (project / "notebooks" / "cards" / "mine.md").write_text(card)
    cards.write()
    made = nbformat.read(project / "notebooks" / "mine.ipynb", as_version=4)
    nbformat.validate(made)
    assert [cell.source for cell in made.cells if cell.id.startswith("look")] == ["## Look\n\nFirst.", "study.skeleton", "Second.", "1 + 1"]
    assert made.cells[0].source == "# Mine\n\nProse."


def test_the_notebook_of_the_winning_ticket_runs(project, tmp_path):
    tickets = {
        "models": ["qwen2.5-0.5b"],
        "levels": 1,
        "prune_fraction": 0.6,
        "rewind": 0,
        "steps": 4,
        "batch_size": 2,
        "seq_len": 16,
        "learning_rate": 0.01,
        "seeds": 1,
    }
    out = tmp_path / "executed.ipynb"
    papermill.execute_notebook(
        str(project / "notebooks" / "winning-ticket.ipynb"),
        str(out),
        {**TOY_PARAMETERS, "tickets": tickets},
        progress_bar=False,
        cwd=str(project),
    )
    assert read_state(outputs("toy") / "winning-ticket").state == "finished"
    assert len(list((outputs("toy") / "winning-ticket" / "records").iterdir())) == 7
    text = out.read_text()
    assert text.count('"image/svg+xml": ') == 2
    assert "rewound to the initialisation" in text
    assert "not decided" in text


def test_the_notebook_of_a_model_runs_from_another_working_directory(project, tmp_path, monkeypatch):
    """One of the five, which differ in their prose only; ``make report`` runs them all."""
    name = "phi-2"
    (elsewhere := tmp_path / "deep" / "inside").mkdir(parents=True)
    monkeypatch.chdir(elsewhere)
    out = tmp_path / "executed.ipynb"
    papermill.execute_notebook(
        str(project / "notebooks" / f"{name}.ipynb"), str(out), TOY_PARAMETERS, progress_bar=False, cwd=str(elsewhere)
    )
    assert read_state(outputs("toy") / name).state == "finished"
    assert len(list((outputs("toy") / name / "records").iterdir())) == 3
    text = out.read_text()
    assert "image/svg+xml" in text
    assert "Coherent?" in text
    assert "Beginning 2" in text


def papermill_command(project, *arguments):
    return subprocess.run(
        [sys.executable, "-m", "papermill", "notebooks/qwen2.5-0.5b.ipynb", "out.ipynb", *arguments, "--no-progress-bar"],
        cwd=project, capture_output=True, text=True,
    )  # fmt: skip


def test_plain_papermill_with_a_profile_file(project):
    values = {**TOY_PARAMETERS, "profile": "mine"}
    (project / "mine.yaml").write_text(yaml.safe_dump(values))
    run = papermill_command(project, "-f", "mine.yaml")
    assert run.returncode == 0, run.stderr
    assert read_state(project / "outputs" / "mine" / "qwen2.5-0.5b").state == "finished"


@pytest.mark.parametrize("arguments", [["-p", "sparsties", "[0.5]"], ["-f", "misspelt.yaml"]])
def test_a_misspelt_key_stops_the_run_whichever_way_it_came_in(project, arguments):
    (project / "misspelt.yaml").write_text((project / "params" / "demo.yaml").read_text().replace("sparsities:", "sparsties:"))
    run = papermill_command(project, *arguments)
    assert run.returncode == 1
    assert "ParamsError: unknown key 'sparsties'" in run.stderr
    assert "did you mean 'sparsities'?" in run.stderr
    assert not (project / "outputs").exists()
    cells = json.loads((project / "out.ipynb").read_text())["cells"]
    ((line,),) = [output["traceback"] for cell in cells for output in cell.get("outputs", []) if output["output_type"] == "error"]
    assert line.startswith("ParamsError: unknown key 'sparsties'"), "one line in the notebook too"


def test_a_misspelt_key_in_the_cell_itself_stops_the_run(project):
    path = project / "notebooks" / "phi-2.ipynb"
    path.write_text(path.read_text().replace('profile = \\"demo\\"', 'profil = \\"demo\\"'))
    with pytest.raises(PapermillExecutionError, match="unknown key 'profil'"):
        papermill.execute_notebook(str(path), str(project / "out.ipynb"), progress_bar=False, cwd=str(project))
