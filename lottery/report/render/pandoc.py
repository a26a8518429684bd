"""Markdown to HTML and to Typst, by the pandoc that comes as a wheel."""

from pathlib import Path

import pypandoc

# Raw HTML and TeX are off, and so is what sets titles and templates: whatever a model wrote stays text.
MARKDOWN = "markdown-raw_html-raw_tex-raw_attribute-native_divs-native_spans-citations-yaml_metadata_block-pandoc_title_block"

_ALWAYS = [
    "--wrap=none", "--columns=10000", "--syntax-highlighting=none", f"--lua-filter={Path(__file__).parent / 'templates' / 'strangers.lua'}",
]  # fmt: skip


def to_html(markdown: str) -> str:
    """Return an HTML fragment; formulas become MathML, which every current browser draws without a script."""
    return pypandoc.convert_text(markdown, "html5", format=MARKDOWN, extra_args=["--mathml", *_ALWAYS])


def to_typst(markdown: str, title: str, subtitle: str, header: str, folder: Path) -> str:
    """Return a whole Typst document with a title block and contents.

    The document's second headings become its first.

    Args:
        markdown: The text.
        title: The title.
        subtitle: The line below the title.
        header: Typst that goes into the head of the document.
        folder: Holds the pictures of the text.
    """
    arguments = [
        "--standalone", *_ALWAYS,
        "--shift-heading-level-by=-1", "--table-of-contents", "--toc-depth=1",
        "-V", "papersize=a4", "-V", "fontsize=10pt", "-V", f"header-includes={header}",
        "-M", f"title={title}", "-M", f"subtitle={subtitle}", "-M", "lang=en",
    ]  # fmt: skip
    return pypandoc.convert_text(markdown, "typst", format=MARKDOWN, extra_args=arguments, cworkdir=str(folder))
