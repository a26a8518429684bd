"""HTML in one file that asks nothing of any network."""

from pathlib import Path

from bs4 import BeautifulSoup
from markupsafe import Markup
from nbconvert.exporters import HTMLExporter
from nbconvert.filters import ansi2html
from traitlets import default

from lottery.report.render.content import with_content
from lottery.report.render.pandoc import to_html


class LotteryHTMLExporter(HTMLExporter):
    """nbconvert's HTML with a template of its own: code folded, formulas as MathML, no script, no font, no style from elsewhere."""

    export_from_notebook = "Lottery HTML"

    @default("template_name")
    def _template_name(self):
        return "lottery"

    @default("extra_template_basedirs")
    def _template_folders(self):
        return [str(Path(__file__).parent / "templates")]

    @default("exclude_input_prompt")
    def _no_input_prompt(self):
        return True

    @default("exclude_output_prompt")
    def _no_output_prompt(self):
        return True

    def from_notebook_node(self, nb, resources=None, **kwargs):
        html, resources = super().from_notebook_node(with_content(nb), resources, **kwargs)
        return finished(html), resources

    def _create_environment(self):
        environment = super()._create_environment()
        environment.autoescape = True  # nbconvert's own templates leave it off
        return environment

    def default_filters(self):
        yield from super().default_filters()
        # What these give is HTML; everything else is text.
        yield "markdown2html", lambda text: Markup(to_html(text))
        yield "ansi2html", lambda text: Markup(ansi2html(text))


def finished(html: str) -> str:
    """Return a page with headings that can be linked to, contents, and tables that a keyboard and a screen reader can follow.

    These need the whole page.
    """
    page = BeautifulSoup(html, "html.parser")
    _name_headings(page)
    for number, table in enumerate(page.find_all("table"), 1):
        _make_accessible(page, table, number)
    for formula in page.find_all("math", display="block"):
        formula["tabindex"] = "0"  # it may be wider than the screen
    for place in page.find_all("nav"):
        place.find("ol").extend(_entry(page, heading) for heading in page.find_all("h2"))
    return str(page)


def _name_headings(page: BeautifulSoup) -> None:
    """Give every heading a name of its own: pandoc, which sees a cell at a time, gives some twice."""
    taken: dict[str, int] = {}
    for heading in page.find_all(["h1", "h2", "h3", "h4"]):
        name = heading.get("id") or "section"
        taken[name] = taken.get(name, 0) + 1
        heading["id"] = name if taken[name] == 1 else f"{name}-{taken[name]}"


def _entry(page: BeautifulSoup, heading):
    entry, link = page.new_tag("li"), page.new_tag("a", href=f"#{heading['id']}")
    link.string = heading.get_text()
    entry.append(link)
    return entry


def _make_accessible(page: BeautifulSoup, table, number: int) -> None:
    """Say what each header heads, and let a table wider than the screen scroll by itself below its caption, with the keyboard too."""
    for header in table.select("thead th"):
        header["scope"] = "col"
    for row in table.select("tbody tr"):
        if first := row.find("td"):
            first.name, first["scope"] = "th", "row"
    figure = table.wrap(page.new_tag("figure", attrs={"class": "table"}))
    scrolled = table.wrap(page.new_tag("div", attrs={"class": "wide", "role": "region", "tabindex": "0", "aria-label": f"Table {number}"}))
    if table.caption:
        caption = table.caption.extract()
        caption.name, caption["id"] = "figcaption", f"table-{number}"
        scrolled["aria-labelledby"] = table["aria-labelledby"] = caption["id"]
        figure.insert(0, caption)
