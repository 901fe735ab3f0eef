"""run_bench(): a bundle, the model it came from and texts → report.json and report.md, and the bundle's summary."""

import json
import os
import sys
import time
from collections.abc import Sequence
from dataclasses import dataclass, replace
from datetime import UTC, datetime
from itertools import pairwise
from pathlib import Path
from typing import Any

import numpy as np
from pydantic import Field

from bench.accuracy import Answers
from bench.cores import choose_cores
from bench.engines import REFERENCES, EngineSpec
from bench.html import to_html
from bench.markdown import to_markdown
from bench.measure import Cell, Fleet, ask, open_fleet, time_cell
from bench.openings import OpeningError, measure_openings, with_headline
from bench.operators import operator_times
from bench.records import EngineReport, Openings, Report
from bench.rows import Measured, Rows, engine_report, listed
from bench.specs import GRAPHS, Specs, engine_specs
from bench.timing import machine_card
from bench.verdicts import verdicts
from models.atomic import write_text
from models.checkpoint import read_architecture
from models.data.texts import Texts
from models.errors import InputError
from models.folder import REPORT, ModelFolder, find_folder
from models.record import Record
from models.tokens import Row
from service.bundle import Bundle

CLASSIFIERS = ("finetune", "import")  # the stages that give a classifier which nothing was cut off yet


class BenchConfig(Record):
    """What is measured."""

    against: tuple[str, ...] = Field(
        ("pytorch", "ort_fp32", "stock_int8", "tfidf"), description="engines beside ours"
    )
    batches: tuple[int, ...] = Field((1, 16), description="texts at once")
    lengths: tuple[int | None, ...] = Field((None,), description="exact tokens; None: texts at their own lengths")
    threads: tuple[int, ...] = Field((1,), description="threads inside one operator")
    texts: int = Field(64, ge=1, description="texts that are timed; accuracy takes all")
    rounds: int = Field(7, ge=3, description="rounds of interleaved timing")
    openings: int = Field(
        8, ge=2, description="fresh processes of ours and its reference, which runs are compared by"
    )
    handicap: float = Field(0, ge=0, description="share of its time by which ours is slowed: to try the guard")


@dataclass(frozen=True, slots=True)
class Inputs:
    """What is compared, and on what."""

    bundle: Bundle
    reference: ModelFolder  # the fine-tuned classifier that the bundle came from
    data: Texts
    train: Texts | None  # for tfidf


def run_bench(inputs: Inputs, config: BenchConfig, store: Path, out: Path) -> Report:
    """Measure; write report.json, report.md and report.html into `out`, and a summary into the bundle's report.json.

    Raises:
        InputError: the data's labels are not the model's, or an engine is unknown.
    """
    begun, machine = time.time(), machine_card(config.threads)
    truth = _truth(inputs)
    timed = _chosen(inputs.data, config)
    specs = engine_specs(inputs.bundle, inputs.reference, inputs.train, config.against, store)
    measured = _measure(inputs, config, timed, specs)
    reference = next((name for name in REFERENCES if name in measured.answers), None)
    openings = _openings(config, timed, specs, measured, reference)
    lengths = np.array([len(e.ids) for e in inputs.bundle.tokenizer().encode(inputs.data.rows)])
    rows = Rows(truth, lengths, inputs.bundle.task)
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
            with_headline(engine_report(name, measured, rows, reference), openings)
            for name in ("ours", *config.against)
        ),
        openings=openings,
        verdicts=(),
    )
    report = report.model_copy(update={"verdicts": tuple(verdicts(report))})
    out.mkdir(parents=True, exist_ok=True)
    write_text(out / "report.json", report.model_dump_json(indent=2) + "\n")
    write_text(out / "report.md", to_markdown(report))
    write_text(out / "report.html", to_html(report))
    write_text(inputs.bundle.folder.path / REPORT, json.dumps(summary(report), indent=2) + "\n")
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
    running = [e for e in report.engines if e.status == "ok"]
    told["p50_ms"] = {e.name: _rounded(t.p50_ms) for e in running if (t := e.timing(1))}
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


def _chosen(data: Texts, config: BenchConfig) -> list[Row]:
    """Return the texts that are timed: seeded, a whole number of every batch."""
    count = min(config.texts, len(data))
    order = np.random.default_rng(0).permutation(len(data))[:count]
    rows = [data.rows[i] for i in order]
    return rows * -(-max(config.batches) // count)  # fewer texts than a batch: they come again


def _measure(inputs: Inputs, config: BenchConfig, timed: Sequence[Row], specs: Specs) -> Measured:
    measured = Measured({}, {}, {}, _operators(inputs.bundle, timed, specs), dict(specs.problems))
    for threads in config.threads:
        found = [s for name, s in specs.found.items() if name not in measured.problems]
        placed = [replace(_slowed(s, config), threads=threads, cores=choose_cores(threads)) for s in found]
        with open_fleet(placed) as fleet:
            if threads == config.threads[0]:
                measured.answers.update(ask(fleet, inputs.data.rows))
            for tokens in config.lengths:
                for batch in config.batches:
                    cell = Cell(batch, tokens, threads)
                    measured.seconds[cell] = time_cell(fleet, timed, cell, config.rounds)
            _note(fleet, measured)
    return measured


def _openings(
    config: BenchConfig, timed: Sequence[Row], specs: Specs, measured: Measured, reference: str | None
) -> Openings | None:
    if reference is None or {reference, "ours"} & measured.problems.keys():
        return None
    base, ours = (replace(_slowed(specs.found[n], config), threads=config.threads[0]) for n in (reference, "ours"))
    try:
        return measure_openings(base, ours, timed[: config.texts], config.openings)
    except OpeningError as error:
        measured.problems[error.engine] = ("failed", str(error))
        return None


def _slowed(spec: EngineSpec, config: BenchConfig) -> EngineSpec:
    return replace(spec, handicap=config.handicap) if spec.name == "ours" else spec


def _operators(bundle: Bundle, timed: Sequence[Row], specs: Specs) -> dict[str, dict[str, float]]:
    """Profile the graphs that ONNX Runtime runs."""
    tokenizer = bundle.tokenizer()
    batches = [tokenizer.batch([row]) for row in timed[:32]]
    files = {"ours": bundle.onnx_path(bundle.info.default["cpu"])}
    files |= {name: s.folder / s.file for name, s in specs.found.items() if name in GRAPHS}
    return {name: operator_times(path, batches) for name, path in files.items()}


def _note(fleet: Fleet, measured: Measured) -> None:
    for name, worker in fleet.running.items():
        measured.opened.setdefault(name, {**worker.opened, "peak_bytes": worker.peak_bytes()})
    for name, told in fleet.problems.items():
        measured.problems[name] = ("failed", told)
