"""Findings as sentences: each is a template of ``report/text``, filled in with the values that ``analysis`` found."""

import itertools
import re
from pathlib import Path

from jinja2 import Environment, FileSystemLoader, StrictUndefined

from lottery.analysis.findings import Survivors
from lottery.common.format import change, number, percent, size
from lottery.experiments.threshold import span

METHODS_NAMED = 4  # more names of methods than that nobody reads


def sentences(template: str, **values) -> str:
    """Return the text of ``report/text/TEMPLATE.md.j2`` on one line."""
    return _on_one_line(_TEMPLATES.get_template(f"{template}.md.j2").render(values))


def paragraphs(template: str, **values) -> list[str]:
    """Return the paragraphs of ``report/text/TEMPLATE.md.j2``, each on one line. Blank lines part them."""
    text = _TEMPLATES.get_template(f"{template}.md.j2").render(values)
    return [line for part in re.split(r"\n *\n", text) if (line := _on_one_line(part))]


def _on_one_line(text: str) -> str:
    # Line ends and indents of a template are for its reader. A no-break space stays.
    return re.sub(r"[ \n]+", " ", text).strip()


def listed(names: list[str], last: str = "and") -> str:
    """Return 'a, b and c'."""
    return f" {last} ".join([", ".join(names[:-1]), names[-1]] if len(names) > 1 else names)


def ways(names: list[str]) -> str:
    """Name ways of pruning, or count them where there are many."""
    return ", ".join(names) if len(names) <= METHODS_NAMED else f"{len(names)} ways"


def from_to(sparsities: list[float]) -> str:
    """Name neighbouring sparsities of which the same is said."""
    if len(sparsities) > 2:
        return f"from {percent(sparsities[0])} to {percent(sparsities[-1])}"
    return f"at {listed([percent(sparsity) for sparsity in sparsities])}"


def runs(survivors: list[Survivors]) -> list[tuple[list[float], Survivors]]:
    """Join neighbouring sparsities that the same models survive."""
    groups = itertools.groupby(survivors, key=lambda at: (at.models, at.measured))
    return [([at.sparsity for at in group], group[0]) for group in (list(found) for _, found in groups)]


# No HTML: what comes out is Markdown, and pandoc leaves no HTML of a text alive.
_TEMPLATES = Environment(
    loader=FileSystemLoader(Path(__file__).parent / "text"),
    undefined=StrictUndefined,
    trim_blocks=True,
    lstrip_blocks=True,
    autoescape=False,
)
_TEMPLATES.filters |= {
    "number": number,
    "percent": percent,
    "size": size,
    "change": change,
    "span": span,
    "listed": listed,
    "ways": ways,
    "from_to": from_to,
    "runs": runs,
}
