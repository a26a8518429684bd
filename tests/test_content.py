"""A report shows no heading, toggle or paragraph over nothing."""

import nbformat
import pytest
from nbformat.v4 import new_code_cell, new_markdown_cell, new_notebook, new_output

from lottery.report.render.content import with_content
from lottery.report.render.html import LotteryHTMLExporter


def said(text):
    return [new_output("execute_result", data={"text/markdown": text, "text/plain": "x"})]


@pytest.fixture
def notebook():
    return new_notebook(
        cells=[
            new_markdown_cell("# Title"),
            new_code_cell("import x\n\nreport = x.Report()"),
            new_markdown_cell("## Full\n\nProse."),
            new_code_cell("report.full()", outputs=said("There is something.")),
            new_code_cell("report.nothing()"),
            new_code_cell("report.warned()", outputs=[new_output("stream", name="stderr", text="a warning")]),
            new_markdown_cell("## Empty\n\nProse over nothing."),
            new_code_cell("report.nothing()"),
            new_code_cell("report.nothing()"),
            new_markdown_cell("## Only prose\n\nThis stays."),
        ]
    )


def test_sections_whose_calls_said_nothing_are_left_out(notebook):
    sources = [cell.source for cell in with_content(notebook).cells]
    assert sources == [
        "# Title", "import x\n\nreport = x.Report()", "## Full\n\nProse.", "report.full()", "## Only prose\n\nThis stays.",
    ]  # fmt: skip
    assert len(notebook.cells) == 10, "the notebook itself stays as it is"


def test_a_notebook_that_never_ran_is_shown_whole(notebook):
    for cell in notebook.cells:
        if cell.cell_type == "code":
            cell.outputs = []
    assert len(with_content(notebook).cells) == 10


def test_the_page_has_no_heading_and_no_toggle_over_nothing(notebook):
    html, _ = LotteryHTMLExporter().from_notebook_node(nbformat.from_dict(notebook))
    assert "Prose over nothing" not in html
    assert ">Empty<" not in html
    assert html.count("<summary>Code</summary>") == 2
