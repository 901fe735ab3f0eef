"""`python -m bench.record KIND/NAME COMMAND…`: run a command and keep its last line, and what it takes to believe it.

The file is docs/results/KIND/NAME.json; `python -m bench.tables` makes the tables of `training`, `compression` and
`ablation` from such files.
"""

import json
import re
import resource
import subprocess
import sys
import time
from datetime import UTC, datetime
from pathlib import Path
from typing import Any

from bench.timing import machine_card
from models.atomic import write_text
from models.errors import CheckError, InputError

RESULTS = Path(__file__).resolve().parent.parent / "docs" / "results"
PRIVATE = {"folder", "folders", "report", "store"}  # keys that name places on this machine


def record(name: str, command: list[str]) -> dict[str, Any]:
    """Run `command`, whose last line on stdout is JSON, and return what is kept.

    Raises:
        InputError: no command was given, or the name is not KIND/NAME.
        CheckError: it failed, or its last line is no JSON.
    """
    path = RESULTS / f"{name}.json"
    if not command or path.parent.parent != RESULTS:
        raise InputError("usage: python -m bench.record KIND/NAME COMMAND…")
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
        "peak_mb": resource.getrusage(resource.RUSAGE_CHILDREN).ru_maxrss // 1024,  # of its largest process
        "result": public(told),
        "machine": machine_card(),
    }
    path.parent.mkdir(parents=True, exist_ok=True)
    write_text(path, json.dumps(kept, indent=1) + "\n")
    return kept


def kept_runs(folder: Path) -> dict[str, Any]:
    """Return what is kept in a folder of docs/results, by name."""
    return {path.stem: json.loads(path.read_text(encoding="utf-8")) for path in sorted(folder.glob("*.json"))}


def command_line(name: str, run: dict[str, Any]) -> str:
    """Return the line of a page that says how a run was made."""
    return f"- `{name}`: `{run['command']}`"


def public(told: Any) -> Any:
    """Return a result, or a report, without places on this machine: at any depth, in keys and in sentences."""
    match told:
        case dict():
            return {key: public(value) for key, value in told.items() if key not in PRIVATE}
        case list():
            return [public(one) for one in told]
        case str():
            return " ".join(_short(word) for word in told.split(" "))
        case _:
            return told


def _short(part: str) -> str:
    """Return an argument without the folders above the last two: where data lies differs from machine to machine."""
    if re.search(r"/python[\d.]*$", part):
        return "python"
    return "/".join(part.split("/")[-2:]) if part.startswith(("/", "../")) else part


if __name__ == "__main__":
    sys.stdout.write(json.dumps(record(sys.argv[1] if len(sys.argv) > 1 else "", sys.argv[2:])) + "\n")
