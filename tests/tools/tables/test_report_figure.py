"""The picture of the README: the figure of its report, in colours for light and for dark pages."""

from xml.etree import ElementTree

from bench.report.report_schema import Report
from tools.tables.report_figure import draw_report_figure
from tools.tables.write import RESULTS

SOURCE = RESULTS / "film-reviews-8x.json"


def test_the_picture_names_each_engine_that_the_report_has_and_is_the_committed_one(tmp_path):
    draw_report_figure(SOURCE, tmp_path / "figure.svg")
    text = (tmp_path / "figure.svg").read_text(encoding="utf-8")
    ElementTree.fromstring(text)  # a file of its own, not a part of a page
    names = {engine.name for engine in Report.read(SOURCE).engines if engine.timing(1) and engine.score}
    assert all(name in text for name in names)
    assert "prefers-color-scheme: dark" in text
    assert "--ink: #" in text
    committed = (RESULTS / "film-reviews.svg").read_text(encoding="utf-8")
    assert all(name in committed for name in names), "run python -m tools.tables.write"
