"""What a notebook shows: Markdown and pictures, the same in JupyterLab, in HTML and in PDF."""

import io
import re
import string
import unicodedata
from pathlib import Path

from IPython.display import Markdown
from matplotlib.figure import Figure
from tabulate import tabulate

from lottery.common.files import atomic_write

# Control, format (also the bidirectional overrides), surrogate, private use, unassigned: never shown raw.
_HIDDEN = {"Cc", "Cf", "Cs", "Co", "Cn"}


def markdown(*paragraphs: str) -> Markdown:
    return Markdown("\n\n".join(paragraph for paragraph in paragraphs if paragraph))


def table(rows: list[dict], caption: str = "", right: str | None = None) -> str:
    """Return a Markdown table; nothing without rows.

    Args:
        rows: Dictionaries; one that lacks a key of another has an empty cell there.
        caption: A caption in HTML and PDF, a line below the table in a notebook.
        right: The columns to align to the right, joined by '|'; by default all but the first.
    """
    if not rows:
        return ""
    names = list(dict.fromkeys(name for row in rows for name in row))
    to_right = names[1:] if right is None else right.split("|")
    align = ["right" if name in to_right else "left" for name in names]
    cells = [[str(row.get(name, "")).replace("|", "\\|") for name in names] for row in rows]
    drawn = tabulate(cells, headers=names, tablefmt="pipe", colalign=align, disable_numparse=True)
    return f"{drawn}\n\nTable: {caption}" if caption else drawn


def escape_unprintable(text: str) -> str:
    """Return text in which every character can be seen: what has no shape is written as ``\\u{…}``; newlines stay.

    Text that a model wrote is data, and a broken model writes anything: control characters, bidirectional overrides, nothing.
    """
    return "".join(c if c == "\n" or unicodedata.category(c) not in _HIDDEN else f"\\u{{{ord(c):x}}}" for c in text)


def verbatim(text: str) -> str:
    """Return a Markdown code block that holds the text as it is; the fence is longer than any run of backticks inside."""
    longest = max((len(run) for run in re.findall(r"`+", text)), default=0)
    fence = "`" * max(3, longest + 1)
    # A broken model may write newlines and little else: a long run of them is counted, not shown.
    short = re.sub(r"\n{4,}", lambda run: f"\n[{len(run[0])} newlines]\n", escape_unprintable(text))
    return f"{fence}text\n{short}\n{fence}"


def escape_markdown(text: str) -> str:
    """Return text from elsewhere as running text, such as in a table.

    Every sign that Markdown or TeX could take for its own is written as its number, and a newline as ↵.
    """
    line = re.sub(r"\n+", lambda run: f" {'↵' * len(run[0]) if len(run[0]) < 3 else f'↵×{len(run[0])}'} ", escape_unprintable(text).strip())
    return "".join(f"&#{ord(c)};" if c in _SIGNS else c for c in line)


_SIGNS = set(string.punctuation) - set(",.;?!")


def code_span(text: str) -> str:
    """Return a Markdown code span that holds a line from elsewhere, such as an error message, as it is."""
    line = " ".join(escape_unprintable(text).split())
    fence = "`" * (max((len(run) for run in re.findall(r"`+", line)), default=0) + 1)
    return f"{fence} {line} {fence}" if "`" in line else f"`{line}`"


class Picture:
    """A drawn figure as SVG, with a caption that says what to see and an alternative text."""

    def __init__(self, figure: Figure, caption: str, alt: str):
        buffer = io.StringIO()
        figure.savefig(buffer, format="svg", metadata={"Date": None})
        self.figure, self.svg, self.caption, self.alt = figure, buffer.getvalue(), caption, alt

    def save(self, folder: Path, name: str) -> None:
        """Write the figure as ``name.svg``, and as ``name.png`` with 200 dots an inch."""
        buffer = io.BytesIO()
        self.figure.savefig(buffer, format="png", dpi=200, metadata={"Software": None})
        atomic_write(folder / f"{name}.svg", self.svg)
        atomic_write(folder / f"{name}.png", buffer.getvalue())

    def _repr_mimebundle_(self, include=None, exclude=None):
        return {"image/svg+xml": self.svg, "text/plain": self.alt}, {"caption": self.caption, "alt": self.alt}
