"""The commands that measure: `prunella bench`, `prunella evaluate` and `prunella plan`."""

import re
import time
from pathlib import Path
from typing import Annotated, Any

import typer

from models.errors import CheckError, InputError
from prunella.cli.options import (
    STORE,
    Base,
    LabelColumn,
    Labels,
    PairColumn,
    Store,
    TextColumn,
    Windows,
    WindowsCombine,
    merged,
    read_columns,
)
from prunella.cli.output import need, show

OWN = 0  # stands for the actual length of each text
EXAMPLE = "whole numbers above 0, separated by commas, such as 1,16"


def evaluate(
    model: Annotated[Path, typer.Argument(help="a bundle, a classifier folder, or a fine-tuned Hugging Face folder")],
    data: Annotated[
        str, typer.Option(help="labelled rows to classify: CSV, TSV, JSONL, Parquet, hub:… or builtin:…")
    ],
    device: Annotated[
        str,
        typer.Option(
            help="cpu, cuda[:i], tensorrt, or auto (the best available); each uses its own variant of the bundle"
        ),
    ] = "cpu",
    text_column: TextColumn = "text",
    pair_column: PairColumn = "text_pair",
    label_column: LabelColumn = "label",
    labels: Labels = None,
    windows: Windows = None,
    windows_combine: WindowsCombine = None,
    base: Base = None,
    store: Store = STORE,
) -> dict[str, Any]:
    """Measure accuracy and F1, or a regression's correlations, on labelled rows.

    MODEL is a bundle, a classifier folder, or a fine-tuned Hugging Face folder, which is imported into the store.
    """
    from bench.measure.accuracy.evaluate import evaluate_on, read_task
    from models.data.texts import read_texts
    from models.store.folder import MANIFEST

    start = time.perf_counter()
    columns = read_columns(text_column, pair_column, label_column, labels)
    if base is not None or not (model / MANIFEST).is_file():
        need("torch", "train")
        from compress.inputs.source import open_source, source_kind

        folder = merged(model, base, store)
        rows = read_texts(data, columns, source_kind(folder))
        evaluated = open_source(folder, store, rows.pair).path
    else:
        rows, evaluated = read_texts(data, columns, read_task(model).kind), model
    evaluation = evaluate_on(evaluated, rows, device, windows, windows_combine)
    return {
        "folder": str(model), "device": evaluation.device, "variant": evaluation.variant,
        **({} if evaluation.windows is None else {"windows": evaluation.windows}),
        **evaluation.score.model_dump(), "seconds": round(time.perf_counter() - start, 1),
    }  # fmt: skip


def plan(
    bundle: Annotated[str, typer.Argument(help="a bundle folder, or a tag of BentoML's model store")],
    rps: Annotated[float, typer.Option(help="requests a second, of one text each")],
    p99_ms: Annotated[float, typer.Option(help="limit of the 99th percentile of the time to answer")],
    lengths: Annotated[
        str | None, typer.Option(help="texts like those of the load; default: the few that are stored in the bundle")
    ] = None,
    cores: Annotated[int | None, typer.Option(help="cores of a replica; default: those of this machine")] = None,
    text_column: TextColumn = "text",
    pair_column: PairColumn = "text_pair",
) -> dict[str, Any]:
    """Say how many replicas, cores and core-hours a load needs on processors like this machine's.

    The service times are measured here, and the service's scheduler is simulated with them.
    """
    if lengths is not None:
        need("tqdm", "score")
    from bench.capacity.plan import PlanConfig
    from bench.capacity.plan import plan as plan_capacity
    from models.data.columns import Columns
    from models.data.texts import read_texts
    from models.schema import wrong_values
    from service.model.bundle import Bundle
    from service.process.publish import resolve

    with wrong_values():
        config = PlanConfig(rps=rps, p99_ms=p99_ms, cores=cores)
    opened = Bundle.open(resolve(bundle))
    columns = Columns(text=text_column, text_pair=pair_column).unlabelled()
    rows = None if lengths is None else read_texts(lengths, columns, opened.task.kind).rows
    if rows and (len(rows[0]) == 2) != opened.task.pair:
        raise InputError(
            f"{lengths} has {'pairs' if len(rows[0]) == 2 else 'single texts'}, the model takes the other"
        )
    return {"folder": bundle, **plan_capacity(opened, rows, config)}


def is_hugging_face(model: Path) -> bool:
    """Whether a folder is a Hugging Face folder that no command of Prunella made."""
    from models.store.folder import MANIFEST

    is_theirs = any((model / name).is_file() for name in ("config.json", "adapter_config.json"))
    return is_theirs and not (model / MANIFEST).is_file()


def bench(
    bundle: Annotated[Path, typer.Argument(help="a bundle folder")],
    data: Annotated[str, typer.Option(help="rows to classify; labels are needed for accuracy")],
    train: Annotated[str | None, typer.Option(help="labelled rows to train tfidf and to calibrate openvino")] = None,
    text_column: TextColumn = "text",
    pair_column: PairColumn = "text_pair",
    label_column: LabelColumn = "label",
    labels: Labels = None,
    reference: Annotated[Path | None, typer.Option(help="the unpruned model; default: found in --store")] = None,
    against: Annotated[
        str, typer.Option(help="engines to compare with, separated by commas")
    ] = "pytorch,ort_fp32,stock_int8,tfidf",
    lengths: Annotated[
        str, typer.Option(help="text lengths in tokens, such as own,16,64; own: the actual length of each text")
    ] = "own",
    batch: Annotated[
        str, typer.Option(help="batch sizes; the smallest one gives the speed-up of the headline")
    ] = "1,16",
    threads: Annotated[str, typer.Option(help="numbers of threads inside one operator")] = "1",
    texts: Annotated[
        int,
        typer.Option(min=1, help="number of texts that are timed; a 95th percentile needs 60 times the batch size"),
    ] = 64,
    rounds: Annotated[int, typer.Option(min=3, help="rounds of timing; engines take turns in each round")] = 7,
    openings: Annotated[
        int, typer.Option(min=2, help="number of fresh processes for the speed-up and --compare")
    ] = 8,
    engine_timeout: Annotated[
        float, typer.Option(min=1, help="time limit in seconds for an engine to start, and to answer 256 texts")
    ] = 600,
    store: Store = STORE,
    compare: Annotated[
        Path | None, typer.Option(help="older report.json to compare with; exit code 1 if worse or too noisy")
    ] = None,
    compare_loss: Annotated[
        float,
        typer.Option(help="loss of accuracy in points that --compare must detect; a smaller one needs more rows"),
    ] = 1.0,
    out: Annotated[Path | None, typer.Option(help="folder of the report; default: report-<id> in --store")] = None,
) -> None:
    """Compare accuracy or correlation, and latency, of a bundle with other engines: report.html, .md and .json."""
    need("torch", "train")
    from bench.engines.available import Inputs
    from bench.engines.reference import find_reference
    from bench.report.bench_config import BenchConfig
    from bench.report.build import run_bench
    from bench.report.compare_reports import check_missed, compare_reports, openings_of, read_older
    from bench.report.summary import summary
    from compress.inputs.source import open_source
    from models.data.texts import read_texts
    from models.store.folder import ModelFolder
    from service.model.bundle import Bundle

    opened = Bundle.open(bundle)
    older = read_older(compare) if compare else None
    check_missed(compare_loss)
    config = BenchConfig(
        against=tuple(name for name in against.split(",") if name),
        batches=numbers("--batch", batch),
        threads=numbers("--threads", threads),
        lengths=tuple(None if n == OWN else n for n in numbers("--lengths", lengths, own=True)),
        rounds=rounds,
        openings=openings,
        timeout=engine_timeout,
        texts=openings_of(older).texts if older else texts,  # a comparison needs the same number of texts
    )
    if reference and is_hugging_face(reference):
        unpruned = open_source(reference, store, opened.task.pair, opened.task.max_tokens)
    else:
        unpruned = ModelFolder.open(reference) if reference else find_reference(opened, store)
    kind = opened.task.kind
    columns = read_columns(text_column, pair_column, label_column, labels)
    rows, train_rows = read_texts(data, columns, kind), read_texts(train, columns, kind) if train else None
    inputs = Inputs(opened, unpruned, rows, train_rows)
    folder = out or store / f"report-{opened.id}"
    report = run_bench(inputs, config, store, folder)
    failed = [f"{e.name}: {e.problem}" for e in report.engines if e.status == "failed"]
    verdict = compare_reports(older, report, compare_loss) if older and not failed else None
    show({
        "verb": "bench", "folder": str(bundle), "id": opened.id, "reused": False, "seconds": report.seconds,
        "report": str(folder / "report.html"), "report_json": str(folder / "report.json"), **summary(report),
        "compared": verdict.model_dump() if verdict else None,
    })  # fmt: skip
    if failed:
        raise CheckError(f"the report is written, but {'; '.join(failed)}")
    if verdict and verdict.is_worse:
        raise CheckError(f"worse than {compare}: {verdict.sentence()}")
    if verdict and verdict.speed == "too noisy":
        raise CheckError(f"too noisy to judge, run again on a quiet machine: {verdict.sentence()}")
    if verdict and verdict.accuracy == "too noisy":
        raise CheckError(f"too noisy to judge, take more rows or a larger --compare-loss: {verdict.sentence()}")


def numbers(flag: str, value: str, own: bool = False) -> tuple[int, ...]:
    """Return the whole numbers above 0 in a list such as `1,16`; the item `own` gives OWN if it is allowed."""
    parts = [part.strip() for part in value.split(",")]
    if not all(re.fullmatch("0*[1-9][0-9]{0,8}", part) or (own and part == "own") for part in parts):
        expected = "own, or whole numbers above 0, separated by commas, such as own,16" if own else EXAMPLE
        raise InputError(f"{flag} is {value!r}: wanted {expected}")
    return tuple(OWN if part == "own" else int(part) for part in parts)
