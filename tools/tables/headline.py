"""headline_table(): the table of README.md, from archived reports of two bundles for each data set.

`SET-4x.json` is the report of a bundle without a gate, `SET-8x.json` that of a bundle with one, whose
run timed the other engines too. Each row has the times of its own run.
"""

from pathlib import Path

from bench.measure.accuracy.task_metric import format_metric
from bench.report.markdown import table
from bench.report.report_schema import Report

SETS = {"Film reviews": "film-reviews", "AG News": "ag-news"}  # by title: the archived reports
ROWS = {  # by title: the report and its engine
    "**Prunella, 4x**": ("4x", "ours"),
    "**Prunella, 8x**": ("8x", "ours"),
    "**Prunella, 8x, with a [gate](docs/cascade.md)**": ("8x", "cascade"),
    "ONNX Runtime, fp32": ("8x", "ort_fp32"),
    "ONNX Runtime, dynamic int8": ("8x", "stock_int8"),
    "OpenVINO, int8": ("8x", "openvino"),
    "CTranslate2, int8": ("8x", "ctranslate2"),
    "TF-IDF": ("8x", "tfidf"),
}


def headline_table(folder: Path) -> str:
    """Return a Markdown table: accuracy, time and size of each engine on each set.

    Args:
        folder: The archived reports, docs/results.

    Raises:
        ValueError: A report lacks a score, a time or a size.
    """
    reports = {
        (title, speed): Report.read(folder / f"{name}-{speed}.json")
        for title, name in SETS.items()
        for speed in ("4x", "8x")
    }
    heads = [""] + [f"{title}: {column}" for title in SETS for column in ("accuracy", "ms", "MB")]
    rows = [
        [title, *(cell for name in SETS for cell in _cells(reports[name, speed], engine))]
        for title, (speed, engine) in ROWS.items()
    ]
    return table(heads, rows)


def _cells(report: Report, name: str) -> list[str]:
    engine = report.engine(name)
    timing = engine.timing(1) if engine else None
    if engine is None or engine.score is None or timing is None or engine.bytes is None:
        raise ValueError(f"{report.command} measured no score, times or size of {name}")
    time = f"{timing.p50_ms:.2f}"
    if name == "cascade":  # its median is the time of an easy text
        if report.cascade is None:
            raise ValueError(f"{report.command} has no section about its cascade")
        time = f"{report.cascade.mean_ms:.2f} (mean)"
    return [format_metric(report.metric, engine.score.value), time, f"{engine.bytes / 1e6:.1f}"]
