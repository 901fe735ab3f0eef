"""run_bench(): measures a bundle and other engines, and writes the reports and the bundle's summary."""

import os
import sys
import time
from collections.abc import Sequence
from dataclasses import replace
from datetime import UTC, datetime
from pathlib import Path
from typing import Any

import numpy as np

from bench.engines.available import GRAPHS, Inputs, Specs, engine_specs
from bench.measure.accuracy.difference import Answers, Indices
from bench.measure.engine_spec import REFERENCES, EngineSpec
from bench.measure.latency.cpu_affinity import choose_cores
from bench.measure.latency.operator_profile import operator_times
from bench.measure.latency.process_restarts import OpeningError, measure_openings, with_headline
from bench.measure.latency.request_batches import choose_rows, distinct, make_requests
from bench.measure.latency.timing import machine_card
from bench.measure.latency.worker_pool import Cell, Fleet, collect_answers, open_fleet, time_cell
from bench.report.bench_config import BenchConfig, cells
from bench.report.bundle_summary import check_place, renew_report
from bench.report.cascade_report import CascadeReport, CascadeResults, cascade_report
from bench.report.engine_rows import Measured, Rows, engine_report, listed
from bench.report.findings import verdicts
from bench.report.html import to_html
from bench.report.markdown import to_markdown
from bench.report.report_schema import Openings, Report
from bench.report.summary import summary
from models.checkpoint import read_architecture
from models.errors import InputError
from models.store.atomic import write_text
from models.tokenizer import Row
from service.model.bundle import Bundle
from service.settings import Settings

PROFILED = 32  # texts that are profiled


def run_bench(inputs: Inputs, config: BenchConfig, store: Path, out: Path) -> Report:
    """Measure, and write report.json, report.md, report.html and the report of the bundle.

    Args:
        inputs: The bundle, its reference and the texts.
        config: What to measure.
        store: Folder for the converted forms of the reference.
        out: Folder of the report.

    Raises:
        InputError: The data's labels are not the model's, an engine is unknown, a length is more than the model
            takes, or `out` cannot be written.
    """
    start, machine = time.time(), machine_card(config.threads)
    truth = _truth(inputs)
    _check_lengths(config, inputs.bundle.task.max_tokens)
    check_place(out)
    gated = ("cascade",) if inputs.bundle.gate is not None else ()
    against = tuple(dict.fromkeys(name for name in (*gated, *config.against) if name != "ours"))
    specs = engine_specs(inputs, against, store)
    measured = _measure(inputs, config, specs)
    reference = next((name for name in REFERENCES if name in measured.answers), None)
    timed = choose_rows(inputs.data, config.texts, 1)
    openings = _openings(config, timed, specs, measured, reference)
    rows = Rows(truth, _lengths(inputs.bundle, inputs.data.rows), inputs.bundle.task)
    report = Report(
        **_context(inputs),
        machine=machine,
        started=datetime.fromtimestamp(start, UTC).isoformat(timespec="seconds"),
        seconds=round(time.time() - start, 1),
        load_after=os.getloadavg()[0],
        reference=reference,
        truth=None if truth is None else listed(truth),
        texts_timed=len(timed),
        rounds=config.rounds,
        engines=tuple(
            with_headline(engine_report(name, measured, rows, reference), openings, next(iter(measured.times)))
            for name in ("ours", *against)
        ),
        openings=openings,
        cascade=_cascade(inputs, measured, truth, reference),
        verdicts=(),
    )
    report = report.model_copy(update={"verdicts": tuple(verdicts(report))})
    write_text(out / "report.json", report.model_dump_json(indent=2) + "\n")
    write_text(out / "report.md", to_markdown(report))
    write_text(out / "report.html", to_html(report))
    renew_report(inputs.bundle.folder.path, summary(report))
    return report


def _context(inputs: Inputs) -> dict[str, Any]:
    """Return the part of the report that describes the command, the models and the data."""
    pruned = [step.config for step in inputs.bundle.folder.manifest.lineage if step.stage == "prune"]
    targets = [config["value"] for config in pruned if config.get("kind") == "speedup"]
    return {
        "command": " ".join([Path(sys.argv[0]).name, *sys.argv[1:]]),
        "bundle": inputs.bundle.id,
        "architecture": inputs.bundle.architecture,
        "reference_architecture": read_architecture(inputs.reference.path),
        "labels": inputs.bundle.task.labels,
        "kind": inputs.bundle.task.kind,
        "asked_speedup": float(targets[-1]) if targets else None,
        "data": inputs.data.source,
        "data_sha256": inputs.data.sha256,
        "rows": len(inputs.data),
    }


def _truth(inputs: Inputs) -> Answers | None:
    return None if inputs.data.labels is None else inputs.data.targets(inputs.bundle.task)


def _check_lengths(config: BenchConfig, max_tokens: int) -> None:
    too_long = [n for n in config.lengths if n is not None and n > max_tokens]
    if too_long:
        raise InputError(f"--lengths has {too_long[-1]}: the model takes at most {max_tokens} tokens")


def _lengths(bundle: Bundle, rows: Sequence[Row]) -> Indices:
    """Return the number of tokens of each row, (rows,), by the bundle's own tokenizer."""
    return np.array([len(e.ids) for e in bundle.tokenizer().encode(rows)])


def _measure(inputs: Inputs, config: BenchConfig, specs: Specs) -> Measured:
    profiled = choose_rows(inputs.data, min(config.texts, PROFILED), 1)
    exporters = {name: spec.exporter for name, spec in specs.engines.items()}
    measured = Measured({}, {}, {}, {}, _operators(inputs.bundle, profiled, specs), dict(specs.problems), exporters)
    for threads in config.threads:
        usable = [s for name, s in specs.engines.items() if name not in measured.problems]
        pinned = [replace(_configured(s, config), threads=threads, cores=choose_cores(threads)) for s in usable]
        with open_fleet(pinned) as fleet:
            if threads == config.threads[0]:
                measured.answers.update(collect_answers(fleet, inputs.data.rows))
            for cell in cells(config, threads):
                requests = _requests(inputs, config, cell)
                measured.requests[cell] = distinct(requests)
                measured.times[cell] = time_cell(fleet, requests, cell, config.rounds)
            _note_processes(fleet, measured)
    return measured


def _requests(inputs: Inputs, config: BenchConfig, cell: Cell) -> list[list[list[Row]]]:
    rows = choose_rows(inputs.data, config.texts, cell.batch)
    lengths = [cell.tokens] * len(rows) if cell.tokens else _lengths(inputs.bundle, rows).tolist()
    return make_requests(rows, lengths, cell.batch, cell.grouping, Settings().rules())


def _openings(
    config: BenchConfig, timed: Sequence[Row], specs: Specs, measured: Measured, reference: str | None
) -> Openings | None:
    if reference is None or {reference, "ours"} & measured.problems.keys():
        return None
    base, ours = (
        replace(_configured(specs.engines[name], config), threads=config.threads[0]) for name in (reference, "ours")
    )
    try:
        return measure_openings(base, ours, timed, config.openings)
    except OpeningError as error:
        measured.problems[error.engine] = ("failed", str(error))
        return None


def _cascade(
    inputs: Inputs, measured: Measured, truth: Answers | None, reference: str | None
) -> CascadeReport | None:
    """Return the report of the cascade in the setting of the headline; None if there is none, or an engine failed."""
    gate = inputs.bundle.gate
    if gate is None or {"ours", "cascade"} & measured.problems.keys():
        return None
    cell, times = next(iter(measured.times.items()))
    return cascade_report(CascadeResults(
        gate=gate, encoded=inputs.bundle.tokenizer().encode(inputs.data.rows), task=inputs.bundle.task, truth=truth,
        student=measured.answers["ours"], seconds=times.seconds, requests=measured.requests[cell],
        reference=reference,
    ))  # fmt: skip


def _configured(spec: EngineSpec, config: BenchConfig) -> EngineSpec:
    return replace(spec, timeout=config.timeout, handicap=config.handicap if spec.name == "ours" else 0.0)


def _operators(bundle: Bundle, timed: Sequence[Row], specs: Specs) -> dict[str, dict[str, float]]:
    """Profile the engines that are ONNX graphs; return milliseconds by operator for each."""
    tokenizer = bundle.tokenizer()
    batches = [tokenizer.batch([row]) for row in timed]
    files = {"ours": bundle.onnx_path(bundle.info.default["cpu"])}
    files |= {name: s.folder / s.file for name, s in specs.engines.items() if name in GRAPHS}
    return {name: operator_times(path, batches) for name, path in files.items()}


def _note_processes(fleet: Fleet, measured: Measured) -> None:
    """Add the start-up time, size and peak memory of the running engines, and the errors of the others."""
    for name, worker in fleet.running.items():
        measured.opened.setdefault(name, {**worker.opened, "peak_bytes": worker.peak_bytes()})
    for name, message in fleet.problems.items():
        measured.problems[name] = ("failed", message)
