"""`python -m tools.score_speed BUNDLE PARQUET`: speed and memory of `prunella score`.

The bare session answers texts that are tokenized already, one at a time, in one thread: reading, tokenizing, batching
and writing are what `score` has to make up for. `--full` compares with `transformers.pipeline` in batches of 32.
Processor time is given beside the rows a second, because it is hardly disturbed by other work on the machine.
"""

import json
import resource
import subprocess
import sys
import tempfile
import time
from pathlib import Path
from typing import Annotated, Any

import typer

BARE_ROWS = 1500
BATCH = 32  # of the pipeline


def main(  # noqa: PLR0913  # its options
    bundle: Path,
    data: Annotated[Path, typer.Argument(help="a Parquet file with a column text")],
    rows: Annotated[int, typer.Option(min=1, help="rows to score")] = 100_000,
    engine: Annotated[str, typer.Option(help="engines of `prunella score`, such as local,spark,ray")] = "local",
    full: Annotated[Path | None, typer.Option(help="a Hugging Face folder for transformers.pipeline")] = None,
    full_rows: Annotated[int, typer.Option(min=1, help="rows for transformers.pipeline")] = 1000,
) -> None:
    """Measure the bare session, `prunella score` with each engine, and the bare session again."""
    result: dict[str, Any] = {"rows": rows, "bare": [bare_speed(bundle, data)]}
    for name in engine.split(","):
        result[name] = score_speed(bundle, data, rows, name)
    if full is not None:
        result["pipeline"] = pipeline_speed(full, data, full_rows)
    result["bare"].append(bare_speed(bundle, data))
    sys.stdout.write(json.dumps(result) + "\n")


def texts_of(data: Path, rows: int) -> list[str]:
    """Return texts that are spread evenly over the file."""
    import pyarrow.parquet

    texts = pyarrow.parquet.read_table(data, columns=["text"]).column("text")
    return texts.take(list(range(0, len(texts), max(1, len(texts) // rows)))[:rows]).to_pylist()


def bare_speed(bundle: Path, data: Path) -> dict[str, float]:
    """Return the speed of one session with one thread and one text a run."""
    from service.model.bundle import Bundle
    from service.model.engine import Engine
    from service.model.session import RuntimeSettings

    opened = Engine.open(Bundle.open(bundle), RuntimeSettings(device="cpu", threads=1))
    encoded = opened.encode([(text,) for text in texts_of(data, BARE_ROWS)])
    for one in encoded[:100]:
        opened.infer([one])
    start, cpu = time.perf_counter(), time.process_time()
    for one in encoded:
        opened.infer([one])
    seconds, cpu = time.perf_counter() - start, time.process_time() - cpu
    return {"rows_per_second": round(len(encoded) / seconds, 1), "cpu_ms_per_row": round(cpu / len(encoded) * 1e3, 3)}


def score_speed(bundle: Path, data: Path, rows: int, engine: str) -> dict[str, Any]:
    """Return the summary of a run, and the largest resident memory of one of its processes in the two halves."""
    import psutil

    with tempfile.TemporaryDirectory() as folder:
        options = ["--engine", engine, "--limit", str(rows)]
        command = [
            sys.executable,
            "-m",
            "prunella",
            "--quiet",
            "score",
            str(bundle),
            str(data),
            f"{folder}/out",
            *options,
        ]
        memory: list[float] = []
        before = resource.getrusage(resource.RUSAGE_CHILDREN)
        with subprocess.Popen(command, stdout=subprocess.PIPE, text=True) as process:
            tree = psutil.Process(process.pid)
            while process.poll() is None:
                memory.append(max((resident(one) for one in [tree, *tree.children(recursive=True)]), default=0))
                time.sleep(0.2)
            assert process.stdout is not None, "it is a pipe"
            summary = json.loads(process.stdout.read().splitlines()[-1])
        written = sorted(part.stat().st_mtime for part in Path(folder, "out").glob("part-*"))
    half, after = len(memory) // 2, resource.getrusage(resource.RUSAGE_CHILDREN)
    cpu = after.ru_utime + after.ru_stime - before.ru_utime - before.ru_stime
    return {
        **{key: summary[key] for key in ("rows", "errors", "seconds", "rows_per_second", "workers")},
        # after the first part, so without the start of processes, cluster or JVM
        "rows_per_second_later": round(rows * (1 - 1 / len(written)) / max(1e-9, written[-1] - written[0]), 1),
        "cpu_ms_per_row": round(cpu / summary["rows"] * 1e3, 3),  # opening of the bundle included
        "largest_process_mb": [round(max(part, default=0) / 1e6) for part in (memory[:half], memory[half:])],
    }


def resident(process: Any) -> int:
    """Return the resident bytes of a process; 0 when it has ended, and for Spark's JVM and Ray's own processes."""
    import psutil

    try:
        return int(process.memory_info().rss) if "python" in process.name() else 0
    except psutil.NoSuchProcess:
        return 0


def pipeline_speed(full: Path, data: Path, rows: int) -> dict[str, Any]:
    """Return texts a second of `transformers.pipeline` with all cores."""
    from transformers import pipeline

    classify = pipeline("text-classification", str(full), device="cpu")
    texts = texts_of(data, rows)
    classify(texts[: 2 * BATCH], batch_size=BATCH, truncation=True)
    start, cpu = time.perf_counter(), time.process_time()
    classify(texts, batch_size=BATCH, truncation=True)
    seconds, cpu = time.perf_counter() - start, time.process_time() - cpu
    return {
        "rows": len(texts), "rows_per_second": round(len(texts) / seconds, 1),
        "cpu_ms_per_row": round(cpu / len(texts) * 1e3, 3),
    }  # fmt: skip


if __name__ == "__main__":
    typer.run(main)
