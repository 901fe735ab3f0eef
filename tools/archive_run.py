"""`python -m tools.archive_run KIND/NAME COMMAND…`: run a command and store its result.

The file docs/results/KIND/NAME.json has the last line of the output (which must be JSON), the command, the date, the
wall time, the peak memory and the machine. `python -m tools.tables.write` makes the tables of `training`,
`compression`, `ablation` and `gpu` from such files.
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

from bench.measure.latency.timing import machine_card
from models.errors import CheckError, InputError
from models.store.atomic import write_text

RESULTS = Path(__file__).resolve().parent.parent / "docs" / "results"
PRIVATE = {"folder", "folders", "report", "store"}  # keys whose values are paths on this machine


def record(name: str, command: list[str]) -> dict[str, Any]:
    """Run `command`, whose last line on stdout is JSON; store the run in a file and return it.

    Raises:
        InputError: No command was given, or the name is not KIND/NAME.
        CheckError: The command failed, or its last line is not JSON.
    """
    path = RESULTS / f"{name}.json"
    if not command or path.parent.parent != RESULTS:
        raise InputError("usage: python -m tools.archive_run KIND/NAME COMMAND…")
    start = time.perf_counter()
    # run the prunella of this checkout, not the installed one
    actual = [sys.executable, "-m", "prunella", *command[1:]] if command[0] == "prunella" else command
    done = subprocess.run(actual, stdout=subprocess.PIPE, text=True)
    if done.returncode not in (0, 1):  # 1: a failed check, such as a missed target, which is a result
        raise CheckError(f"{command[0]} ended with exit code {done.returncode}")
    try:
        result = json.loads(done.stdout.strip().splitlines()[-1])
    except (ValueError, IndexError):
        raise CheckError(f"the last line of {command[0]} is no JSON") from None
    run = {
        "command": " ".join(_short(part) for part in command),
        "date": datetime.now(UTC).date().isoformat(),
        "wall_seconds": round(time.perf_counter() - start, 1),
        "peak_mb": resource.getrusage(resource.RUSAGE_CHILDREN).ru_maxrss // 1024,  # of its largest process
        "result": public(result),
        "machine": machine_card(),
        **({"exit_code": done.returncode} if done.returncode else {}),
    }
    path.parent.mkdir(parents=True, exist_ok=True)
    write_text(path, json.dumps(run, indent=1) + "\n")
    return run


def archived_runs(folder: Path) -> dict[str, Any]:
    """Return the runs that are stored in a folder of docs/results, by name."""
    return {path.stem: json.loads(path.read_text(encoding="utf-8")) for path in sorted(folder.glob("*.json"))}


def command_line(name: str, run: dict[str, Any]) -> str:
    """Return the line of a page that shows the command of a run."""
    return f"- `{name}`: `{run['command']}`"


def public(value: Any) -> Any:
    """Return a result or a report without paths on this machine, at any depth, in fields and in sentences."""
    match value:
        case dict():
            return {key: public(part) for key, part in value.items() if key not in PRIVATE}
        case list():
            return [public(part) for part in value]
        case str():
            return " ".join(_short(word) for word in value.split(" "))
        case _:
            return value


def _short(part: str) -> str:
    """Shorten a path to its last two parts, because the folders above differ from machine to machine."""
    if re.search(r"/python[\d.]*$", part):
        return "python"
    return "/".join(part.split("/")[-2:]) if part.startswith(("/", "../")) else part


if __name__ == "__main__":
    sys.stdout.write(json.dumps(record(sys.argv[1] if len(sys.argv) > 1 else "", sys.argv[2:])) + "\n")
