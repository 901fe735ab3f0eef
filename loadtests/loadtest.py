"""Load test of a running server: `prunella loadtest` and `python -m loadtests.loadtest`.

Scenarios: steady (constant load), ramp (up to the knee, the highest rate that the server keeps up with), burst,
overload (twice the knee), soak (a million requests, and memory before and after), swap (models and workers are
changed under load); and single-stream, multi-stream, server and offline, after MLPerf's definitions.
"""

import argparse
import json
import sys
import time
import urllib.error
import urllib.request
from collections.abc import Sequence
from dataclasses import replace
from pathlib import Path
from typing import Any

from loadtests.changes import Changer
from loadtests.load_report import write_report
from loadtests.mlperf import MLPERF
from loadtests.payloads import DIALECTS, payloads
from loadtests.phase import ClientError, PhaseResult, Target
from loadtests.sample_texts import TextsError, made_up_texts, read_texts
from loadtests.scenarios import SCENARIOS, Outcome, ScenarioSettings, find_knee
from loadtests.with_loadgen import LoadgenLoad, run_loadgen
from loadtests.with_locust import LocustLoad, run_locust

ALL_SCENARIOS = SCENARIOS | MLPERF
WITHOUT_RATE = {"ramp", "soak", *MLPERF}
MAY_REFUSE = {"ramp", "burst", "overload", "server"}  # scenarios in which a 429 is not a failure


def main(arguments: Sequence[str] | None = None) -> int:
    """Run the load test and print its summary.

    Returns:
        The exit code: 0, 1 if a request or a client failed, 2 for wrong use.
    """
    options = make_parser().parse_args(arguments)
    try:
        texts = read_texts(options.texts) if options.texts else made_up_texts()
    except TextsError as error:
        return _refuse(str(error))
    for url in (options.url, *options.against):
        path, body = payloads(texts[:1], options.dialect if options.dialect in DIALECTS else "native")[0]
        if (reason := _unreachable(url, path, body)) is not None:
            return _refuse(f"no server answers at {url} ({reason}): start one with `prunella serve`")
    if options.scenario == "swap" and not (options.admin_token and options.bundle):
        return _refuse("the scenario swap needs --admin-token and at least one --bundle")
    if options.client == "loadgen":
        return _run_with_loadgen(options, texts)
    if options.rate and (options.scenario in WITHOUT_RATE or options.client == "locust"):
        return _refuse(
            f"--rate cannot be used with --scenario {options.scenario} --client {options.client}: remove it"
        )
    options.out.mkdir(parents=True, exist_ok=True)
    if options.client == "locust":
        return _run_with_locust(options, texts)
    try:
        outcome, summary = _run(options, texts)
    except ClientError as error:
        return _refuse(str(error), 1)
    write_report(options.out, summary, outcome.phases)
    sys.stdout.write(json.dumps(summary) + "\n")
    return 0 if summary["requests"] and not summary["failures"] else 1


def _run(options: argparse.Namespace, texts: list[str]) -> tuple[Outcome, dict[str, Any]]:
    """Run the scenario against each server.

    Returns:
        The phases of all servers with the figures of the first one, and the summary.
    """
    start = time.perf_counter()
    settings = ScenarioSettings(
        options.users, options.duration, options.rate, options.slo_ms, options.requests, tuple(texts)
    )
    headers = f"Authorization: Bearer {options.key}\r\n" if options.key else ""
    combined, baselines = Outcome(), []
    for i, url in enumerate((options.url, *options.against)):
        bodies = payloads(texts, options.dialect)
        target = Target(url if i else "ours", url.rstrip("/"), bodies, options.processes, headers, options.timeout)
        outcome = Outcome()
        scenario_settings = settings
        if options.find_knee and options.scenario not in ("ramp", "server"):
            rate = find_knee(target, settings, outcome)
            if options.scenario not in ("steady", "soak", *MLPERF):  # these stay in closed loop
                scenario_settings = replace(settings, rate=rate)
        changer = (Changer(url, options.admin_token or "", tuple(options.bundle), options.pid),)
        ALL_SCENARIOS[options.scenario](
            target, scenario_settings, outcome, *(changer if options.scenario == "swap" else ())
        )
        combined.phases += outcome.phases
        if i:
            baselines.append({"url": url, **_figures(outcome, options.scenario)})
        else:
            combined.figures = _figures(outcome, options.scenario)
    summary = {
        "verb": "loadtest", "scenario": options.scenario, "dialect": options.dialect, **combined.figures,
        "users": options.users, "duration_s": options.duration, "against": baselines,
        "seconds": round(time.perf_counter() - start, 1),
        "report": str(options.out / "report.html"), "report_json": str(options.out / "report.json"),
    }  # fmt: skip
    return combined, summary


def _figures(outcome: Outcome, scenario: str) -> dict[str, Any]:
    """Return the figures of one server: counts over all phases, throughput and latency of the last phase."""
    last: PhaseResult = outcome.phases[-1]
    refused = 0 if scenario in MAY_REFUSE else sum(result.shed for result in outcome.phases)
    return {
        "requests": sum(result.requests for result in outcome.phases),
        "failures": refused + sum(result.failures for result in outcome.phases),
        "requests_per_second": last.requests_per_second,
        "p50_ms": last.p50_ms,
        "p90_ms": last.p90_ms,
        "p95_ms": last.p95_ms,
        "p99_ms": last.p99_ms,
        "client_was_the_bottleneck": last.client_was_the_bottleneck,
        **outcome.figures,
    }


def _run_with_locust(options: argparse.Namespace, texts: list[str]) -> int:
    start = time.perf_counter()
    load = LocustLoad(options.users, options.duration, options.timeout)
    result = run_locust(options.url, texts, load, options.out)
    if result is None:
        return _refuse("locust ended without a result: its output is above")
    report = options.out / "report.json"
    summary = {"verb": "loadtest", "scenario": "steady", "client": "locust", **result, "users": options.users}
    seconds = round(time.perf_counter() - start, 1)
    summary |= {"report": str(options.out / "locust.html"), "report_json": str(report), "seconds": seconds}
    report.write_text(json.dumps(summary, indent=2) + "\n", encoding="utf-8")
    sys.stdout.write(json.dumps(summary) + "\n")
    return 0 if summary["requests"] and not summary["failures"] else 1


def _run_with_loadgen(options: argparse.Namespace, texts: list[str]) -> int:
    start = time.perf_counter()
    if options.scenario not in MLPERF or options.dialect != "native":
        return _refuse(f"--client loadgen has the scenarios {', '.join(MLPERF)}, and the dialect native")
    if bool(options.rate) != (options.scenario == "server"):
        return _refuse("--client loadgen needs --rate for the scenario server, and takes it for no other")
    load = LoadgenLoad(
        options.scenario, options.duration, options.users, options.rate, options.slo_ms, options.timeout, options.key
    )
    options.out.mkdir(parents=True, exist_ok=True)
    try:
        result = run_loadgen(options.url, texts, load, options.out)
    except ImportError:
        return _refuse("--client loadgen needs the package mlcommons-loadgen: pip install 'prunella[loadgen]'")
    report = options.out / "report.json"
    summary = {"verb": "loadtest", "scenario": options.scenario, "client": "loadgen", **result}
    summary |= {"report_json": str(report), "seconds": round(time.perf_counter() - start, 1)}
    report.write_text(json.dumps(summary, indent=2) + "\n", encoding="utf-8")
    sys.stdout.write(json.dumps(summary) + "\n")
    return 0 if summary["requests"] and not summary["failures"] else 1


def make_parser() -> argparse.ArgumentParser:
    """Return the parser of the options of `prunella loadtest`."""
    parser = argparse.ArgumentParser(prog="prunella loadtest", description=(__doc__ or "").splitlines()[0])
    add = parser.add_argument
    add("--url", required=True, help="URL of the server, such as http://127.0.0.1:3000")
    add("--scenario", choices=sorted(ALL_SCENARIOS), default="steady")
    add(
        "--find-knee",
        action="store_true",
        help="first search for the knee: the highest rate that the server keeps up with",
    )
    add(
        "--against",
        action="append",
        default=[],
        metavar="URL",
        help="URL of another server that gets the same requests, for comparison; may be repeated",
    )
    add("--users", type=_positive, default=8, help="concurrent users in closed loop")
    add(
        "--rate",
        type=float,
        default=0.0,
        help="requests per second: for steady the rate of an open loop, otherwise the knee, if it is known",
    )
    add("--duration", type=_positive, default=30, help="seconds per phase")
    add(
        "--timeout",
        type=_positive,
        default=20,
        help="seconds until a client gives up; the request then counts as failed",
    )
    add("--requests", type=_positive, default=1_000_000, help="number of requests in the scenario soak")
    add("--slo-ms", type=float, default=100.0, help="limit of the p99 latency: above it the server does not keep up")
    add("--dialect", choices=[*DIALECTS, "mix", "batch"], default="native", help="protocol of the requests")
    add("--processes", type=_positive, default=1, help="number of client processes")
    add(
        "--client",
        choices=("ours", "locust", "loadgen"),
        default="ours",
        help="client: Prunella's own, locust, or MLCommons' generator (scenarios of MLPerf only)",
    )
    add("--key", help="API key of the server")
    add("--admin-token", help="admin token of the server, for the scenario swap")
    add("--bundle", action="append", default=[], help="folder or tag that the scenario swap loads; may be repeated")
    add("--pid", type=int, help="PID of `prunella serve`: the scenario swap then also restarts its workers")
    add("--out", type=Path, default=Path("out/loadtest"), help="folder for the reports")
    add("--texts", type=Path, help="CSV or JSONL file with a column text; default: generated texts of 5 to 300 words")
    return parser


def _positive(value: str) -> int:
    number = int(value)
    if number < 1:
        raise argparse.ArgumentTypeError(f"{value} must be 1 or more")
    return number


def _refuse(message: str, code: int = 2) -> int:
    """Print an error message, and return the exit code."""
    sys.stderr.write(f"loadtests: {message}\n")
    return code


def _unreachable(url: str, path: str, body: str) -> str | None:
    """Return why no server answers at `url`, or None if one does."""
    try:
        request = urllib.request.Request(
            f"{url.rstrip('/')}{path}", body.encode(), {"Content-Type": "application/json"}
        )
        urllib.request.urlopen(request, timeout=30).close()
    except urllib.error.HTTPError:
        return None  # a server answered; the run counts its errors
    except (OSError, ValueError) as error:
        return str(getattr(error, "reason", error))
    return None


if __name__ == "__main__":
    sys.exit(main())
