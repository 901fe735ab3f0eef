"""headline_table(): the table of README.md, from archived reports."""

from pathlib import Path

from bench.measure.accuracy.task_metric import format_metric
from bench.report.markdown import table
from bench.report.report_schema import Report

SETS = {"SST-2": "sst2-engines", "AG News": "ag-news-engines"}  # by title: the archived report
ROWS = {
    "ours": "**Prunella, int8 alone**", "ort_fp32": "ONNX Runtime, fp32", "stock_int8": "ONNX Runtime, dynamic int8",
    "openvino": "OpenVINO, int8", "ctranslate2": "CTranslate2, int8",
}  # fmt: skip


def headline_table(folder: Path) -> str:
    """Return a Markdown table: accuracy, p50 and size of each engine on each set.

    Args:
        folder: The archived reports, docs/results.
    """
    reports = [Report.read(folder / f"{name}.json") for name in SETS.values()]
    heads = [""] + [f"{title}: {column}" for title in SETS for column in ("accuracy", "p50 ms", "MB")]
    rows = [[title, *(cell for report in reports for cell in _cells(report, name))] for name, title in ROWS.items()]
    return table(heads, rows)


def _cells(report: Report, name: str) -> list[str]:
    engine = report.engine(name)
    timing = engine.timing(1) if engine else None
    if engine is None or engine.score is None or timing is None or engine.bytes is None:
        raise ValueError(f"{report.command} measured no score, times or size of {name}")
    return [format_metric(report.metric, engine.score.value), f"{timing.p50_ms:.2f}", f"{engine.bytes / 1e6:.1f}"]
