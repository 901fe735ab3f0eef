"""`python -m tools.alternatives.compare DATA --train TRAIN --bundle BUNDLE`: the measured rows of docs/compare.md.

Each method is trained on the same rows, in a process of its own (worker.py beside this file, which says what
`--python`, the interpreter of another environment, must have installed). Accuracy is measured on the same rows. Then
the methods take turns on the same texts, one text at a time, in one thread, all pinned to one core: from the text to
its label, tokenization included, HTTP not.
"""

import json
import os
import subprocess
import sys
import tempfile
import time
from pathlib import Path
from typing import Annotated, Any

import numpy as np
import typer

from bench.measure.latency.timing import machine_card, rotated
from models.data.builtin import minilm_folder
from models.data.columns import Columns
from models.data.texts import Texts, read_texts
from service.model.bundle import Bundle
from service.model.engine import Engine
from service.model.session import RuntimeSettings

WORKER = Path(__file__).with_name("worker.py")
OURS = "prunella"


class Worker:
    """A method in a process of its own."""

    def __init__(self, python: Path, method: str, files: tuple[Path, Path], out: Path) -> None:
        command = [str(python), str(WORKER), method, *map(str, files), str(minilm_folder()), str(out)]
        environment = {**os.environ, "OMP_NUM_THREADS": "1", "TOKENIZERS_PARALLELISM": "false", "HF_HUB_OFFLINE": "1"}
        environment.pop("PYTHONPATH", None)
        self._process = subprocess.Popen(
            command, stdin=subprocess.PIPE, stdout=subprocess.PIPE, text=True, env=environment
        )
        self.report = self._read(method)

    def seconds(self, numbers: list[int]) -> list[float]:
        """Return the seconds of each row."""
        assert self._process.stdin is not None, "a pipe"
        self._process.stdin.write(json.dumps(numbers) + "\n")
        self._process.stdin.flush()
        return [float(value) for value in self._read("a round")]

    def close(self) -> None:
        """End the process."""
        self._process.communicate()

    def _read(self, what: str) -> Any:
        assert self._process.stdout is not None, "a pipe"
        line = self._process.stdout.readline()
        if not line:
            raise SystemExit(f"{what} ended without a result: its messages are above")
        return json.loads(line)


class Ours:
    """The bundle, in this process."""

    def __init__(self, bundle: Bundle, test: Texts) -> None:
        self._engine = Engine.open(bundle, RuntimeSettings(device="cpu", threads=1))
        self._labels, self._rows = bundle.task.labels, test.rows
        correct = sum(
            self._answer(row) == str(label) for row, label in zip(test.rows, test.require_labels(), strict=True)
        )
        self.report = {"accuracy": correct / len(test), "bytes": bundle.served_bytes(self._engine.variant_name)}

    def seconds(self, numbers: list[int]) -> list[float]:
        """Return the seconds of each row."""
        seconds = []
        for number in numbers:
            begun = time.perf_counter()
            self._answer(self._rows[number])
            seconds.append(time.perf_counter() - begun)
        return seconds

    def close(self) -> None:
        """Do nothing: there is no process."""

    def _answer(self, row: tuple[str, ...]) -> str:
        return self._labels[int(self._engine.logits([row]).argmax())]


def main(  # noqa: PLR0913  # its options
    data: Annotated[str, typer.Argument(help="labelled rows on which accuracy is measured")],
    train: Annotated[str, typer.Option(help="labelled rows, those of which the bundle's model was trained")],
    out: Annotated[Path, typer.Option(help="JSON file of the results")],
    work: Annotated[Path, typer.Option(help="folder for the models; the distilled static model is used again")],
    bundle: Annotated[Path | None, typer.Option(help="our row; without it, only the others are measured")] = None,
    python: Annotated[Path, typer.Option(help="Python with the packages of the methods")] = Path(sys.executable),
    methods: Annotated[str, typer.Option(help="separated by commas")] = "tfidf,fasttext,model2vec,setfit",
    texts: Annotated[int, typer.Option(min=1, help="texts that are timed")] = 100,
    rounds: Annotated[int, typer.Option(min=3, help="rounds in which the methods take turns")] = 7,
) -> None:
    """Train, measure, and write the results."""
    work.mkdir(parents=True, exist_ok=True)
    held_out, training = read_texts(data, Columns()), read_texts(train, Columns())
    os.sched_setaffinity(0, {min(os.sched_getaffinity(0))})  # the workers inherit it
    with tempfile.TemporaryDirectory(dir=work) as scratch:
        files = (_write(training, Path(scratch) / "train.jsonl"), _write(held_out, Path(scratch) / "test.jsonl"))
        running: dict[str, Ours | Worker] = {}
        if bundle is not None:
            running[OURS] = Ours(Bundle.open(bundle), held_out)
        for method in methods.split(","):
            running[method] = Worker(python, method, files, Path(scratch) / method)
        numbers = np.random.default_rng(0).permutation(len(held_out))[:texts].tolist()
        seconds: dict[str, list[list[float]]] = {name: [] for name in running}
        for round_number in range(rounds + 1):
            for name in rotated(list(running), round_number):
                seconds[name].append(running[name].seconds(numbers))
        for one in running.values():
            one.close()
    results = {
        name: {**one.report, "p50_ms": round(float(np.median(seconds[name][1:])) * 1e3, 4)}  # the first warms up
        for name, one in running.items()
    }
    card = {"data": data, "train_rows": len(training), "test_rows": len(held_out), "machine": machine_card()}
    record = {**card, "bundle": None if bundle is None else Bundle.open(bundle).id, "methods": results}
    out.write_text(json.dumps(record, indent=2) + "\n", encoding="utf-8")
    sys.stdout.write(json.dumps(results) + "\n")


def _write(texts: Texts, path: Path) -> Path:
    pairs = zip(texts.rows, texts.require_labels(), strict=True)
    lines = [json.dumps({"text": row[0], "label": str(label)}) for row, label in pairs]
    path.write_text("\n".join(lines) + "\n", encoding="utf-8")
    return path


if __name__ == "__main__":
    typer.run(main)
