"""run_bench(): measures a bundle and other engines, and writes the reports and the bundle's summary."""

import os
import sys
import time
from collections.abc import Sequence
from dataclasses import replace
from datetime import UTC, datetime
from itertools import pairwise
from pathlib import Path
from typing import Annotated, Any

import numpy as np
from pydantic import AfterValidator, Field

from bench.engines.available import GRAPHS, Specs, engine_specs
from bench.engines.available import Inputs as Inputs  # part of this module's interface
from bench.measure.accuracy.difference import Answers, Indices
from bench.measure.engine_spec import REFERENCES, TIMEOUT, EngineSpec
from bench.measure.latency.cpu_affinity import choose_cores
from bench.measure.latency.operator_profile import operator_times
from bench.measure.latency.process_restarts import OpeningError, measure_openings, with_headline
from bench.measure.latency.request_batches import GROUPINGS, choose_rows, distinct, make_requests
from bench.measure.latency.timing import machine_card
from bench.measure.latency.worker_pool import Cell, Fleet, collect_answers, open_fleet, time_cell
from bench.report.bundle_summary import check_place, renew_report
from bench.report.cascade_report import CascadeReport, CascadeResults, cascade_report
from bench.report.engine_rows import Measured, Rows, engine_report, listed
from bench.report.findings import verdicts
from bench.report.html import to_html
from bench.report.markdown import to_markdown
from bench.report.report_schema import EngineReport, Openings, Report
from models.checkpoint import read_architecture
from models.errors import InputError
from models.schema import Record
from models.store.atomic import write_text
from models.store.folder import ModelFolder, find_folder
from models.store.units import rounded
from models.tokenizer import Row
from service.model.bundle import Bundle
from service.settings import Settings

CLASSIFIERS = ("finetune", "import")  # stages whose result is an unpruned classifier
PROFILED = 32  # texts that are profiled
WEEK = 604_800.0  # seconds
MOST = 1024  # largest batch size and number of threads: more is a typing mistake


def _in_order(values: tuple[Any, ...]) -> tuple[Any, ...]:
    """Return each value once, the smallest first (None before all), so that the order of the input has no effect."""
    return tuple(sorted(set(values), key=lambda value: -1 if value is None else value))


Count = Annotated[int, Field(ge=1, le=MOST)]
Counts = Annotated[tuple[Count, ...], Field(min_length=1), AfterValidator(_in_order)]
Lengths = Annotated[tuple[Annotated[int, Field(ge=1)] | None, ...], Field(min_length=1), AfterValidator(_in_order)]


class BenchConfig(Record):
    """What to measure. The headline is for the smallest batch size, length and number of threads."""

    against: tuple[str, ...] = Field(
        ("pytorch", "ort_fp32", "stock_int8", "tfidf"), description="engines to compare with"
    )
    batches: Counts = Field((1, 16), description="batch sizes")
    lengths: Lengths = Field((None,), description="exact length of texts in tokens; None: own lengths")
    threads: Counts = Field((1,), description="threads inside one operator")
    texts: int = Field(
        64, ge=1, description="texts that are timed; accuracy uses all rows. A 95th percentile needs 60 requests"
    )
    rounds: int = Field(7, ge=3, description="rounds of interleaved timing")
    openings: int = Field(
        8, ge=2, description="starts of fresh processes of ours and its reference, by which runs are compared"
    )
    timeout: float = Field(
        TIMEOUT,
        gt=0,
        le=WEEK,
        description="seconds in which an engine must start, and answer 256 texts; otherwise it is ended",
    )
    handicap: float = Field(0, ge=0, description="share of its time by which ours is slowed down, to test the guard")


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


def find_reference(bundle: Bundle, store: Path) -> ModelFolder:
    """Return the fine-tuned or imported classifier that the bundle was made from, from the store.

    Of a bundle that was distilled into a small encoder (`compress --student`), it is the large model.

    Raises:
        InputError: It is not in the store.
    """
    lineage = bundle.folder.manifest.lineage
    steps = [(step.stage, after.parents[0]) for step, after in pairwise(lineage) if step.stage in CLASSIFIERS]
    if not steps:
        raise InputError(f"{bundle.folder.path} has no fine-tuned model in its lineage: give --reference FOLDER")
    large = [
        (stage, step.config["baseline"]) for step in lineage if "baseline" in step.config for stage in CLASSIFIERS
    ]
    places = (store, bundle.folder.path.parent)
    path = next((path for one in large or steps[-1:] if (path := find_folder(places, *one))), None)
    if path is None:
        stage, folder_id = (large or steps)[-1]
        raise InputError(
            f"{store} has no '{stage}' folder with id {folder_id}, the model that the bundle was made from: "
            "give --reference FOLDER"
        )
    return ModelFolder.open(path)


def summary(report: Report) -> dict[str, Any]:
    """Return the result of a measured bundle: the JSON that every command prints and /info returns."""
    ours = report.engine("ours")
    result: dict[str, Any] = {"rows": report.rows, "reference": report.reference}
    result["architecture"] = report.architecture.summary()
    if ours is None:
        return result
    result["bytes"] = ours.bytes
    first, running = report.headline, [e for e in report.engines if e.status == "ok"]
    if first and ours.at(first):  # the setting of the speed-up below
        result |= first.model_dump()
        result["p50_ms"] = {e.name: rounded(t.p50_ms) for e in running if (t := e.at(first))}
        result["speedup"] = _speedups(report, ours)
        if ours.speedup_interval:
            result["speedup_interval"] = [rounded(x) for x in ours.speedup_interval]
        if result["speedup"]:
            result["speedup_of"] = "model"  # from token ids to logits
        if report.openings and report.openings.text and report.reference:
            result["text_to_answer"] = report.openings.text.summary(report.reference)
    if report.cascade:
        result["cascade"] = _cascade_summary(report, report.cascade)
    base = report.engine(report.reference) if report.reference else None
    if ours.score:
        result |= ours.score.model_dump(exclude={"rows", "pearson_interval"})
    if base and base.score:
        result[f"reference_{report.metric}"] = base.score.value
    if ours.difference:
        result["loss_is"] = report.metric
        result["loss_points"] = rounded(ours.difference.loss_points)
        result["loss_interval"] = [rounded(x) for x in ours.difference.loss_interval]
    return result


def _cascade_summary(report: Report, cascade: CascadeReport) -> dict[str, Any]:
    """Return what the last line says of a cascade; losses are against the reference."""
    row, added = report.engine("cascade"), cascade.added
    lost = None if row is None else row.difference
    return {
        "share": cascade.stages[0].share, "threshold": cascade.threshold, "bound_points": cascade.bound_points,
        "confidence": cascade.confidence, "rows": cascade.threshold_rows, "mean_ms": rounded(cascade.mean_ms),
        "p50_ms": rounded(cascade.p50_ms), "p95_ms": None if cascade.p95_ms is None else rounded(cascade.p95_ms),
        "speedup_mean": None if cascade.speedup_mean is None else rounded(cascade.speedup_mean),
        "core_seconds_per_million": rounded(cascade.core_seconds_per_million),
        "loss_points": None if lost is None else rounded(lost.loss_points),
        "loss_interval": None if lost is None else [rounded(x) for x in lost.loss_interval],
        "added_loss_points": None if added is None else rounded(added.loss_points),
    }  # fmt: skip


def _speedups(report: Report, ours: EngineReport) -> dict[str, float]:
    """Return our speed-up over each other engine: the ratio of the two speed-ups over the reference."""
    if ours.speedup is None or report.reference is None:
        return {}
    # the speed-up of a cascade is one of mean times, which cannot be divided by those of typical times
    others = {e.name: e.speedup for e in report.engines if e.speedup and e.name not in ("ours", "cascade")}
    return {name: rounded(ours.speedup / speedup) for name, speedup in {report.reference: 1.0, **others}.items()}


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


def cells(config: BenchConfig, threads: int) -> list[Cell]:
    """Return the settings to time, that of the headline first; larger batches are timed in both groupings."""
    return [
        Cell(batch, tokens, threads, grouping)
        for tokens in config.lengths
        for batch in config.batches
        for grouping in (GROUPINGS if batch > 1 else ("as received",))
    ]


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
