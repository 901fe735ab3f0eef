"""`python -m tools.score_speed BUNDLE PARQUET`: speed and memory of `prunella score`.

The bare session answers texts that are tokenized already, one at a time, in one thread: reading, tokenizing, batching
and writing are what `score` has to make up for. `--full` compares with `transformers.pipeline` in batches of 32.
Processor time is given beside the rows a second, because it is hardly disturbed by other work on the machine.
`--kill` ends one worker of each engine with SIGKILL when half of the parts are there.
"""

import contextlib
import hashlib
import json
import os
import signal
import subprocess
import sys
import tempfile
import time
from pathlib import Path
from typing import Annotated, Any

import typer

from prunella.bulk.job import CHUNK_ROWS

BARE_ROWS = 1500
BATCH = 32  # of the pipeline


def main(  # noqa: PLR0913  # its options
    bundle: Path,
    data: Annotated[Path, typer.Argument(help="a Parquet file with a column text")],
    rows: Annotated[
        str, typer.Option(help="rows to score, such as 100000; of several numbers one run each")
    ] = "100000",
    engine: Annotated[str, typer.Option(help="engines of `prunella score`, such as local,spark,ray")] = "local",
    processes: Annotated[int, typer.Option(min=1, help="workers")] = 2,
    kill: Annotated[bool, typer.Option("--kill", help="kill a worker of each run half-way")] = False,
    full: Annotated[Path | None, typer.Option(help="a Hugging Face folder for transformers.pipeline")] = None,
    full_rows: Annotated[int, typer.Option(min=1, help="rows for transformers.pipeline")] = 1000,
) -> None:
    """Measure the bare session, `prunella score` with each engine, and the bare session again."""
    result: dict[str, Any] = {"bare": [bare_speed(bundle, data)]}
    for name in engine.split(","):
        runs = [score_speed(bundle, data, int(count), name, processes, kill) for count in rows.split(",")]
        result[name] = runs + ([line_of(runs[0], runs[-1])] if len(runs) > 1 else [])
    if full is not None:
        result["pipeline"] = pipeline_speed(full, data, full_rows)
    result["bare"].append(bare_speed(bundle, data))
    sys.stdout.write(json.dumps(result) + "\n")


def line_of(small: dict[str, Any], large: dict[str, Any]) -> dict[str, float]:
    """Return the processor time of a start and of a further row, from runs of two sizes."""
    row = (large["cpu_seconds"] - small["cpu_seconds"]) / (large["rows"] - small["rows"])
    return {
        "start_cpu_seconds": round(small["cpu_seconds"] - small["rows"] * row, 2),
        "row_cpu_ms": round(row * 1e3, 3),
    }


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


def score_speed(  # noqa: PLR0913  # the options of the tool
    bundle: Path, data: Path, rows: int, engine: str, processes: int, kill: bool
) -> dict[str, Any]:
    """Return the summary of a run, the hash of its parts, its processor time and its memory.

    Processor time is that of all processes, those of a cluster or a JVM included, as they were last seen before they
    ended; memory is that of the largest process in each half of the run.
    """
    import psutil

    with tempfile.TemporaryDirectory() as folder:
        out = Path(folder, "out")
        command = [sys.executable, "-m", "prunella", "--quiet", "score", str(bundle), str(data), str(out)]
        command += ["--engine", engine, "--limit", str(rows), "--processes", str(processes)]
        memory: list[float] = []
        cpu: dict[int, float] = {}  # seconds of each process
        half_of_parts = -(-rows // CHUNK_ROWS) / 2
        start = time.time()
        with subprocess.Popen(command, stdout=subprocess.PIPE, text=True) as process:
            tree = psutil.Process(process.pid)
            while process.poll() is None:
                processes_of_run = [tree, *tree.children(recursive=True)]
                memory.append(max((resident(one) for one in processes_of_run), default=0))
                cpu |= cpu_seconds(processes_of_run)
                if kill and len(list(out.glob("part-*"))) >= half_of_parts:
                    kill = not killed_worker(tree, engine)
                time.sleep(0.2)
            assert process.stdout is not None, "it is a pipe"
            summary = json.loads(process.stdout.read().splitlines()[-1])
        parts = sorted(out.glob("part-*"))
        written = sorted(part.stat().st_mtime for part in parts)
        digest = hashlib.sha256(b"".join(part.read_bytes() for part in parts)).hexdigest()[:16]
    half = len(memory) // 2
    return {
        **{key: summary[key] for key in ("rows", "errors", "seconds", "rows_per_second", "workers", "deaths")},
        "sha256_of_parts": digest,
        "seconds_to_first_part": round(written[0] - start, 1),
        # after the first part, so without the start of processes, cluster or JVM
        "rows_per_second_later": round((rows - min(rows, CHUNK_ROWS)) / max(1e-9, written[-1] - written[0]), 1),
        "cpu_seconds": round(sum(cpu.values()), 2),  # start included
        "largest_process_mb": [round(max(part, default=0) / 1e6) for part in (memory[:half], memory[half:])],
    }


def cpu_seconds(processes: list[Any]) -> dict[int, float]:
    """Return the processor time of each process that is still there."""
    import psutil

    seconds = {}
    for process in processes:
        with contextlib.suppress(psutil.NoSuchProcess):
            times = process.cpu_times()
            seconds[process.pid] = times.user + times.system
    return seconds


def killed_worker(tree: Any, engine: str) -> bool:
    """Kill a process that scores with SIGKILL; return whether there was one."""
    import psutil

    words = {"local": "spawn_main", "ray": "ray::ScoringActor", "spark": "pyspark/daemon"}[engine]
    for process in reversed(tree.children(recursive=True)):  # a Python worker of Spark is a child of its daemon
        try:
            if words.replace("/", ".") in " ".join(process.cmdline()).replace("/", "."):
                os.kill(process.pid, signal.SIGKILL)
                return True
        except (psutil.NoSuchProcess, ProcessLookupError):
            continue
    return False


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
