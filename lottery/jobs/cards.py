"""Model notebooks: each is ``notebooks/model.ipynb`` with the card of one model put in. ``make notebooks`` writes them.

A card, ``notebooks/cards/NAME.md``, is a title and prose, then one section, ``## …``, with Python in fences. The section replaces the cells
whose ids begin with ``look``.
"""

import re
from pathlib import Path

import nbformat
from nbformat.v4 import new_code_cell, new_markdown_cell

from lottery.common.errors import LotteryError
from lottery.common.files import atomic_write
from lottery.common.paths import project_root

FENCED = re.compile(r"^```python\n(.*?)^```$", re.MULTILINE | re.DOTALL)


def names() -> list[str]:
    """Return the models that have a card."""
    return sorted(path.stem for path in (project_root() / "notebooks" / "cards").glob("*.md"))


def model_notebook(name: str) -> str:
    """Return the notebook of a model that has a card, as the text of its file.

    Raises:
        LotteryError: The card does not begin with a title, or does not have exactly one section.
    """
    folder = project_root() / "notebooks"
    notebook = nbformat.read(folder / "model.ipynb", as_version=4)
    title, section = _parts(folder / "cards" / f"{name}.md")
    position = next(index for index, cell in enumerate(notebook.cells) if cell.id.startswith("look"))
    notebook.cells = [cell for cell in notebook.cells if not cell.id.startswith("look")]
    notebook.cells[position:position] = _cells(section)
    of = {cell.id: cell for cell in notebook.cells}
    of["title"].source = title
    of["parameters"].source = re.sub(r'^model = ".*"$', f'model = "{name}"', of["parameters"].source, flags=re.MULTILINE)
    return nbformat.writes(notebook) + "\n"


def _parts(card: Path) -> tuple[str, str]:
    title, *sections = re.split(r"^(?=## )", card.read_text(encoding="utf-8"), flags=re.MULTILINE)
    if not title.startswith("# ") or len(sections) != 1:
        raise LotteryError(f"{card.name}: {len(sections)} sections; a card is '# TITLE' and prose, then one section '## …'")
    return title.strip(), sections[0]


def _cells(section: str) -> list[nbformat.NotebookNode]:
    cells = []
    for index, source in enumerate(FENCED.split(section)):  # prose and code take turns
        make = new_code_cell if index % 2 else new_markdown_cell
        if source.strip():
            cells.append(make(source.strip(), id=f"look-{len(cells) + 1}"))
    return cells


def write() -> None:
    for name in names():
        atomic_write(project_root() / "notebooks" / f"{name}.ipynb", model_notebook(name))
    print(f"notebooks/: {', '.join(names())}")
