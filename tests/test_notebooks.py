import ast
import json
import subprocess
import sys

import nbformat
import papermill
import pytest
import yaml
from papermill.exceptions import PapermillExecutionError

from lottery.params import load_profile
from lottery.paths import outputs
from lottery.records import read_state
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


def test_shared_cells_are_the_same_byte_for_byte():
    shared = {
        name: [(c.id, c.source) for c in NOTEBOOKS[name].cells if "shared" in c.metadata.get("tags", [])] for name in [*MODELS, "model"]
    }
    assert len(shared[MODELS[0]]) == 9
    assert all(cells == shared[MODELS[0]] for cells in shared.values())


def test_each_model_has_prose_and_a_look_of_its_own():
    for position in (0, "look-text", "look"):
        cells = [
            nb.cells[0] if position == 0 else next(c for c in nb.cells if c.id == position) for n, nb in NOTEBOOKS.items() if n in MODELS
        ]
        texts = [cell.source for cell in cells]
        assert len(set(texts)) == 5, position
    for name in MODELS:
        assert "What is special." in NOTEBOOKS[name].cells[0].source
        assert "Why that may matter for pruning." in NOTEBOOKS[name].cells[0].source


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


@pytest.mark.parametrize("name", MODELS)
def test_every_model_notebook_runs_from_another_working_directory(name, project, tmp_path, monkeypatch):
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


@pytest.mark.parametrize("arguments", [["-p", "sparsties", "[0.5]"], ["-y", "{sparsties: [0.5]}"], ["-f", "misspelt.yaml"]])
def test_a_misspelt_key_stops_the_run_whichever_way_it_came_in(project, arguments):
    (project / "misspelt.yaml").write_text((project / "params" / "demo.yaml").read_text().replace("sparsities:", "sparsties:"))
    run = papermill_command(project, *arguments)
    assert run.returncode == 1
    assert "ParamsError: unknown key 'sparsties'" in run.stderr
    assert "did you mean 'sparsities'?" in run.stderr
    assert not (project / "outputs").exists()


def test_a_misspelt_key_in_the_cell_itself_stops_the_run(project):
    path = project / "notebooks" / "phi-2.ipynb"
    path.write_text(path.read_text().replace('profile = \\"demo\\"', 'profil = \\"demo\\"'))
    with pytest.raises(PapermillExecutionError, match="unknown key 'profil'"):
        papermill.execute_notebook(str(path), str(project / "out.ipynb"), progress_bar=False, cwd=str(project))


def test_an_error_for_the_reader_is_one_line_in_the_notebook(project):
    papermill_command(project, "-p", "seq_len", "1")
    cells = json.loads((project / "out.ipynb").read_text())["cells"]
    tracebacks = [output["traceback"] for cell in cells for output in cell.get("outputs", []) if output["output_type"] == "error"]
    assert tracebacks == [["ParamsError: seq_len: given 1; allowed: a whole number of tokens, 2 to 131072"]]
