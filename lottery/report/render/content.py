"""What of a notebook is shown: no section whose calls had nothing to say, and no call that said nothing."""

import ast
import copy


def with_content(notebook):
    """Return a copy of an executed notebook without calls that showed nothing, and without sections left with nothing to show.

    A section begins at a Markdown cell with a second-level heading; one that never had code is kept as it is. A cell is such a call if it
    has no output and its last line is an expression, whose value a notebook would show. A notebook that never ran is shown whole.
    """
    shown = copy.deepcopy(notebook)
    code = [cell for cell in shown.cells if cell.cell_type == "code"]
    if not any(cell.outputs for cell in code):
        return shown
    sections = [[]]
    for cell in shown.cells:
        if cell.cell_type == "markdown" and cell.source.startswith("## "):
            sections.append([])
        sections[-1].append(cell)
    kept = []
    for section in sections:
        left = [cell for cell in section if not _said_nothing(cell)]
        if len(left) == len(section) or any(cell.cell_type == "code" for cell in left):
            kept += left
    shown.cells = kept
    return shown


def _said_nothing(cell) -> bool:
    if cell.cell_type != "code" or any(output.output_type != "stream" or output.name == "stdout" for output in cell.outputs):
        return False
    try:
        lines = ast.parse(cell.source).body
    except SyntaxError:  # IPython's own commands
        return False
    return not lines or isinstance(lines[-1], ast.Expr)
