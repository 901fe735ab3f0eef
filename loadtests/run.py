"""`prunella loadtest` and `python -m loadtests.run`: what a server holds.

Scenarios: steady (closed loop), ramp (to the knee), burst, overload (twice the knee), soak (a million requests, and
the memory), swap (models and workers are changed meanwhile).
"""

import argparse
import json
import sys
import urllib.error
import urllib.request
from collections.abc import Sequence
from pathlib import Path
from typing import Any

from loadtests.changes import Changer
from loadtests.measure import ClientError, Found, Target
from loadtests.payloads import DIALECTS, payloads
from loadtests.report import write_report
from loadtests.scenarios import SCENARIOS, Asked, Outcome, find_knee
from loadtests.texts import TextsError, made_up_texts, read_texts
from loadtests.with_locust import Load, run_locust

WITHOUT_RATE = {"ramp", "soak"}
REFUSING_IS_RIGHT = {"ramp", "burst", "overload"}  # scenarios in which 429 is no failure


def main(arguments: Sequence[str] | None = None) -> int:
    """Run the load test and print its summary; return 0, 1 when a request failed, 2 when it was used wrongly."""
    options = _parser().parse_args(arguments)
    try:
        texts = read_texts(options.texts) if options.texts else made_up_texts()
    except TextsError as error:
        return _refuse(str(error))
    for url in (options.url, *options.against):
        path, body = payloads(texts[:1], options.dialect if options.dialect in DIALECTS else "native")[0]
        if (reason := _no_server(url, path, body)) is not None:
            return _refuse(f"no server answers at {url} ({reason}): start one with `prunella serve`")
    if options.scenario == "swap" and not (options.admin_token and options.bundle):
        return _refuse("the scenario swap needs --admin-token and --bundle, once or more")
    if options.rate and (options.scenario in WITHOUT_RATE or options.client == "locust"):
        return _refuse(f"--rate has no meaning for {options.client}'s {options.scenario}: leave it out")
    options.out.mkdir(parents=True, exist_ok=True)
    if options.client == "locust":
        return _with_locust(options, texts)
    try:
        outcome, summary = _run(options, texts)
    except ClientError as error:
        return _refuse(str(error), 1)
    write_report(options.out, summary, outcome.found)
    sys.stdout.write(json.dumps(summary) + "\n")
    return 0 if summary["requests"] and not summary["failures"] else 1


def _run(options: argparse.Namespace, texts: list[str]) -> tuple[Outcome, dict[str, Any]]:
    """Return what came out of the first server, the others' phases behind its own, and the summary."""
    asked = Asked(options.users, options.duration, options.rate, options.slo_ms, options.requests)
    headers = f"Authorization: Bearer {options.key}\r\n" if options.key else ""
    together, peers = Outcome(), []
    for i, url in enumerate((options.url, *options.against)):
        bodies = payloads(texts, options.dialect)
        target = Target(url if i else "ours", url.rstrip("/"), bodies, options.processes, headers, options.timeout)
        outcome = Outcome()
        asked_here = asked
        if options.find_knee and options.scenario != "ramp":
            rate = find_knee(target, asked, outcome)
            if options.scenario not in ("steady", "soak"):  # which stay in closed loop
                asked_here = Asked(asked.users, asked.seconds, rate, asked.slo_ms, asked.requests)
        changer = (Changer(url, options.admin_token or "", tuple(options.bundle), options.pid),)
        SCENARIOS[options.scenario](target, asked_here, outcome, *(changer if options.scenario == "swap" else ()))
        together.found += outcome.found
        if i:
            peers.append({"url": url, **_figures(outcome, options.scenario)})
        else:
            together.figures = _figures(outcome, options.scenario)
    summary = {
        "verb": "loadtest", "scenario": options.scenario, "dialect": options.dialect, **together.figures,
        "users": options.users, "duration_s": options.duration, "against": peers,
        "report": str(options.out / "report.html"), "report_json": str(options.out / "report.json"),
    }  # fmt: skip
    return together, summary


def _figures(outcome: Outcome, scenario: str) -> dict[str, Any]:
    """Return the figures of one server: counts over all phases, latency of the last one."""
    last: Found = outcome.found[-1]
    failures = sum(one.failures + (0 if scenario in REFUSING_IS_RIGHT else one.shed) for one in outcome.found)
    return {
        "requests": sum(one.requests for one in outcome.found),
        "failures": failures,
        "requests_per_second": last.requests_per_second,
        "p50_ms": last.p50_ms,
        "p95_ms": last.p95_ms,
        "p99_ms": last.p99_ms,
        "client_was_the_bottleneck": last.client_was_the_bottleneck,
        **outcome.figures,
    }


def _with_locust(options: argparse.Namespace, texts: list[str]) -> int:
    load = Load(options.users, options.duration, options.timeout)
    found = run_locust(options.url, texts, load, options.out)
    if found is None:
        return _refuse("locust ended without a result: what it printed is above")
    report = options.out / "report.json"
    summary = {"verb": "loadtest", "scenario": "steady", "client": "locust", **found, "users": options.users}
    summary |= {"report": str(options.out / "locust.html"), "report_json": str(report)}
    report.write_text(json.dumps(summary, indent=2) + "\n", encoding="utf-8")
    sys.stdout.write(json.dumps(summary) + "\n")
    return 0 if summary["requests"] and not summary["failures"] else 1


def _parser() -> argparse.ArgumentParser:
    parser = argparse.ArgumentParser(prog="prunella loadtest", description=(__doc__ or "").splitlines()[0])
    add = parser.add_argument
    add("--url", required=True, help="the server, such as http://127.0.0.1:3000")
    add("--scenario", choices=sorted(SCENARIOS), default="steady")
    add("--find-knee", action="store_true", help="first look for the highest rate that the server keeps up with")
    add(
        "--against",
        action="append",
        default=[],
        metavar="URL",
        help="another server, asked the same; again and again",
    )
    add("--users", type=_positive, default=8, help="how many ask at the same time, in closed loop")
    add(
        "--rate",
        type=float,
        default=0.0,
        help="requests a second: the knee, where it is known; for steady, open loop",
    )
    add("--duration", type=_positive, default=30, help="seconds of a phase")
    add("--timeout", type=_positive, default=20, help="seconds until a client gives up: the request counts as failed")
    add("--requests", type=_positive, default=1_000_000, help="of a soak")
    add("--slo-ms", type=float, default=100.0, help="p99 at which a server no longer keeps up")
    add("--dialect", choices=[*DIALECTS, "mix", "batch"], default="native")
    add("--processes", type=_positive, default=1, help="client processes")
    add("--client", choices=("ours", "locust"), default="ours")
    add("--key", help="API key of the server")
    add("--admin-token", help="of the server, for the scenario swap")
    add("--bundle", action="append", default=[], help="folder or tag that the scenario swap loads; several in turn")
    add("--pid", type=int, help="process of `prunella serve`: the scenario swap also restarts its workers")
    add("--out", type=Path, default=Path("out/loadtest"), help="folder of the reports")
    add("--texts", type=Path, help="CSV or JSONL with a column text; default: made-up texts of 5 to 300 words")
    return parser


def _positive(value: str) -> int:
    number = int(value)
    if number < 1:
        raise argparse.ArgumentTypeError(f"{value} is not 1 or more")
    return number


def _refuse(sentence: str, code: int = 2) -> int:
    sys.stderr.write(f"loadtests: {sentence}\n")
    return code


def _no_server(url: str, path: str, body: str) -> str | None:
    """Return why nothing answers at `url`, or None when something does."""
    try:
        request = urllib.request.Request(
            f"{url.rstrip('/')}{path}", body.encode(), {"Content-Type": "application/json"}
        )
        urllib.request.urlopen(request, timeout=30).close()
    except urllib.error.HTTPError:
        return None  # a server, and the run counts its refusals
    except (OSError, ValueError) as error:
        return str(getattr(error, "reason", error))
    return None


if __name__ == "__main__":
    sys.exit(main())
