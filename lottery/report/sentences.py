"""Findings as sentences: each is a template of ``report/text``, filled in with the values that ``analysis`` found."""

import itertools
import math
import re
from pathlib import Path

from jinja2 import Environment, FileSystemLoader, StrictUndefined

from lottery.analysis.findings import Survivors
from lottery.common.format import change, counted, multiple, number, percent, size
from lottery.experiments.threshold import Crossing

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


def span(score: Crossing, interval: bool = True) -> str:
    """Return a ticket score as text, as far as it is known.

    It is a number where both sides were measured closely, else the two sparsities it lies between, with its 95% range where that says more.

    Args:
        score: The crossing to describe.
        interval: Whether the 95% range may be given.
    """
    if math.isinf(score.above):
        # The text as it is does not pass; where enough of the resampled ones do, the range begins lower.
        return f"above {percent(score.below)}" + (f" (95%: above {percent(score.low)})" if interval and score.low < score.below else "")
    known = percent(score.at) if score.is_number else f"between {_or_dense(score.below)} and {percent(score.above)}"
    if not score.has_interval:
        return f"{known} (measured at {_or_dense(score.below)} and {percent(score.above)})" if score.is_number else known
    if not interval or not (score.is_number or score.low < score.below or score.high > score.above):
        return known
    high = f"to {percent(score.high)}" if math.isfinite(score.high) else "or more"
    return f"{known} (95%: {_or_dense(score.low)} {high})"


def _or_dense(sparsity: float) -> str:
    return percent(sparsity) if sparsity else "dense"


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
    "multiple": multiple,
    "percent": percent,
    "size": size,
    "change": change,
    "counted": counted,
    "span": span,
    "listed": listed,
    "ways": ways,
    "from_to": from_to,
    "runs": runs,
}
