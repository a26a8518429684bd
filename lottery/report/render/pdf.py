"""PDF from wheels alone: pandoc writes Typst, Typst sets it. No root, no browser, no LaTeX."""

import re
import tempfile
from functools import cache
from pathlib import Path

import matplotlib
import typst
from matplotlib.ft2font import FT2Font
from nbconvert.exporters.exporter import Exporter
from traitlets import default

from lottery.report.markdown import escape_markdown, verbatim
from lottery.report.render.content import with_content
from lottery.report.render.pandoc import to_typst

_FONTS = Path(matplotlib.get_data_path()) / "fonts" / "ttf"
_ANSI = re.compile(r"\x1b\[[0-9;]*[A-Za-z]")


class LotteryPDFExporter(Exporter):
    """A notebook's prose and outputs as a typeset PDF; its code stays in the notebook."""

    export_from_notebook = "Lottery PDF"
    output_mimetype = "application/pdf"

    @default("file_extension")
    def _file_extension(self):
        return ".pdf"

    def from_notebook_node(self, nb, resources=None, **kwargs):
        notebook, resources = super().from_notebook_node(with_content(nb), resources, **kwargs)
        with tempfile.TemporaryDirectory() as name:
            folder = Path(name)
            title, subtitle, markdown = to_markdown(notebook, folder)
            source = folder / "report.typ"
            header = _HEADER.read_text(encoding="utf-8")
            source.write_text(to_typst(legible(markdown), title, subtitle, header, folder), encoding="utf-8")
            pdf = typst.compile(str(source), root=str(folder), font_paths=[str(_FONTS)])
        return pdf, resources


_HEADER = Path(__file__).parent / "templates" / "header.typ"


def to_markdown(notebook, folder: Path) -> tuple[str, str, str]:
    """Return a notebook as its title, the sentence below that, and one Markdown text; write its pictures into ``folder``."""
    parts, title, subtitle = [], "Notebook", ""
    for cell in notebook.cells:
        if cell.cell_type == "markdown":
            source = cell.source
            if match := re.match(r"# (.+)\n?", source):
                title, source = match[1], source[match.end() :].strip()
                if "\n" not in source:
                    subtitle, source = source, ""
            parts.append(source)
        elif cell.cell_type == "code" and "remove-output" not in cell.metadata.get("tags", []):
            parts += [_output(output, folder, len(parts)) for output in cell.outputs]
    return title, subtitle, "\n\n".join(part for part in parts if part.strip())


def _output(output, folder: Path, number: int) -> str:
    if output.output_type == "stream":
        if output.name == "stderr":  # what libraries warn of stays in the executed notebook
            return ""
        return verbatim(_ANSI.sub("", output.text).rstrip())
    if output.output_type == "error":
        return verbatim(f"{output.ename}: {output.evalue}")
    data = output.data
    if "text/markdown" in data:
        return data["text/markdown"]
    if "image/svg+xml" in data:
        path = folder / f"figure-{number}-{len(list(folder.iterdir()))}.svg"
        path.write_text(data["image/svg+xml"], encoding="utf-8")
        return f"![{escape_markdown(output.metadata.get('caption', ''))}]({path.name}){{width=100%}}"
    return verbatim(data.get("text/plain", ""))


@cache
def _drawable() -> frozenset[int]:
    """Return the characters of DejaVu Sans Mono, the font of verbatim text, which every other font here falls back to."""
    return frozenset(FT2Font(str(_FONTS / "DejaVuSansMono.ttf")).get_charmap())


def legible(markdown: str) -> str:
    """Return text in which a character that no font here has is written as ``\\u{…}``, instead of a box that says nothing."""
    return "".join(c if c in "\n\t" or ord(c) in _drawable() else f"\\u{{{ord(c):x}}}" for c in markdown)
