"""Stages of a few bytes, made by processes that a test starts, holds up and kills."""

import os
import subprocess
import sys
import time
from pathlib import Path

from models.store.folder import ModelFolder
from models.store.stage import Stage, run_stage

ROOT = Path(__file__).resolve().parent.parent
# a `make` that says it has begun, and ends when it may
HELD_UP = """
import sys, time
from pathlib import Path
from models.distributed import rank
from models.store.stage import Stage, run_stage

store, begun, may_end, together = Path(sys.argv[1]), Path(sys.argv[2]), Path(sys.argv[3]), sys.argv[4] == "together"

def make(target):
    begun.touch()
    while not may_end.exists():
        time.sleep(0.01)
    if not rank():
        (target / "weights.bin").write_bytes(b"whole")

made = run_stage(Stage("work", 1, {}), [], store, make, together=together)
print(made.reused, made.folder.id)
"""


def made_of(store: Path, content: str = "whole", name: str = "work", parents=(), report: str | None = None, **config):
    """Return the folder of a stage that writes `content`."""

    def make(target):
        (target / "weights.bin").write_text(content)
        if report:
            (target / "report.json").write_text(report)

    return run_stage(Stage(name, 1, config), parents, store, make).folder


def start_held_up(store: Path, together: bool = False) -> subprocess.Popen[str]:
    """Start a process that makes a stage, and that ends it when `store.parent / "may_end"` is there."""
    return subprocess.Popen(
        [sys.executable, "-c", HELD_UP, *held_up(store, together)], cwd=ROOT,
        env={**os.environ, "PYTHONPATH": str(ROOT)}, stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True,
    )  # fmt: skip


def held_up(store: Path, together: bool = False) -> list[str]:
    parent = store.parent
    return [str(store), str(parent / "begun"), str(parent / "may_end"), "together" if together else "alone"]


def wait_until(condition, process: subprocess.Popen[str], seconds: float = 120) -> None:
    """Return when `condition()` holds; a process that ended before, or too much time, is an error."""
    deadline = time.monotonic() + seconds
    while not condition():
        assert process.poll() is None, process.communicate()[1][-2000:]
        assert time.monotonic() < deadline, "it did not come"
        time.sleep(0.01)


def first_line(process: subprocess.Popen[str]) -> str:
    """Return the first line of Prunella's that the process writes on stderr; libraries may write others before."""
    assert process.stderr is not None
    return next(line for line in process.stderr if line.startswith("prunella: "))


def opened(folder: Path) -> str:
    return ModelFolder.open(folder).id
