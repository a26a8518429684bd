"""What a stranger's notebook, or a model's text, brings is shown and never run: a hundred hostile cells in a real browser, and as PDF."""

import re
import subprocess

import nbformat
import pytest

from lottery.jobs.pipeline import render
from lottery.report.render.pandoc import to_html
from tests.conftest import need_program

RUN = "window.ran=1;document.title='ran'"
TRAP = "http://127.0.0.1:9/trap"
HOSTILE = [
    f"<script>{RUN}</script>", f"</title><script>{RUN}</script>", f"</style><script>{RUN}</script>", f"</pre></code><script>{RUN}</script>",
    f'"><script>{RUN}</script>', f"'-->\"><svg onload={RUN}>", f"<img src=x onerror={RUN}>", f"<img src={TRAP}.png>",
    f"<iframe src='javascript:{RUN}'></iframe>", f"<iframe srcdoc='<script>parent.{RUN}</script>'></iframe>", f"<object data={TRAP}></object>",
    f"<embed src={TRAP}>", f"<meta http-equiv=refresh content='0;url={TRAP}'>", f"<base href={TRAP}/>", f"<link rel=stylesheet href={TRAP}>",
    f"<style>@import '{TRAP}';</style>", f"<body onload={RUN}>", f"<details open ontoggle={RUN}>", f"<form action={TRAP}><input autofocus onfocus={RUN}>",
    f"<math><a xlink:href='javascript:{RUN}'>m</a></math>", f"<video src={TRAP} onerror={RUN}>", f"<div style='background:url({TRAP})'>",
    f"[x](javascript:{RUN})", f"[x](JaVaScRiPt:{RUN})", f"[x](&#106;avascript:{RUN})", f"[x](java%0ascript:{RUN})", f"[x](<java\tscript:{RUN}>)",
    f"[x]( javascript:{RUN})", f"[x](vbscript:{RUN})", f"[x](data:text/html,<script>{RUN}</script>)", "[x](file:///etc/passwd)", "[x](blob:null/1)",
    f"<javascript:{RUN}>", f"[x][1]\n\n[1]: javascript:{RUN}", f"![x]({TRAP}.png)", f"![x](javascript:{RUN})", f"![x](//{TRAP[7:]}.png)",
    f"![x](data:image/svg+xml,<svg onload={RUN}>)", "![x](nowhere.png)", "![x](/etc/passwd)", "![x](figure-0-0.svg)", f"`{{=html}}<script>{RUN}</script>`{{=html}}",
    f"```{{=html}}\n<script>{RUN}</script>\n```", f"```{{=typst}}\n#link(\"javascript:{RUN}\")[x]\n```", "#read(\"/etc/passwd\") #link(\"javascript:1\")[x]",
    f"[x]{{onclick={RUN}}}", f"# head {{onclick=\"{RUN}\"}}", f"$\\href{{javascript:{RUN}}}{{x}}$", f"$$\\text{{<script>{RUN}</script>}}$$",
    f"\\href{{javascript:{RUN}}}{{x}}", f"| a |\n|---|\n| [x](javascript:{RUN}) |", f"\x1b]8;;javascript:{RUN}\x07x\x1b]8;;\x07",
    "---\ntitle: Forged title\nauthor: Forged author\nabstract: Forged abstract\n---", "% Forged by a percent sign\n% Forged author\n\nText.",
    "---\ntemplate: x.typ\n---", "---\ncolumns: 'read(\"report.typ\")'\n---",
]  # fmt: skip


def hostile_notebook():
    """Each of them as a cell of Markdown and in one kind of output."""

    def output(number, text):
        kinds = [
            nbformat.v4.new_output("stream", name="stdout", text=text),
            nbformat.v4.new_output("error", ename=text, evalue=text, traceback=[text]),
            nbformat.v4.new_output("execute_result", data={"text/html": text, "text/plain": text}),
            nbformat.v4.new_output("execute_result", data={"text/markdown": text, "text/plain": text}),
            nbformat.v4.new_output("execute_result", data={"application/javascript": RUN, "text/plain": text}),
            nbformat.v4.new_output(
                "execute_result",
                data={"image/svg+xml": f"<svg xmlns='http://www.w3.org/2000/svg'><script>{RUN}</script></svg>"},
                metadata={"alt": text, "caption": text},
            ),
        ]
        return kinds[number % len(kinds)]

    cells = [nbformat.v4.new_markdown_cell("# Strangers\n\nA sentence."), nbformat.v4.new_markdown_cell("## Cells")]
    for number, text in enumerate(HOSTILE):
        cells.append(nbformat.v4.new_markdown_cell(text))
        cells.append(nbformat.v4.new_code_cell(f"x = 1  # {text}\nx", outputs=[output(number, text)]))
    return nbformat.v4.new_notebook(cells=cells)


UNSAFE = """(() => {
  const links = [...document.querySelectorAll('[href], [src], [action]')].map(e => e.getAttribute('href') || e.getAttribute('src') || e.action);
  const handlers = [...document.querySelectorAll('*')].filter(e => [...e.attributes].some(a => a.name.startsWith('on')));
  return {
    ran: window.ran || 0, title: document.title, handlers: handlers.length,
    elements: document.querySelectorAll('script, iframe, object, embed, base, form, input, link, video, meta[http-equiv=refresh]').length,
    links: links.filter(l => !/^(https?:|mailto:|#|data:image.svg.xml;base64,)/.test(l)),
  }
})()"""


def test_a_hundred_hostile_cells_run_nothing_and_ask_for_nothing(tmp_path, browser):
    assert 2 * len(HOSTILE) >= 100
    nbformat.write(hostile_notebook(), tmp_path / "n.ipynb")
    render(tmp_path / "n.ipynb", "lottery_html", tmp_path / "n.html")
    # Once with the page's own policy, under which no script could run whatever it says, and once without: either must do.
    html = (tmp_path / "n.html").read_text()
    bare = re.sub(r'<meta content="default-src[^>]*>|<meta http-equiv="Content-Security-Policy"[^>]*>', "", html)
    assert len(bare) < len(html)
    (tmp_path / "bare.html").write_text(bare)
    for name in ("n.html", "bare.html"):
        browser.open(tmp_path / name, 1000)
        browser.evaluate("new Promise(done => setTimeout(done, 500))")
        found = browser.evaluate(UNSAFE)
        assert found == {"ran": 0, "title": "Strangers", "handlers": 0, "elements": 0, "links": []}
        assert browser.asked_for() == {(tmp_path / name).as_uri()}
        assert browser.evaluate("location.href") == (tmp_path / name).as_uri()
    assert "&lt;script&gt;" in html, "and it is shown"
    for text in ("Forged title", "Forged by a percent sign", "template: x.typ"):
        assert text in html.split("<main", 1)[1]


@pytest.mark.parametrize("text", HOSTILE[:6])
def test_a_hostile_title_is_a_title(tmp_path, text):
    nbformat.write(nbformat.v4.new_notebook(cells=[nbformat.v4.new_markdown_cell(f"# {text}\n\nA sentence.")]), tmp_path / "n.ipynb")
    render(tmp_path / "n.ipynb", "lottery_html", tmp_path / "n.html")
    html = (tmp_path / "n.html").read_text()
    assert html.count("<title>") == html.count("</title>") == 1
    assert "<script" not in html
    assert "<svg" not in html


def test_the_policy_allows_no_script_at_all(tmp_path, browser):
    """The second lock by itself: a script that got into the page would not run."""
    nbformat.write(nbformat.v4.new_notebook(cells=[nbformat.v4.new_markdown_cell("# T\n\nText.")]), tmp_path / "n.ipynb")
    render(tmp_path / "n.ipynb", "lottery_html", tmp_path / "n.html")
    broken = (tmp_path / "n.html").read_text().replace("<main", f"<script>{RUN}</script><img src='{TRAP}.png'><main", 1)
    (tmp_path / "broken.html").write_text(broken)
    browser.open(tmp_path / "broken.html", 1000)
    assert browser.evaluate("window.ran || 0") == 0
    assert f"{TRAP}.png" in browser.asked_for()
    refused = [event["params"].get("blockedReason") for event in browser.events if event["method"] == "Network.loadingFailed"]
    assert refused == ["csp"], "and the browser never sent it"


def test_links_that_lead_to_pages_and_files_stay():
    for target in ("https://arxiv.org/abs/1", "http://a.b", "mailto:a@b.c", "#here", "phi-2/records/a.json", "a.html#b:c", "?q=a:b"):
        assert f'href="{target}"' in to_html(f"[x]({target})"), target
    assert "<a" not in to_html("[x](javascript:1)")
    assert "x" in to_html("[x](javascript:1)")


def test_the_pdf_of_them_is_made_and_leads_nowhere_else(tmp_path):
    nbformat.write(hostile_notebook(), tmp_path / "n.ipynb")
    render(tmp_path / "n.ipynb", "lottery_pdf", tmp_path / "n.pdf")
    listed = subprocess.run([need_program("pdfinfo"), "-url", tmp_path / "n.pdf"], capture_output=True, text=True, check=True).stdout
    addresses = [line.split(None, 2)[2] for line in listed.splitlines()[1:]]
    assert [address for address in addresses if not re.match(r"https?:|mailto:", address)] == []
    text = subprocess.run([need_program("pdftotext"), tmp_path / "n.pdf", "-"], capture_output=True, text=True, check=True).stdout
    assert "root:" not in text, "no file of the machine is read"
    assert "<script>" in text
    assert "Forged" not in text.split("Cells")[0], "the title is the notebook's own"
    assert "Forged abstract" in text
    raw = (tmp_path / "n.pdf").read_bytes()
    assert b"/JavaScript" not in raw
    assert b"/JS" not in raw
