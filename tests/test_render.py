import re
import subprocess

import nbformat
import pytest

from lottery.config.profile import validated
from lottery.jobs.pipeline import render
from lottery.report.builder import Report
from lottery.report.markdown import Picture, escape_unprintable, markdown, table, verbatim
from lottery.report.render.pdf import legible
from lottery.report.tables import samples
from tests.conftest import TOY, need_program
from tests.factory import sweep_of

HOSTILE = "<script>alert(1)</script> <img src=x onerror=alert(1)> [a](javascript:alert(1)) **bold** $x^2$ \x1b[31mred\x07 \u202eright 你好 ````\n# head\n| a |"


@pytest.fixture
def notebook(project):
    """An executed report notebook with hostile samples, made without a kernel."""
    from lottery.analysis.frame import frame
    from lottery.report.figures import bits_over_sparsity

    records = sweep_of("hostile", [10, 12, 40, 900], text=HOSTILE)
    picture = bits_over_sparsity(frame(records))
    data, metadata = picture._repr_mimebundle_()
    cells = [
        nbformat.v4.new_markdown_cell("# Title of it\n\nProse with $\\frac{a}{b}$ and\n\n$$\\sum_{k=1}^{K} x_k$$"),
        nbformat.v4.new_code_cell("the_parameter = 1", metadata={"tags": ["parameters"]}),
        nbformat.v4.new_code_cell(
            "secret_code_cell()",
            outputs=[
                nbformat.v4.new_output("execute_result", data={"text/markdown": samples(records).data, "text/plain": "x"}),
                nbformat.v4.new_output("execute_result", data=data, metadata=metadata),
                nbformat.v4.new_output("stream", name="stderr", text="a library warns of /some/path\n"),
                nbformat.v4.new_output("stream", name="stdout", text="a line \x1b[31mof output\n"),
                nbformat.v4.new_output("execute_result", data={"text/html": "<script>alert(2)</script>", "text/plain": "<plain>"}),
                nbformat.v4.new_output("execute_result", data={"text/markdown": table([{"Model": "a|b", "Value": 1.5}], right="Value")}),
            ],
        ),
    ]
    path = project / "executed.ipynb"
    nbformat.write(nbformat.v4.new_notebook(cells=cells), path)
    return path


def test_html_is_one_file_that_asks_for_nothing(notebook, tmp_path):
    render(notebook, "lottery_html", tmp_path / "a.html")
    html = (tmp_path / "a.html").read_text()
    assert not re.findall(r"(?:src|href)=[\"'](?!data:|#)[^\"']*", html)
    assert "<script" not in html
    assert "@import" not in html
    assert not re.findall(r"url\((?!data:)", html)
    assert "<math" in html
    assert "<title>Title of it</title>" in html
    assert "secret_code_cell" in html
    assert html.count("<details") == 2, "the contents and the code"
    assert "the_parameter" not in html
    assert 'alt="Line chart of bits per byte' in html
    assert "a line" in html
    assert "a library warns" not in html


def test_what_a_model_wrote_is_text_in_html(notebook, tmp_path):
    render(notebook, "lottery_html", tmp_path / "a.html")
    html = (tmp_path / "a.html").read_text()
    assert "&lt;script&gt;alert(1)&lt;/script&gt;" in html
    assert "<img src=x" not in html
    assert not re.search(r"href=.?javascript:", html)
    assert "\\u{1b}[31mred\\u{7}" in html
    assert "\\u{202e}right" in html
    assert "\x1b" not in html
    assert "\u202e" not in html
    assert not re.search(r"<h\d[^>]*>head", html)
    assert "<plain>" not in html


def test_pdf_holds_the_same_as_text(notebook, tmp_path):
    render(notebook, "lottery_pdf", tmp_path / "a.pdf")
    assert (tmp_path / "a.pdf").read_bytes().startswith(b"%PDF")
    text = subprocess.run(
        [need_program("pdftotext"), "-layout", tmp_path / "a.pdf", "-"], capture_output=True, text=True, check=True
    ).stdout
    for expected in (
        "Title of it",
        "<script>alert(1)</script>",
        "**bold**",
        "$x^2$",
        "\\u{202e}right",
        "\\u{4f60}\\u{597d}",
        "magnitude",
        "a|b",
        "a line",
    ):
        assert expected in text, expected
    assert "secret_code_cell" not in text
    assert "a library warns" not in text


def test_on_paper_a_long_table_goes_on_and_a_short_one_stays_whole(tmp_path):
    """A short table that does not fit the rest of a page begins on the next one; a long one breaks, its header repeated, no row lost."""
    long, short = [[{"A": f"{name} {i}", "B": i} for i in range(rows)] for name, rows in (("long", 120), ("short", 12))]
    filler = "\n\n".join(["A line."] * 27)
    text = f"# T\n\nOf tables.\n\n## One\n\n{filler}\n\n{table(short, caption='Short.')}\n\n## Two\n\n{table(long, caption='Long.')}"
    nbformat.write(nbformat.v4.new_notebook(cells=[nbformat.v4.new_markdown_cell(text)]), tmp_path / "n.ipynb")
    render(tmp_path / "n.ipynb", "lottery_pdf", tmp_path / "n.pdf")
    read = subprocess.run(
        [need_program("pdftotext"), "-layout", tmp_path / "n.pdf", "-"], capture_output=True, text=True, check=True
    ).stdout
    pages = read.split("\f")
    assert [("short 0" in page, "short 11" in page) for page in pages if "short" in page] == [(True, True)]
    assert all(re.search(rf"long {i}\b", read) for i in range(120))
    assert sum("long" in page for page in pages) >= 3
    assert all(re.search(r"^ *A +B$", page, re.MULTILINE) for page in pages if "long" in page)


def test_nbconvert_knows_both_exporters(notebook):
    import sys

    for exporter, suffix in (("lottery_html", "html"), ("lottery_pdf", "pdf")):
        subprocess.run([sys.executable, "-m", "nbconvert", "--to", exporter, str(notebook)], check=True, capture_output=True)
        assert notebook.with_suffix(f".{suffix}").stat().st_size > 1000


def test_visible_escapes_what_has_no_shape_and_nothing_else():
    assert escape_unprintable("a\x00\x1b\u202e\u200b\ue000\n") == "a\\u{0}\\u{1b}\\u{202e}\\u{200b}\\u{e000}\n"
    assert escape_unprintable("Ünïcode – «ok» 你好 🎟") == "Ünïcode – «ok» 你好 🎟"


def test_a_fence_is_longer_than_any_run_of_backticks():
    shown = verbatim("a ````` b")
    assert shown.startswith("``````text\n")
    assert shown.endswith("\n``````")


def test_a_long_run_of_newlines_is_counted():
    assert "[9 newlines]" in verbatim("a" + "\n" * 9 + "b")


def test_characters_without_a_glyph_are_escaped_in_pdf():
    assert legible("ok × – 你\n") == "ok × – \\u{4f60}\n"


def test_a_table_cell_cannot_break_its_row():
    assert "a\\|b" in table([{"x": "a|b"}])
    assert table([]) == ""
    assert [row.split() for row in table([{"x": "a"}, {"y": "b"}]).splitlines()[2:]] == [["|", "a", "|", "|"], ["|", "|", "b", "|"]]
    assert markdown("a", "", "b").data == "a\n\nb"


def test_the_same_picture_is_the_same_file(project):
    from lottery.report.figures import curve

    assert isinstance(curve(sweep_of("a", [1, 2, 3, 9])), Picture)
    assert curve(sweep_of("a", [1, 2, 3, 9])).svg == curve(sweep_of("a", [1, 2, 3, 9])).svg
    assert curve([]) is None


def test_a_report_without_records_still_renders(project, tmp_path):
    report = Report(validated({**TOY, "model": None}))
    output = nbformat.v4.new_output("execute_result", data={"text/markdown": report.answer().data})
    nbformat.write(nbformat.v4.new_notebook(cells=[nbformat.v4.new_code_cell("x", outputs=[output])]), tmp_path / "n.ipynb")
    for exporter in ("lottery_html", "lottery_pdf"):
        render(tmp_path / "n.ipynb", exporter, tmp_path / exporter)
        assert (tmp_path / exporter).stat().st_size > 1000
