"""figures(): the report's figures as SVG, whose colours follow the page (light, dark or printed).

draw_svg() draws any other figure in the same style.
"""

import io
import re
import warnings
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from html import escape
from typing import Any

import matplotlib as mpl
from matplotlib.axes import Axes
from matplotlib.axis import Axis
from matplotlib.figure import Figure
from matplotlib.ticker import FuncFormatter, LogLocator, NullFormatter

from bench.measure.accuracy.correlation import NumberScore
from bench.measure.accuracy.task_metric import NAMES, AnyScore
from bench.report.escape import plain
from bench.report.report_schema import PERCENTS, EngineReport, Report

INK, GRID = "#010203", "#040506"  # placeholders that _svg() replaces by the colours of the page
SIZE = (5.2, 3.4)  # inches
COLORS = {
    "ours": "#d6453d", "cascade": "#7d1f3f", "ort_fp32": "#3d7dd6", "pytorch": "#e08a1e", "stock_int8": "#2f9e6e",
    "tfidf": "#8a63d2",
    "openvino": "#0f9fb5", "ctranslate2": "#b5577f", "torch_compile": "#9a8430",
}  # fmt: skip
STYLE = {
    "text.parse_math": False,  # labels are plain text: "$1-$5" is not a formula
    "svg.fonttype": "none", "svg.hashsalt": "prunella", "font.size": 9, "axes.edgecolor": INK, "axes.labelcolor": INK,
    "text.color": INK, "xtick.color": INK, "ytick.color": INK, "grid.color": GRID, "axes.grid": True,
    "axes.spines.top": False, "axes.spines.right": False, "axes.axisbelow": True, "legend.frameon": False,
}  # fmt: skip


def figures(report: Report) -> list[tuple[str, str]]:
    """Return (caption, svg) of each figure that the report has numbers for."""
    metric = NAMES[report.metric].capitalize()
    setting = report.headline.words() if report.headline else ""
    drawers: list[tuple[str, Callable[[Axes, Report], bool]]] = [
        (f"{metric} against latency, {setting}: up and to the left is better. Bars: 95 % intervals.", _pareto),
        ("Latency per text by batch size, in batches of similar length.", _batches),
        ("Latency against length, one text at a time.", _lengths),
        (f"Distribution of the latency of a request: percentiles, {setting}.", _percentiles),
        ("Time by operator (ONNX Runtime's profiler, one thread).", _operators),
        ("Heads and FFN neurons that remain after pruning, by layer.", _widths),
        ("F1 by class: reference and ours.", _classes),
        ("Calibration: on the diagonal, a score of 0.8 is right eight times in ten.", _reliability),
    ]
    drawn = []
    for caption, draw in drawers:
        with _style():
            figure = Figure(figsize=SIZE, layout="constrained")
            if draw(figure.add_subplot(), report):
                drawn.append((caption, _svg(figure, caption)))
    return drawn


def draw_svg(caption: str, draw: Callable[[Axes], None]) -> str:
    """Return a figure as SVG for a page that sets the CSS variables `--ink` and `--grid`.

    Args:
        caption: what the figure shows; a screen reader reads it.
        draw: draws into the axes; its legend goes below the plot, if its lines or bars have labels.
    """
    with _style():
        figure = Figure(figsize=SIZE, layout="constrained")
        axes = figure.add_subplot()
        draw(axes)
        _legend(axes)
        return _svg(figure, escape(caption))


@contextmanager
def _style() -> Iterator[None]:
    with mpl.rc_context(STYLE), warnings.catch_warnings():
        warnings.filterwarnings("ignore", "Glyph .* missing")  # the browser draws the text with its own fonts
        yield


def _svg(figure: Figure, caption: str) -> str:
    buffer = io.StringIO()
    figure.savefig(buffer, format="svg", transparent=True, metadata={"Date": None, "Creator": None})
    text = buffer.getvalue()
    text = text[text.index("<svg") :]
    text = re.sub(r"<metadata>.*?</metadata>", "", text, flags=re.DOTALL)
    opening = rf'<svg viewBox="\1" role="img" aria-label="{caption}">'  # drop the fixed width and height
    text = re.sub(r'<svg [^>]*?viewBox="([^"]+)"[^>]*>', opening, text)
    # replace within tags only: a label may look like a colour
    return re.sub("<[^>]*>", lambda tag: tag[0].replace(INK, "var(--ink)").replace(GRID, "var(--grid)"), text)


def _running(report: Report) -> list[EngineReport]:
    return [e for e in report.engines if e.status == "ok"]


def _named(engine: EngineReport) -> dict[str, Any]:
    return {"color": COLORS[engine.name], "label": engine.name}


def _legend(axes: Axes, widest: int = 5, size: float = 8) -> None:
    """Draw the legend below the plot, in rows of equal length with at most `widest` names."""
    handles, labels = axes.get_legend_handles_labels()
    if not handles:
        return
    rows = -(-len(labels) // widest)
    columns = -(-len(labels) // rows)
    axes.figure.legend(handles, labels, loc="outside lower center", ncols=columns, fontsize=size)


def _plain_numbers(axis: Axis) -> None:
    """Label a log axis with 1, 2, 5, 10 … instead of powers of ten."""
    axis.set_major_locator(LogLocator(subs=(1, 2, 5)))
    axis.set_major_formatter(FuncFormatter(lambda value, _: f"{value:g}"))
    axis.set_minor_formatter(NullFormatter())


def _pareto(axes: Axes, report: Report) -> bool:
    for engine in _running(report):
        timing, score = engine.at(report.headline), engine.score
        if timing is None or score is None:
            continue
        if engine.name == "cascade" and report.cascade is not None:  # its median is the gate's time alone
            axes.errorbar(
                report.cascade.mean_ms, score.value * 100, yerr=_bars(score), fmt="D", color=COLORS[engine.name],
                capsize=2, label="cascade (mean)",
            )  # fmt: skip
            continue
        low, high = timing.p50_interval
        axes.errorbar(
            timing.p50_ms, score.value * 100, yerr=_bars(score),
            xerr=[[max(0, timing.p50_ms - low)], [max(0, high - timing.p50_ms)]],
            fmt="o", color=COLORS[engine.name], capsize=2, label=engine.name,
        )  # fmt: skip
    time = "p50, ms (log)" if report.cascade is None else "p50, of the cascade the mean, ms (log)"
    axes.set(xscale="log", xlabel=time, ylabel=f"{NAMES[report.metric]}, hundredths")
    _plain_numbers(axes.xaxis)
    _legend(axes)
    return bool(axes.containers)


def _bars(score: AnyScore) -> list[list[float]]:
    """Return the lengths of the 95 % error bar below and above the score, in hundredths.

    Of a share of rows it is Wilson's interval, which has a width also where all rows are right.
    """
    from scipy.stats import binomtest

    if isinstance(score, NumberScore):
        low, high = score.pearson_interval
        return [[max(0.0, 100 * (score.pearson - low))], [max(0.0, 100 * (high - score.pearson))]]
    interval = binomtest(round(score.value * score.rows), score.rows).proportion_ci(method="wilson")
    return [[100 * (score.value - interval.low)], [100 * (interval.high - score.value)]]


def _batches(axes: Axes, report: Report) -> bool:
    for engine in _running(report):
        shown = [t for s in report.shown if (t := engine.at(s))]
        by_length = [t for t in shown if t.batch == 1 or t.grouping != "as received"]
        axes.plot([t.batch for t in by_length], [t.p50_ms / t.batch for t in by_length], "o-", **_named(engine))
    axes.set(xscale="log", yscale="log", xlabel="batch size (log)", ylabel="p50, ms per text (log)")
    _plain_numbers(axes.yaxis)
    _plain_numbers(axes.xaxis)
    _legend(axes)
    return len({s.batch for s in report.shown}) > 1


def _lengths(axes: Axes, report: Report) -> bool:
    for engine in _running(report):
        timings = [t for t in engine.timings if t.tokens and t.batch == 1 and t.threads == engine.timings[0].threads]
        if timings:
            axes.plot([t.tokens or 0 for t in timings], [t.p50_ms for t in timings], "o-", **_named(engine))
    axes.set(xlabel="tokens", ylabel="p50, ms")
    _legend(axes)
    return bool(axes.lines)


def _percentiles(axes: Axes, report: Report) -> bool:
    for engine in _running(report):
        if timing := engine.at(report.headline):
            points = [(ms, p) for ms, p in zip(timing.percentiles_ms, PERCENTS, strict=True) if ms is not None]
            axes.plot([ms for ms, _ in points], [p for _, p in points], ".-", **_named(engine))
    axes.set(xscale="log", xlabel="ms (log)", ylabel="percentile")
    _plain_numbers(axes.xaxis)
    _legend(axes)
    return bool(axes.lines)


def _operators(axes: Axes, report: Report) -> bool:
    profiled = [e for e in _running(report) if e.operators_ms]
    names: list[str] = []
    for engine in profiled:
        names += [n for n in list(engine.operators_ms or {})[:6] if n not in names]
    shades = mpl.colormaps["tab20"]
    for row, engine in enumerate(profiled):
        times, left = dict(engine.operators_ms or {}), 0.0
        parts = [(n, times.pop(n, 0.0)) for n in names] + [("other", sum(times.values()))]
        for index, (name, value) in enumerate(parts):
            label = plain(name).lstrip("_")  # matplotlib leaves labels with a leading _ out of the legend
            axes.barh(row, value, left=left, color=shades(index % 20), label=label if row == 0 else None)
            left += value
    axes.set_yticks(range(len(profiled)), [e.name for e in profiled])
    axes.set_xlabel("ms per text")
    _legend(axes, widest=3, size=6.5)
    return bool(profiled)


def _widths(axes: Axes, report: Report) -> bool:
    before, after = report.reference_architecture.layers, report.architecture.layers
    if len(before) != len(after):
        return False
    layers = range(len(before))
    heads = [a.heads / b.heads * 100 for a, b in zip(after, before, strict=True)]
    neurons = [a.ffn / b.ffn * 100 for a, b in zip(after, before, strict=True)]
    axes.bar([i - 0.2 for i in layers], heads, 0.38, color=COLORS["ort_fp32"], label="heads")
    axes.bar([i + 0.2 for i in layers], neurons, 0.38, color=COLORS["pytorch"], label="FFN neurons")
    for i, layer in zip(layers, after, strict=True):
        axes.text(i - 0.2, heads[i] + 1, str(layer.heads), ha="center", fontsize=7)
        axes.text(i + 0.2, neurons[i] + 1, str(layer.ffn), ha="center", fontsize=7)
    axes.set(xlabel="layer", ylabel="% that remains", ylim=(0, 108))
    axes.set_xticks(list(layers), [str(i + 1) for i in layers])
    _legend(axes)
    return True


def _classes(axes: Axes, report: Report) -> bool:
    base = report.engine(report.reference) if report.reference else None
    pair = [e for e in (base, report.engine("ours")) if e and e.quality]
    if len(report.labels) > 30:  # too many bars to read; report.json has them all
        return False
    for shift, engine in zip((-0.2, 0.2), pair, strict=False):
        assert engine.quality is not None
        bars = [(i, f * 100) for i, f in enumerate(engine.quality.class_f1) if f is not None]
        axes.barh([i + shift for i, _ in bars], [f for _, f in bars], 0.38, **_named(engine))
    axes.set_yticks(range(len(report.labels)), [plain(label, 28) for label in report.labels])
    axes.set_xlabel("F1, %")
    _legend(axes)
    return bool(pair)


def _reliability(axes: Axes, report: Report) -> bool:
    axes.plot([0, 1], [0, 1], "--", color=GRID)
    shown = [e for e in _running(report) if e.quality and e.name in ("ours", report.reference)]
    for engine in shown:
        bins = engine.quality.reliability if engine.quality else ()
        axes.plot([b.confidence for b in bins], [b.accuracy for b in bins], "o-", **_named(engine))
    axes.set(xlabel="highest score", ylabel="accuracy", xlim=(0, 1.02), ylim=(0, 1.02))
    _legend(axes)
    return bool(shown)
