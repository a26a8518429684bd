"""A report of hostile widths: a made-up word of 200 characters, perplexities of 10⁹, twelve models. Nothing is cut off, on screen or on paper."""

import re
import subprocess
from pathlib import Path

import pytest

from lottery.common.paths import outputs
from lottery.config.profile import validated
from lottery.experiments.records import Record, Request, write_state
from lottery.jobs.pipeline import write_report
from tests.conftest import TOY, need_program, project_in
from tests.factory import record_of, write_records

MODELS = [f"a-model-of-long-name-{i}" for i in range(12)]
WORD = "unpronounceable" * 13 + "words"
TEXT = f"It was {WORD} and then some more words that must be seen, up to the very END."

pytestmark = pytest.mark.xdist_group("wide page")  # one report and one browser for all


@pytest.fixture(scope="module")
def report(tmp_path_factory) -> Path:
    def made(name: str, request: Request) -> Record:
        perplexity = 10 ** (1 + 9 * request.sparsity) if request.sparsity else 20.0
        index = MODELS.index(name)
        bits = 1 + 8 * request.sparsity**2 * (1 + index / 12)
        return record_of(
            name, request.method, request.sparsity, perplexity, bits_per_byte=bits, windows=20, text=TEXT, parameters=10**9 << index % 4
        )

    with project_in(tmp_path_factory.mktemp("wide")) as project:
        given = {**TOY, "model": None, "checkpoints": dict.fromkeys(MODELS, "stand-in:phi-2"), "sparsities": [0.5, 0.7, 0.9]}
        profile = validated({**given, "methods": ["magnitude", "random"], "profile": "wide"})
        (project / "params" / "wide.yaml").write_text(profile.model_dump_json(exclude={"model"}))
        for name in MODELS:
            write_records(profile, name, lambda asked, name=name: [made(name, request) for request in asked])
            write_state(outputs("wide") / name, "finished")
        assert len(write_report(profile, "wide")) == 2
    return project / "outputs" / "wide"


# What reaches beyond the edge of the page, or of a box that does not scroll.
CUT = """
[...document.querySelectorAll('main *')].filter(e => {
  const box = e.getBoundingClientRect(), scrolls = e.closest('.wide, pre, math');
  return box.width && !scrolls && (box.right > document.documentElement.clientWidth + 1 || box.left < -1);
}).map(e => e.outerHTML.slice(0, 80))
"""
SIDEWAYS = "[...document.querySelectorAll('.wide')].filter(e => e.scrollWidth > e.clientWidth + 1).map(e => e.innerText.slice(0, 60))"


@pytest.mark.parametrize("width", [1440, 390])
def test_nothing_is_cut_off_on_a_screen(report, browser, width):
    browser.open(report / "report.html", width)
    assert browser.evaluate("document.documentElement.scrollWidth") <= width
    assert browser.evaluate(CUT) == []
    if width == 1440:
        assert browser.evaluate(SIDEWAYS) == [], "no table has to be scrolled to be read"


def test_the_text_is_there_to_its_end(report, browser):
    browser.open(report / "report.html", 1440)
    cells = "[...document.querySelectorAll('td')].filter(e => e.innerText.includes('END.'))"
    assert browser.evaluate(f"{cells}.length") == len(MODELS) * 4
    assert browser.evaluate(
        f"{cells}.every(e => e.getBoundingClientRect().right <= document.querySelector('main').getBoundingClientRect().right)"
    )


def test_nothing_is_cut_off_on_paper(report):
    """Where each word of the PDF lies: none beyond the margin of the page."""
    listed = subprocess.run(
        [need_program("pdftotext"), "-bbox", report / "report.pdf", "-"], capture_output=True, text=True, check=True
    ).stdout
    width = float(re.search(r'<page width="([\d.]+)"', listed)[1])
    ends = [float(x) for x in re.findall(r'xMax="([\d.]+)"', listed)]
    assert len(ends) > 1_000
    assert max(ends) <= width - 0.5 * 72, "half an inch of margin at least"
    assert min(float(x) for x in re.findall(r'xMin="([\d.]+)"', listed)) >= 0.5 * 72


def test_large_numbers_are_powers_of_ten(report):
    html = (report / "report.html").read_text()
    assert "1.26×10⁹" in html
    assert not re.search(r"\d,\d{3},\d{3}\.|>\d{3},\d{3}<", html)
