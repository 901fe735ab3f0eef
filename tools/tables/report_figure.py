"""draw_report_figure(): accuracy against latency of a report's engines, as a picture of its own.

The colours of text and grid follow the reader's setting, light or dark.
"""

from pathlib import Path

from bench.report.plots import figures
from bench.report.report_schema import Report
from models.store.atomic import write_text

OPENING = '<svg xmlns="http://www.w3.org/2000/svg" xmlns:xlink="http://www.w3.org/1999/xlink" '
COLOURS = """<style>
svg { --ink: #1f2328; --grid: #d0d7de }
@media (prefers-color-scheme: dark) { svg { --ink: #e6edf3; --grid: #444c56 } }
</style>"""


def draw_report_figure(source: Path, target: Path) -> None:
    """Draw the first figure of a report, which is accuracy against latency.

    Args:
        source: the archived report, a JSON file.
        target: the SVG file.
    """
    _, svg = figures(Report.read(source))[0]
    opened = svg.replace("<svg ", OPENING, 1)
    end = opened.index(">") + 1
    write_text(target, opened[:end] + COLOURS + opened[end:])
