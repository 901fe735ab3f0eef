"""`python -m tools.studies.score_resume BUNDLE PHRASES`: `prunella score` of many rows, killed and continued.

The rows are the texts of PHRASES, repeated, each with a word of another inserted at random. The command and its
workers are killed with SIGKILL when shares of the parts are written, and started again. Then the parts are read:
exit code 1 unless each row is there exactly once, in order, without an error. Memory is the resident memory of the
largest process, in the first and the second half of the last run.
"""

import json
import os
import signal
import subprocess
import sys
import tempfile
import time
from pathlib import Path
from typing import Annotated, Any

import numpy as np
import typer

from bench.measure.latency.timing import machine_card
from models.data.columns import Columns
from models.data.texts import read_texts
from tools.score_speed import resident

POLL_SECONDS = 0.2
CHUNK = 4096  # rows of a part, as `prunella score` has it


def write_rows(phrases: list[str], rows: int, path: Path, seed: int = 0) -> None:
    """Write a Parquet file with the columns id and text."""
    import pyarrow
    import pyarrow.parquet

    generator = np.random.default_rng(seed)
    words = sorted({word for phrase in phrases for word in phrase.split()})
    texts = []
    for row, place, word in zip(
        range(rows), generator.random(rows), generator.integers(len(words), size=rows), strict=True
    ):
        parts = phrases[row % len(phrases)].split()
        at = int(place * (len(parts) + 1))
        texts.append(" ".join([*parts[:at], words[word], *parts[at:]]))
    pyarrow.parquet.write_table(pyarrow.table({"id": np.arange(rows), "text": texts}), path)


def score_until(command: list[str], out: Path, parts: float) -> tuple[dict[str, Any] | None, list[int]]:
    """Run the command; kill it and its workers once so many parts are written. Return its summary and its memory."""
    import psutil

    memory: list[int] = []
    with subprocess.Popen(command, stdout=subprocess.PIPE, text=True, start_new_session=True) as process:
        tree = psutil.Process(process.pid)
        while process.poll() is None:
            if len(list(out.glob("part-*"))) >= parts:
                os.killpg(process.pid, signal.SIGKILL)
                process.wait()
                return None, memory
            memory.append(max((resident(one) for one in [tree, *tree.children(recursive=True)]), default=0))
            time.sleep(POLL_SECONDS)
        assert process.stdout is not None, "it is a pipe"
        if process.returncode:
            raise SystemExit(f"prunella score ended with {process.returncode}")
        return json.loads(process.stdout.read().splitlines()[-1]), memory


def check_rows(out: Path, rows: int) -> dict[str, int]:
    """Count the rows that are there, those that are not where they belong, and those with an error."""
    import pyarrow.parquet

    ids, errors = [], 0
    for part in sorted(out.glob("part-*")):
        table = pyarrow.parquet.read_table(part, columns=["id", "label", "error"])
        ids.append(table.column("id").to_numpy())
        errors += len(table) - table.column("error").null_count
    written = np.concatenate(ids) if ids else np.array([], dtype=np.int64)
    kept = written[:rows]
    misplaced = int((kept != np.arange(len(kept))).sum())
    return {"there": len(written), "distinct": len(np.unique(written)), "misplaced": misplaced, "errors": errors}


def main(  # noqa: PLR0913  # its options
    bundle: Path,
    phrases: Annotated[str, typer.Argument(help="texts that are repeated")],
    rows: Annotated[int, typer.Option(min=1)] = 1_000_000,
    kills: Annotated[int, typer.Option(min=0, help="how often the run is killed")] = 2,
    processes: Annotated[int, typer.Option(min=1, help="workers of `prunella score`")] = 1,
    chunk_rows: Annotated[int, typer.Option(min=1, help="rows of a part")] = CHUNK,
    work: Annotated[Path | None, typer.Option(help="folder for rows and parts; default: a temporary one")] = None,
) -> None:
    """Write the rows, score them with kills, check the parts, and print the counts."""
    with tempfile.TemporaryDirectory(dir=work) as folder:
        data, out = Path(folder) / "rows.parquet", Path(folder) / "out"
        write_rows([row[0] for row in read_texts(phrases, Columns().unlabelled()).rows], rows, data)
        command = [sys.executable, "-m", "prunella", "--quiet", "score", str(bundle), str(data), str(out)]
        command += ["--processes", str(processes), "--chunk-rows", str(chunk_rows)]
        total, start, killed = -(-rows // chunk_rows), time.monotonic(), []
        for i in range(kills):
            summary, _ = score_until(command, out, max(1.0, total * (i + 1) / (kills + 1)))
            if summary is None:
                killed.append(len(list(out.glob("part-*"))))
        summary, memory = score_until(command, out, float("inf"))
        seconds, half = time.monotonic() - start, len(memory) // 2
        counts = check_rows(out, rows)
        complete = (out / "_SUCCESS").is_file()
    good = complete and counts == {"there": rows, "distinct": rows, "misplaced": 0, "errors": 0}
    result = {
        "rows": rows, **counts, "success_file": complete, "killed_at_parts": killed, "parts": total,
        "seconds": round(seconds, 1), "rows_per_second": round(rows / seconds, 1), "processes": processes,
        "last_run": summary,
        "largest_process_mb": [round(max(part, default=0) / 1e6) for part in (memory[:half], memory[half:])],
        "machine": machine_card(),
    }  # fmt: skip
    sys.stdout.write(json.dumps(result) + "\n")
    if not good:
        raise SystemExit(1)


if __name__ == "__main__":
    typer.run(main)
