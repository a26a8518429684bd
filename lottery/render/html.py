"""HTML in one file that asks nothing of any network."""

from pathlib import Path

from nbconvert.exporters import HTMLExporter
from traitlets import default

from lottery.render.pandoc import to_html


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

    def default_filters(self):
        yield from super().default_filters()
        yield "markdown2html", to_html
