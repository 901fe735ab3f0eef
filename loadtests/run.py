"""`python -m loadtests.run --url URL`: how many requests a second a server answers, and how long each one waits.

locust runs in a process of its own, because gevent changes the standard library under everything beside it.
"""

import argparse
import json
import os
import statistics
import subprocess
import sys
import urllib.error
import urllib.request
from collections.abc import Sequence
from pathlib import Path
from typing import Any

from loadtests.texts import TextsError, made_up_texts, read_texts

LOCUSTFILE = Path(__file__).with_name("locustfile.py")


def main(arguments: Sequence[str] | None = None) -> int:
    """Run the load test and print its summary; return 0, 1 when a request failed, 2 when it was used wrongly."""
    options = _parser().parse_args(arguments)
    try:
        texts = read_texts(options.texts) if options.texts else made_up_texts()
    except TextsError as error:
        return _refuse(str(error))
    if (reason := _no_server(options.url, texts[0])) is not None:
        return _refuse(f"no server answers at {options.url} ({reason}): start one with `prunella serve`")
    options.out.mkdir(parents=True, exist_ok=True)
    found = _run_locust(options, texts)
    if found is None:
        return _refuse("locust ended without a result: what it printed is above")
    summary = _summary(options, found)
    Path(summary["report_json"]).write_text(json.dumps(summary, indent=2) + "\n", encoding="utf-8")
    sys.stdout.write(json.dumps(summary) + "\n")
    return 0 if summary["requests"] and not summary["failures"] else 1


def _parser() -> argparse.ArgumentParser:
    parser = argparse.ArgumentParser(prog="python -m loadtests.run", description=(__doc__ or "").splitlines()[0])
    parser.add_argument("--url", required=True, help="the server, such as http://127.0.0.1:3000")
    parser.add_argument("--users", type=_positive, default=8, help="how many ask at the same time")
    parser.add_argument("--duration", type=_positive, default=30, help="seconds")
    parser.add_argument("--out", type=Path, default=Path("out/loadtest"), help="folder of the reports")
    parser.add_argument("--texts", type=Path, help="CSV or JSONL with a column text; default: made-up texts")
    return parser


def _positive(value: str) -> int:
    number = int(value)
    if number < 1:
        raise argparse.ArgumentTypeError(f"{value} is not 1 or more")
    return number


def _refuse(sentence: str) -> int:
    sys.stderr.write(f"loadtests: {sentence}\n")
    return 2


def _no_server(url: str, text: str) -> str | None:
    """Return why nothing answers at `url`, or None when something does."""
    try:
        request = urllib.request.Request(
            f"{url.rstrip('/')}/v1/classify",
            json.dumps({"text": text}).encode(),
            {"Content-Type": "application/json"},
        )
        urllib.request.urlopen(request, timeout=10).close()
    except urllib.error.HTTPError:
        return None  # a server, and the run counts its refusals
    except (OSError, ValueError) as error:
        return str(getattr(error, "reason", error))
    return None


def _run_locust(options: argparse.Namespace, texts: list[str]) -> dict[str, Any] | None:
    texts_file, times_file = options.out / "texts.json", options.out / "times.json"
    texts_file.write_text(json.dumps(texts), encoding="utf-8")
    times_file.unlink(missing_ok=True)
    command = [sys.executable, "-m", "locust", "--locustfile", str(LOCUSTFILE), "--headless", "--only-summary"]
    command += ["--users", str(options.users), "--spawn-rate", str(options.users)]
    command += ["--run-time", f"{options.duration}s", "--host", options.url.rstrip("/")]
    command += ["--html", str(options.out / "report.html"), "--loglevel", "WARNING"]
    variables = {**os.environ, "LOADTEST_TEXTS": str(texts_file), "LOADTEST_TIMES": str(times_file)}
    subprocess.run(command, env=variables, stdout=sys.stderr, check=False)  # its exit code tells of failures only
    return json.loads(times_file.read_text(encoding="utf-8")) if times_file.is_file() else None


def _summary(options: argparse.Namespace, found: dict[str, Any]) -> dict[str, Any]:
    times: list[float] = found["times_ms"]
    cuts = statistics.quantiles(times, n=100, method="inclusive") if len(times) > 1 else None
    p50, p95, p99 = (round(cuts[p - 1], 3) if cuts else None for p in (50, 95, 99))
    return {
        "verb": "loadtest",
        "requests": found["requests"],
        "failures": found["failures"],
        "requests_per_second": round(len(times) / found["duration_s"], 1),
        "p50_ms": p50,
        "p95_ms": p95,
        "p99_ms": p99,
        "users": options.users,
        "duration_s": round(found["duration_s"], 2),
        "report": str(options.out / "report.html"),
        "report_json": str(options.out / "summary.json"),
    }


if __name__ == "__main__":
    sys.exit(main())
