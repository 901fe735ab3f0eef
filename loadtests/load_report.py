"""write_report(): report.json of a load test, and report.html with latency, throughput and queue length over time."""

import io
import json
import os
import platform
import re
import sys
from dataclasses import asdict
from itertools import pairwise
from pathlib import Path
from typing import Any

from loadtests.phase import PhaseResult

INK, GRID = "#010203", "#040506"  # placeholders that _svg() replaces by the CSS variables of the page
COLORS = ("#d6453d", "#3d7dd6", "#2f9e6e", "#e08a1e", "#8a63d2", "#0f9fb5")


def machine() -> dict[str, Any]:
    """Return the properties of the machine on which the clients ran that affect the results."""
    cpuinfo = Path("/proc/cpuinfo").read_text(encoding="ascii", errors="ignore") if os.name == "posix" else ""
    name = re.search(r"^model name\s*: (.+)$", cpuinfo, re.MULTILINE)
    return {
        "processor": name.group(1) if name else platform.machine(),
        "cores": os.cpu_count(),
        "client_cores": len(os.sched_getaffinity(0)),
        "load_average": os.getloadavg()[0],
        "python": platform.python_version(),
    }


def write_report(out: Path, summary: dict[str, Any], results: list[PhaseResult]) -> None:
    """Write report.json and report.html into the folder `out`; report.html needs jinja2 and matplotlib."""
    record = {
        "command": " ".join(["prunella loadtest", *sys.argv[1:]]),
        "machine": machine(),
        "summary": summary,
        "phases": [asdict(result) for result in results],
    }
    (out / "report.json").write_text(json.dumps(record, indent=2) + "\n", encoding="utf-8")
    from jinja2 import Environment, FileSystemLoader, StrictUndefined

    environment = Environment(
        loader=FileSystemLoader(Path(__file__).parent), autoescape=True, undefined=StrictUndefined, trim_blocks=True,
        lstrip_blocks=True,
    )  # fmt: skip
    page = environment.get_template("report.html.j2").render(record=record, figures=_figures(results))
    (out / "report.html").write_text(page, encoding="utf-8")


def _figures(results: list[PhaseResult]) -> list[tuple[str, str]]:
    """Return (caption, svg) of each figure; phases follow one another on the time axis, each server has a colour."""
    figures = [
        (
            "Latency over time, from when a request was due: p50 (thin) and p99.",
            _plot(results, ("p50_ms", "p99_ms"), "ms"),
        ),
        ("Answers per second.", _plot(results, ("good",), "requests/s")),
    ]
    if any(row["shed"] or row["failed"] for result in results for row in result.by_second):
        figures.append(
            ("Refused (thin) and failed requests per second.", _plot(results, ("shed", "failed"), "requests/s"))
        )
    for key, caption in (("queue_depth", "Texts in the queue."), ("memory_bytes", "Memory of the server process.")):
        if any(key in sample for result in results for sample in result.metrics):
            figures.append((caption, _plot_metrics(results, key)))
    if any("batches" in sample for result in results for sample in result.metrics):
        figures.append(("Texts per batch, mean of each second.", _plot_metrics(results, "batch_texts", "batches")))
    return figures


def _axes(unit: str) -> tuple[Any, Any]:
    import matplotlib as mpl
    from matplotlib.figure import Figure

    mpl.rcParams.update({
        "svg.fonttype": "none", "svg.hashsalt": "prunella", "font.size": 9, "axes.edgecolor": INK,
        "axes.labelcolor": INK, "text.color": INK, "xtick.color": INK, "ytick.color": INK, "grid.color": GRID,
        "axes.grid": True, "axes.spines.top": False, "axes.spines.right": False, "legend.frameon": False,
    })  # fmt: skip
    figure = Figure(figsize=(5.2, 3.0), layout="constrained")
    axes = figure.add_subplot()
    axes.set(xlabel="seconds of load", ylabel=unit)
    return figure, axes


def _plot(results: list[PhaseResult], keys: tuple[str, ...], unit: str) -> str:
    figure, axes = _axes(unit)
    colors = _colors(results)
    offsets = dict.fromkeys(colors, 0.0)
    for result in results:
        seconds = [offsets[result.target] + row["second"] for row in result.by_second]
        for key, width in zip(keys, (0.8, 1.6) if len(keys) == 2 else (1.6,), strict=True):
            label = result.target if key == keys[-1] and not offsets[result.target] else None
            values = [float("nan") if row[key] is None else row[key] for row in result.by_second]
            axes.plot(seconds, values, color=colors[result.target], linewidth=width, label=label)
        offsets[result.target] += result.phase.seconds
    axes.set_ylim(bottom=0)
    axes.legend(fontsize=8)
    return _svg(figure)


def _plot_metrics(results: list[PhaseResult], key: str, over: str | None = None) -> str:
    """Plot a metric; with `over`, the increase of `key` per increase of `over` from sample to sample."""
    figure, axes = _axes("")
    colors = _colors(results)
    offsets = dict.fromkeys(colors, 0.0)
    for result in results:
        samples = [s for s in result.metrics if key in s and (over is None or over in s)]
        if over is not None:
            pairs = list(pairwise(samples))
            points = [(b["second"], (b[key] - a[key]) / (b[over] - a[over])) for a, b in pairs if b[over] > a[over]]
        else:
            points = [(s["second"], s[key]) for s in samples]
        seconds = [offsets[result.target] + second for second, _ in points]
        axes.plot(seconds, [value for _, value in points], color=colors[result.target])
        offsets[result.target] += result.phase.seconds
    axes.set_ylim(bottom=0)
    return _svg(figure)


def _colors(results: list[PhaseResult]) -> dict[str, str]:
    names = list(dict.fromkeys(result.target for result in results))
    return {name: COLORS[i % len(COLORS)] for i, name in enumerate(names)}


def _svg(figure: Any) -> str:
    buffer = io.StringIO()
    figure.savefig(buffer, format="svg", transparent=True, metadata={"Date": None, "Creator": None})
    text = buffer.getvalue()
    text = text[text.index("<svg") :]
    text = re.sub(r"<metadata>.*?</metadata>", "", text, flags=re.DOTALL)
    text = re.sub(r'<svg [^>]*?viewBox="([^"]+)"[^>]*>', r'<svg viewBox="\1" role="img">', text)
    return text.replace(INK, "var(--ink)").replace(GRID, "var(--grid)")
