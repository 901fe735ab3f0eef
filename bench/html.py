"""to_html(): the report as one page that needs nothing else: no script, no request, light, dark and paper."""

from pathlib import Path

from jinja2 import Environment, FileSystemLoader, StrictUndefined

from bench.judging import HEADS, NAMES, score_cells, told
from bench.markdown import machine_sentence
from bench.plots import figures
from bench.records import Report

CONFUSION_LABELS = 20  # a larger matrix is no longer read by anyone; report.json has it


def to_html(report: Report) -> str:
    """Return report.html."""
    environment = Environment(
        loader=FileSystemLoader(Path(__file__).parent), autoescape=True, undefined=StrictUndefined, trim_blocks=True,
        lstrip_blocks=True,
    )  # fmt: skip
    base = report.engine(report.reference) if report.reference else None
    pair = [e for e in (base, report.engine("ours")) if e and e.quality]
    return environment.get_template("report.html.j2").render(
        report=report,
        figures=figures(report),
        metric=NAMES[report.metric],
        heads=HEADS[report.metric],
        cells=score_cells,
        told=told,
        batches=sorted({t.batch for e in report.engines for t in e.timings}),
        compared=pair,
        matrices=pair if len(report.labels) <= CONFUSION_LABELS else [],
        machine=machine_sentence(report),
    )
