"""run_bench(): a bundle, the model it came from and texts → report.json and report.md, and the bundle's summary."""

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

from bench.accuracy import Answers, Indices
from bench.bundle_report import check_place, renew_report
from bench.cores import choose_cores
from bench.engines import REFERENCES, TIMEOUT, EngineSpec
from bench.html import to_html
from bench.markdown import to_markdown
from bench.measure import Cell, Fleet, ask, open_fleet, time_cell
from bench.openings import OpeningError, measure_openings, with_headline
from bench.operators import operator_times
from bench.records import EngineReport, Openings, Report
from bench.requests import GROUPINGS, choose_rows, distinct, make_requests
from bench.rows import Measured, Rows, engine_report, listed
from bench.specs import GRAPHS, Specs, engine_specs
from bench.specs import Inputs as Inputs  # part of this module's interface
from bench.timing import machine_card
from bench.verdicts import verdicts
from models.atomic import write_text
from models.checkpoint import read_architecture
from models.errors import InputError
from models.folder import ModelFolder, find_folder
from models.record import Record
from models.tokens import Row
from service.bundle import Bundle
from service.settings import Settings

CLASSIFIERS = ("finetune", "import")  # the stages that give a classifier which nothing was cut off yet


PROFILED = 32  # texts
WEEK = 604_800.0  # seconds
MOST = 1024  # texts at once, and threads: more is a slip of the keyboard


def _in_order(values: tuple[Any, ...]) -> tuple[Any, ...]:
    """Return each value once, the smallest first; what is given first has no other meaning than what is last."""
    return tuple(sorted(set(values), key=lambda value: -1 if value is None else value))


Count = Annotated[int, Field(ge=1, le=MOST)]
Counts = Annotated[tuple[Count, ...], Field(min_length=1), AfterValidator(_in_order)]
Lengths = Annotated[tuple[Annotated[int, Field(ge=1)] | None, ...], Field(min_length=1), AfterValidator(_in_order)]


class BenchConfig(Record):
    """What is measured. The headline is of the first batch, length and threads, which are the smallest given."""

    against: tuple[str, ...] = Field(
        ("pytorch", "ort_fp32", "stock_int8", "tfidf"), description="engines beside ours"
    )
    batches: Counts = Field((1, 16), description="texts at once")
    lengths: Lengths = Field((None,), description="exact tokens; None: texts at their own lengths")
    threads: Counts = Field((1,), description="threads inside one operator")
    texts: int = Field(
        64, ge=1, description="texts that are timed; accuracy takes all. A 95th percentile takes 60 requests"
    )
    rounds: int = Field(7, ge=3, description="rounds of interleaved timing")
    openings: int = Field(
        8, ge=2, description="fresh processes of ours and its reference, which runs are compared by"
    )
    timeout: float = Field(
        TIMEOUT,
        gt=0,
        le=WEEK,
        description="seconds in which an engine must start, and answer 256 texts; else it is ended",
    )
    handicap: float = Field(0, ge=0, description="share of its time by which ours is slowed: to try the guard")


def run_bench(inputs: Inputs, config: BenchConfig, store: Path, out: Path) -> Report:
    """Measure; write report.json, report.md and report.html into `out`, and a summary into the bundle's report.json.

    Raises:
        InputError: the data's labels are not the model's, an engine is unknown, a length is more than the model
            takes, or `out` cannot be written.
    """
    begun, machine = time.time(), machine_card(config.threads)
    truth = _truth(inputs)
    _check_lengths(config, inputs.bundle.task.max_tokens)
    check_place(out)
    against = tuple(dict.fromkeys(name for name in config.against if name != "ours"))
    specs = engine_specs(inputs, against, store)
    measured = _measure(inputs, config, specs)
    reference = next((name for name in REFERENCES if name in measured.answers), None)
    timed = choose_rows(inputs.data, config.texts, 1)
    openings = _openings(config, timed, specs, measured, reference)
    rows = Rows(truth, _lengths(inputs.bundle, inputs.data.rows), inputs.bundle.task)
    report = Report(
        **_context(inputs),
        machine=machine,
        started=datetime.fromtimestamp(begun, UTC).isoformat(timespec="seconds"),
        seconds=round(time.time() - begun, 1),
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
        verdicts=(),
    )
    report = report.model_copy(update={"verdicts": tuple(verdicts(report))})
    write_text(out / "report.json", report.model_dump_json(indent=2) + "\n")
    write_text(out / "report.md", to_markdown(report))
    write_text(out / "report.html", to_html(report))
    renew_report(inputs.bundle.folder.path, summary(report))
    return report


def find_reference(bundle: Bundle, store: Path) -> ModelFolder:
    """Return the fine-tuned or imported classifier that the bundle came from, out of the store.

    Raises:
        InputError: it is not there.
    """
    lineage = bundle.folder.manifest.lineage
    steps = [(step.stage, after.parents[0]) for step, after in pairwise(lineage) if step.stage in CLASSIFIERS]
    if not steps:
        raise InputError(f"{bundle.folder.path} has no fine-tuned model in its lineage: give --reference FOLDER")
    stage, folder_id = steps[-1]
    found = find_folder((store, bundle.folder.path.parent), stage, folder_id)
    if found is None:
        raise InputError(
            f"{store} has no '{stage}' folder with id {folder_id}, the model that the bundle came from: "
            "give --reference FOLDER"
        )
    return ModelFolder.open(found)


def summary(report: Report) -> dict[str, Any]:
    """Return the keys that every verb prints for a measured bundle, and that /info shows."""
    ours = report.engine("ours")
    told: dict[str, Any] = {"rows": report.rows, "reference": report.reference}
    told["architecture"] = report.architecture.summary()
    if ours is None:
        return told
    told["bytes"] = ours.bytes
    first, running = report.headline, [e for e in report.engines if e.status == "ok"]
    if first and ours.at(first):  # what the speed below is of
        told |= first.model_dump()
        told["p50_ms"] = {e.name: _rounded(t.p50_ms) for e in running if (t := e.at(first))}
        told["speedup"] = _speedups(report, ours)
        if ours.speedup_interval:
            told["speedup_interval"] = [_rounded(x) for x in ours.speedup_interval]
    base = report.engine(report.reference) if report.reference else None
    if ours.score:
        told |= ours.score.model_dump(exclude={"rows", "pearson_interval"})
    if base and base.score:
        told[f"reference_{report.metric}"] = base.score.value
    if ours.difference:
        told["loss_is"] = report.metric
        told["loss_points"] = _rounded(ours.difference.loss_points)
        told["loss_interval"] = [_rounded(x) for x in ours.difference.loss_interval]
    return told


def _speedups(report: Report, ours: EngineReport) -> dict[str, float]:
    """Return how many times as fast as each other engine ours is: over the reference, and over it by theirs."""
    if ours.speedup is None or report.reference is None:
        return {}
    theirs = {e.name: e.speedup for e in report.engines if e.speedup and e.name != "ours"}
    return {name: _rounded(ours.speedup / one) for name, one in {report.reference: 1.0, **theirs}.items()}


def _context(inputs: Inputs) -> dict[str, Any]:
    """Return what a reader must know before the numbers: command, models and data."""
    pruned = [step.config for step in inputs.bundle.folder.manifest.lineage if step.stage == "prune"]
    asked = [config["value"] for config in pruned if config.get("kind") == "speedup"]
    return {
        "command": " ".join([Path(sys.argv[0]).name, *sys.argv[1:]]),
        "bundle": inputs.bundle.id,
        "architecture": inputs.bundle.architecture,
        "reference_architecture": read_architecture(inputs.reference.path),
        "labels": inputs.bundle.task.labels,
        "kind": inputs.bundle.task.kind,
        "asked_speedup": float(asked[-1]) if asked else None,
        "data": inputs.data.source,
        "data_sha256": inputs.data.sha256,
        "rows": len(inputs.data),
    }


def _rounded(value: float) -> float:
    return float(f"{value:.4g}")


def _truth(inputs: Inputs) -> Answers | None:
    return None if inputs.data.labels is None else inputs.data.targets(inputs.bundle.task)


def _check_lengths(config: BenchConfig, most: int) -> None:
    long = [n for n in config.lengths if n is not None and n > most]
    if long:
        raise InputError(f"--lengths has {long[-1]}: wanted at most {most} tokens, the longest that the model takes")


def _lengths(bundle: Bundle, rows: Sequence[Row]) -> Indices:
    """Return the tokens of each row, (rows,), as the bundle's own tokenizer counts them."""
    return np.array([len(e.ids) for e in bundle.tokenizer().encode(rows)])


def _measure(inputs: Inputs, config: BenchConfig, specs: Specs) -> Measured:
    profiled = choose_rows(inputs.data, min(config.texts, PROFILED), 1)
    measured = Measured({}, {}, {}, {}, _operators(inputs.bundle, profiled, specs), dict(specs.problems))
    for threads in config.threads:
        found = [s for name, s in specs.found.items() if name not in measured.problems]
        placed = [replace(_set(s, config), threads=threads, cores=choose_cores(threads)) for s in found]
        with open_fleet(placed) as fleet:
            if threads == config.threads[0]:
                measured.answers.update(ask(fleet, inputs.data.rows))
            for cell in cells(config, threads):
                requests = _requests(inputs, config, cell)
                measured.requests[cell] = distinct(requests)
                measured.times[cell] = time_cell(fleet, requests, cell, config.rounds)
            _note(fleet, measured)
    return measured


def cells(config: BenchConfig, threads: int) -> list[Cell]:
    """Return the settings to time: the headline's first; several texts are answered in both groupings."""
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
    base, ours = (replace(_set(specs.found[n], config), threads=config.threads[0]) for n in (reference, "ours"))
    try:
        return measure_openings(base, ours, timed, config.openings)
    except OpeningError as error:
        measured.problems[error.engine] = ("failed", str(error))
        return None


def _set(spec: EngineSpec, config: BenchConfig) -> EngineSpec:
    return replace(spec, timeout=config.timeout, handicap=config.handicap if spec.name == "ours" else 0.0)


def _operators(bundle: Bundle, timed: Sequence[Row], specs: Specs) -> dict[str, dict[str, float]]:
    """Profile the graphs that ONNX Runtime runs."""
    tokenizer = bundle.tokenizer()
    batches = [tokenizer.batch([row]) for row in timed]
    files = {"ours": bundle.onnx_path(bundle.info.default["cpu"])}
    files |= {name: s.folder / s.file for name, s in specs.found.items() if name in GRAPHS}
    return {name: operator_times(path, batches) for name, path in files.items()}


def _note(fleet: Fleet, measured: Measured) -> None:
    for name, worker in fleet.running.items():
        measured.opened.setdefault(name, {**worker.opened, "peak_bytes": worker.peak_bytes()})
    for name, told in fleet.problems.items():
        measured.problems[name] = ("failed", told)
