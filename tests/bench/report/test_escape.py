"""Any label, message and command in a report: figures, page and Markdown are whole, and show what was written."""

import random
import re
import warnings
from html.parser import HTMLParser
from xml.etree import ElementTree

import numpy as np
import pytest
from markdown_it import MarkdownIt

from bench.measure.accuracy.error_analysis import quality
from bench.report.escape import LONGEST, code, markdown, plain
from bench.report.html import to_html
from bench.report.markdown import to_markdown
from bench.report.plots import figures
from bench.report.report_schema import Report
from models.task import Task
from tools.tables.write import RESULTS

ODD = [
    "$1-$5", "$\\frac{1}{0}$", "$", "_private", "__init__", "<script>alert(1)</script>", "a|b", "||", "two\nlines",
    "\r\n", "a\tb", "x" * 3000, "", " ", "中文标签", "日本語のとても長いラベル" * 20, "😀👩‍👩‍👧‍👦", "e\u0301" * 100,
    "ابجد", "\u202eturned", "\u2028", "`code`", "``", "*bold*", "[link](x)", "{braces}", "{{ jinja }}", "{% raw %}",
    "%s %d", "&amp;", "&", '"quoted"', "'", "\\", "\\|", "\x00\x1b[31m", "\ud800", "#010203", "--", "0", "-->",
    "]]>", "<!--", "~~x~~", "https://x.y/?a=1&b=2", "\ufeffmark", "\ufffe",
]  # fmt: skip


def drawn(seed: int, count: int) -> list[str]:
    """Labels made of pieces of the odd ones, each another."""
    draw = random.Random(seed)
    letters = [*"".join(ODD), *[chr(draw.randrange(0x10FFFF)) for _ in range(400)]]
    return [f"{n}{''.join(draw.choices(letters, k=draw.randrange(40)))}" for n in range(count)]


def with_labels(labels: list[str], **changes) -> Report:
    """A stored report of so many labels, called so, in which every text that users write is one of them."""
    generator, task = np.random.default_rng(0), Task(labels=tuple(labels))
    truth = np.arange(200) % len(labels)
    logits = generator.normal(size=(200, len(labels))).astype(np.float32)
    found = quality(truth, logits, task, generator.integers(3, 60, 200))
    report = Report.read(RESULTS / "bbc-news.json")
    engines = [
        e.model_copy(update={"quality": found, "operators_ms": dict.fromkeys(labels, 0.5)}) for e in report.engines
    ]
    engines[-1] = engines[-1].model_copy(update={"status": "failed", "problem": labels[0]})
    update = {"labels": tuple(labels), "data": labels[0], "command": labels[-1], "verdicts": tuple(labels)}
    return report.model_copy(update=update | {"engines": tuple(engines)} | changes)


LISTS = [list(dict.fromkeys(ODD))[i : i + 6] for i in range(0, len(set(ODD)) - 5, 6)] + [
    drawn(n, 7) for n in range(6)
]


@pytest.fixture(params=range(len(LISTS)), scope="module")
def report(request):
    return with_labels(LISTS[request.param])


class Cells(HTMLParser):
    """Counts cells by row and table, and notes tags."""

    def __init__(self, page: str) -> None:
        super().__init__()
        self.tables: list[list[int]] = []
        self.tags: list[str] = []
        self.feed(page)

    def handle_starttag(self, tag, attributes):
        self.tags.append(tag)
        if tag == "table":
            self.tables.append([])
        elif tag == "tr":
            self.tables[-1].append(0)
        elif tag in ("td", "th"):
            self.tables[-1][-1] += int(dict(attributes).get("colspan", 1))


def parsed(svg: str) -> ElementTree.Element:
    """A figure as a page has it names no namespace: HTML knows those of SVG."""
    return ElementTree.fromstring(svg.replace("<svg ", '<svg xmlns:xlink="http://www.w3.org/1999/xlink" ', 1))


def test_every_figure_is_valid_and_none_warns(report):
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        drawn_figures = figures(report)
    assert len(drawn_figures) >= 6
    for _, svg in drawn_figures:
        parsed(svg)


def test_every_label_is_at_its_bar(report):
    [svg] = [svg for caption, svg in figures(report) if caption.startswith("F1 by class")]
    shown = ["".join(node.itertext()) for node in parsed(svg).iter() if node.tag.endswith("text")]
    for label in report.labels:
        assert plain(label, 28) in shown or not plain(label, 28)


def test_the_page_has_its_tables_and_nothing_that_labels_brought(report):
    page = to_html(report)
    page.encode("utf-8")
    found = Cells(page)
    assert all(len(set(rows)) == 1 for rows in found.tables)
    labels = len(report.labels)
    assert [len(rows) for rows in found.tables].count(labels + 1) >= 2  # the confusions of two engines
    assert "script" not in found.tags


def test_markdown_has_one_table_of_whole_rows_and_one_point_a_sentence(report):
    page = to_markdown(report)
    page.encode("utf-8")
    tokens = MarkdownIt("commonmark", {"html": True}).enable(["table", "strikethrough"]).parse(page)
    kinds = [token.type for token in tokens]
    assert kinds.count("table_open") == 1
    cells = kinds.count("td_open") + kinds.count("th_open")
    assert cells == (1 + len(report.engines)) * (len(report.shown) + 6)
    assert kinds.count("list_item_open") == len(report.verdicts)
    inline = [child for token in tokens for child in token.children or ()]
    assert not {"link_open", "html_inline", "s_open", "em_open", "image"} & {child.type for child in inline}
    assert "html_block" not in kinds


@pytest.mark.parametrize("label", [*ODD, *drawn(99, 200)])
def test_markdown_shows_what_was_written(label):
    inline = [t for t in MarkdownIt("commonmark").parse(markdown(label)) if t.type == "inline"]
    shown = "".join(child.content for token in inline for child in token.children)
    assert shown == plain(label, max(1, len(label)))
    assert len(inline) == bool(shown)
    [paragraph] = [t for t in MarkdownIt("commonmark").parse(f"x {code(label)} x") if t.type == "inline"]
    if plain(label):
        assert [c.content for c in paragraph.children if c.type == "code_inline"] == [plain(label, len(label))]


@pytest.mark.parametrize("label", [*ODD, *drawn(7, 200)])
def test_a_plain_label_is_one_short_line(label):
    shown = plain(label)
    assert len(shown) <= LONGEST
    assert not re.search(r"[\x00-\x1f\x7f\u202a-\u202e\ud800-\udfff]", shown)
    assert shown == plain(shown)
    shown.encode("utf-8")


def test_a_plain_label_keeps_what_is_text():
    assert plain(" tab\tand\n\nline ") == "tab and line"
    assert plain("👩‍👩‍👧‍👦 日本語 e\u0301 naïve") == "👩‍👩‍👧‍👦 日本語 e\u0301 naïve"
    assert plain("x" * 100, 10) == "x" * 9 + "…"
    assert plain("ab" + "e\u0301" * 10, 4) == "ab…"  # not between a letter and its accent
