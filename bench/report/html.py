"""to_html(): the report as a self-contained page without scripts or external resources, for screen and print."""

from pathlib import Path
from typing import Any

from jinja2 import Environment, FileSystemLoader, StrictUndefined
from markupsafe import Markup

from bench.measure.accuracy.task_metric import HEADS, NAMES, format_metric, score_cells
from bench.report.escape import plain
from bench.report.markdown import (
    CASCADE_HEADS,
    NO_REFERENCE,
    cascade_cells,
    cascade_sentences,
    machine_sentence,
    padding_sentences,
    speedup_head,
    time_cell,
    time_head,
)
from bench.report.mlperf import mlperf_sentence
from bench.report.plots import figures
from bench.report.report_schema import Report

CONFUSION_LABELS = 20  # a larger confusion matrix is not readable on a page; report.json has it


def _printable(value: Any) -> Any:
    """Remove unprintable characters from a user's text; markup, such as figures, stays unchanged."""
    return plain(value, len(value)) if isinstance(value, str) and not isinstance(value, Markup) else value


def to_html(report: Report) -> str:
    """Return report.html."""
    environment = Environment(
        loader=FileSystemLoader(Path(__file__).parent), autoescape=True, undefined=StrictUndefined, trim_blocks=True,
        lstrip_blocks=True, finalize=_printable,
    )  # fmt: skip
    base = report.engine(report.reference) if report.reference else None
    pair = [e for e in (base, report.engine("ours")) if e and e.quality]
    return environment.get_template("report.html.j2").render(
        report=report,
        figures=figures(report),
        metric=NAMES[report.metric],
        heads=HEADS[report.metric],
        cells=score_cells,
        format_metric=format_metric,
        time_head=time_head,
        time_cell=time_cell,
        speedup_head=speedup_head,
        padding=[*padding_sentences(report), *([sentence] if (sentence := mlperf_sentence(report)) else [])],
        cascade_heads=CASCADE_HEADS,
        cascade_cells=[] if report.cascade is None else cascade_cells(report.cascade),
        cascade_sentences=[] if report.cascade is None else cascade_sentences(report.cascade),
        labels=[plain(label) for label in report.labels],
        compared=pair,
        no_reference=NO_REFERENCE,
        matrices=pair if len(report.labels) <= CONFUSION_LABELS else [],
        machine=machine_sentence(report),
    )
