"""Two processes as a launcher starts them: the test is the launcher, keeps the notes and sees both exit codes."""

import os
import subprocess
import sys
from collections.abc import Sequence
from pathlib import Path

from torch.distributed import TCPStore

ROOT = Path(__file__).resolve().parent.parent


_stores: list[TCPStore] = []  # what processes have noted, while the test goes on


def start_two(arguments: Sequence[str]) -> list[subprocess.Popen[str]]:
    """Start `python ARGUMENTS` as process 0 and 1 of two on gloo."""
    notes = TCPStore("127.0.0.1", 0, is_master=True, wait_for_workers=False)
    _stores.append(notes)
    told = {
        "WORLD_SIZE": "2", "LOCAL_WORLD_SIZE": "2", "MASTER_ADDR": "127.0.0.1", "MASTER_PORT": str(notes.port),
        "TORCHELASTIC_USE_AGENT_STORE": "True", "ACCELERATE_USE_CPU": "true", "OMP_NUM_THREADS": "1",
        "PYTHONPATH": f"{ROOT}:{ROOT / 'tests'}",
    }  # fmt: skip
    return [
        subprocess.Popen(
            [sys.executable, *arguments], cwd=ROOT, env={**os.environ, **told, "RANK": n, "LOCAL_RANK": n},
            stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True,
        )
        for n in "01"
    ]  # fmt: skip


def run_two(arguments: Sequence[str], seconds: float = 900) -> list[subprocess.CompletedProcess[str]]:
    """Run `python ARGUMENTS` as process 0 and 1 of two on gloo; one that takes longer than `seconds` is an error."""
    started = start_two(arguments)
    try:
        ended = [(process, process.communicate(timeout=seconds)) for process in started]
    finally:
        for process in started:
            process.kill()
    return [subprocess.CompletedProcess(p.args, p.returncode, out, err) for p, (out, err) in ended]
