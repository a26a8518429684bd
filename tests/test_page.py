"""The finished report as its readers have it: a page in a real browser without a network, and a PDF with the same numbers."""

import itertools
import re
import subprocess
from pathlib import Path

import pytest
from bs4 import BeautifulSoup

from lottery.common.paths import outputs
from lottery.config.profile import validated
from lottery.experiments.records import write_state
from lottery.jobs.pipeline import write_report
from tests.conftest import TOY, need_program, project_in
from tests.factory import stored, sweep_of, write_records
from tests.test_render import HOSTILE

NAMES = ["mistral-7b", "qwen2.5-0.5b", "phi-2"]

pytestmark = pytest.mark.xdist_group("page")  # one report and one browser for all

# Text on the nearest background that is not transparent, by the formula of WCAG 2.2; large and hidden text left out.
CONTRAST = """
(() => {
  const light = c => { const v = c.map(x => x / 255).map(x => x <= 0.04045 ? x / 12.92 : ((x + 0.055) / 1.055) ** 2.4);
                       return 0.2126 * v[0] + 0.7152 * v[1] + 0.0722 * v[2]; };
  const parse = s => s.match(/[\\d.]+/g).map(Number);
  const over = (f, b) => f.slice(0, 3).map((x, i) => x * (f[3] ?? 1) + b[i] * (1 - (f[3] ?? 1)));
  const found = [];
  const walk = document.createTreeWalker(document.body, NodeFilter.SHOW_TEXT);
  while (walk.nextNode()) {
    const el = walk.currentNode.parentElement;
    if (!walk.currentNode.data.trim() || !el.checkVisibility({ checkVisibilityCSS: true }) || el.closest('.skip, math')) continue;
    let back = [255, 255, 255], node = el, opacity = 1;
    for (let n = el; n; n = n.parentElement) opacity *= Number(getComputedStyle(n).opacity);
    while (node) { const c = parse(getComputedStyle(node).backgroundColor); if ((c[3] ?? 1) > 0) { back = over(c, back); break; } node = node.parentElement; }
    const text = parse(getComputedStyle(el).color);
    const front = over([...text.slice(0, 3), (text[3] ?? 1) * opacity], back);
    const [a, b] = [light(front), light(back)].sort((x, y) => y - x);
    const ratio = (a + 0.05) / (b + 0.05);
    if (ratio < 4.5) found.push([walk.currentNode.data.trim().slice(0, 40), ratio]);
  }
  return found;
})()
"""


@pytest.fixture(scope="module")
def report(tmp_path_factory) -> Path:
    """The folder of a report on three models, one of them infinite at 90%, written by the report notebook from records made by hand."""
    with project_in(tmp_path_factory.mktemp("page")) as project:
        profile = validated(
            {**TOY, "model": None, "checkpoints": {n: f"stand-in:{n}" for n in NAMES}, "sparsities": [0.5, 0.7, 0.9], "profile": "demo"}
        )
        (project / "params" / "demo.yaml").write_text(profile.model_dump_json(exclude={"model"}))
        for index, name in enumerate(NAMES):
            values = [5.25 + index, 7.5 + index, 123.4, float("inf") if index == 2 else 54321.0]
            verdicts = ["coherent", "coherent", "degraded", "broken"]
            records = sweep_of(name, values, bits=[1, 1.2, 3, 6], verdicts=verdicts, windows=20, text=HOSTILE, parameters=1000 << index)
            write_records(profile, name, lambda asked, made=records: map(stored, made))
            write_state(outputs("demo") / name, "finished")
            (outputs("demo") / name / f"{name}.ipynb").write_text("{}")
        assert len(write_report(profile, "page")) == 2
    return project / "outputs" / "demo"


@pytest.fixture(scope="module")
def page(report) -> BeautifulSoup:
    return BeautifulSoup((report / "report.html").read_text(), "html.parser")


@pytest.mark.parametrize("dark", [False, True])
@pytest.mark.parametrize("width", [1440, 390])
def test_in_a_browser_without_a_network_it_asks_for_nothing_and_can_be_read(report, browser, width, dark):
    browser.open(report / "report.html", width, dark=dark)
    assert browser.asked_for() == {(report / "report.html").as_uri()}
    assert browser.complaints() == []
    assert browser.evaluate("document.documentElement.scrollWidth") <= width
    assert browser.evaluate(CONTRAST) == []
    broken = "[...document.images].filter(i => !i.complete || !i.naturalWidth).length"
    assert browser.evaluate(broken) == 0


def test_the_answer_and_the_figure_are_on_the_first_screen(report, browser):
    browser.open(report / "report.html", 1440)
    assert browser.evaluate("document.querySelector('figure img').getBoundingClientRect().top") < 500


def test_all_that_scrolls_is_reached_by_the_keyboard(report, browser):
    browser.open(report / "report.html", 390)
    scrolling = (
        "[...document.querySelectorAll('main *')].filter(e => e.scrollWidth > e.clientWidth + 1 && getComputedStyle(e).overflowX == 'auto')"
    )
    assert browser.evaluate(f"{scrolling}.length") > 5
    assert browser.evaluate(f"{scrolling}.filter(e => e.tabIndex < 0).map(e => e.outerHTML.slice(0, 80))") == []


def test_a_screen_reader_can_follow_it(page):
    levels = [int(heading.name[1]) for heading in page.find_all(re.compile(r"^h\d$"))]
    assert levels[0] == 1
    assert levels.count(1) == 1
    assert all(after <= before + 1 for before, after in itertools.pairwise(levels))
    assert page.html["lang"] == "en"
    assert all(len(image["alt"]) > 40 for image in page.find_all("img"))
    for table in page.find_all("table"):
        assert page.find("figcaption", id=table["aria-labelledby"]).get_text(strip=True)
        assert {th["scope"] for th in table.select("thead th")} == {"col"}
        assert all(row.find("th")["scope"] == "row" for row in table.select("tbody tr"))


def test_every_link_leads_somewhere(report, page):
    names = [tag["id"] for tag in page.find_all(id=True)]
    assert len(names) == len(set(names))
    links = {link["href"] for link in page.find_all("a")}
    for link in links:
        assert link[1:] in names if link.startswith("#") else (report / link).exists(), link
    sections = [link["href"] for link in page.select("nav.beside a")]
    assert len(sections) == len(page.find_all("h2")) > 10
    records = {f"{path.parent.parent.name}/records/{path.name}" for path in report.glob("*/records/*.json")}
    assert records <= links
    assert {f"{name}/{name}.ipynb" for name in NAMES} <= links


def numbers(text: str) -> set[str]:
    return set(re.findall(r"\d[\d,]*(?:\.\d+)?%?", text))


def test_the_pdf_says_the_same_numbers_as_the_page(report, page):
    read = subprocess.run(
        [need_program("pdftotext"), "-raw", report / "report.pdf", "-"], capture_output=True, text=True, check=True
    ).stdout
    for folded in page.select("details, nav, style, math"):
        folded.decompose()
    on_page, in_pdf = numbers(page.get_text(" ")), numbers(re.sub(r"-\n", "", read))
    measured = {n for n in on_page if "." in n or "%" in n or "," in n}
    assert len(measured) > 60
    assert measured <= in_pdf, measured - in_pdf
    more = {n for n in in_pdf - on_page if "." in n or "%" in n}
    assert not more


def test_page_and_pdf_are_small(report):
    assert (report / "report.html").stat().st_size < 3e6
    assert (report / "report.pdf").stat().st_size < 2e6


def test_every_figure_and_table_is_a_file_too(report, page):
    for image in report.glob("figures/*.svg"):
        assert image.with_suffix(".png").read_bytes().startswith(b"\x89PNG")
    assert len(list(report.glob("figures/*.svg"))) == len(page.find_all("img")) == 2
    assert {path.stem for path in report.glob("tables/*.csv")} >= {"trials", "bits-over-bytes", "zeros-by-layer", "published"}
