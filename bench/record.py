"""`python -m bench.record NAME COMMAND…`: run a command and keep its last line, with what it takes to believe it.

The file is docs/results/training/NAME.json; `python -m bench.tables` makes the page's table from it.
"""

import json
import subprocess
import sys
import time
from datetime import UTC, datetime
from pathlib import Path
from typing import Any

from bench.timing import machine_card
from models.atomic import write_text
from models.errors import CheckError, InputError

FOLDER = Path(__file__).resolve().parent.parent / "docs" / "results" / "training"
PRIVATE = ("folder", "folders", "report", "store")  # keys that name places on this machine


def record(name: str, command: list[str]) -> dict[str, Any]:
    """Run `command`, whose last line on stdout is JSON, and return what is kept.

    Raises:
        InputError: no command was given.
        CheckError: it failed, or its last line is no JSON.
    """
    if not command:
        raise InputError("usage: python -m bench.record NAME COMMAND…")
    begun = time.perf_counter()
    # the checkout at hand, and not whichever is installed
    own = [sys.executable, "-m", "prunella", *command[1:]] if command[0] == "prunella" else command
    done = subprocess.run(own, stdout=subprocess.PIPE, text=True)
    if done.returncode:
        raise CheckError(f"{command[0]} ended with exit code {done.returncode}")
    try:
        told = json.loads(done.stdout.strip().splitlines()[-1])
    except (ValueError, IndexError):
        raise CheckError(f"the last line of {command[0]} is no JSON") from None
    kept = {
        "command": " ".join(_short(part) for part in command),
        "date": datetime.now(UTC).date().isoformat(),
        "wall_seconds": round(time.perf_counter() - begun, 1),
        "result": {key: value for key, value in told.items() if key not in PRIVATE},
        "machine": machine_card(),
    }
    FOLDER.mkdir(parents=True, exist_ok=True)
    write_text(FOLDER / f"{name}.json", json.dumps(kept, indent=1) + "\n")
    return kept


def _short(part: str) -> str:
    """Return an argument without the folders above the last two: where data lies differs from machine to machine."""
    if part.endswith("/python"):
        return "python"
    return "/".join(part.split("/")[-2:]) if part.startswith(("/", "../")) else part


if __name__ == "__main__":
    sys.stdout.write(json.dumps(record(sys.argv[1] if len(sys.argv) > 1 else "", sys.argv[2:])) + "\n")
