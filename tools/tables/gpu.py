"""gpu_table(): Markdown table of the archived runs of `tools.gpu_study` in docs/results/gpu."""

from pathlib import Path
from typing import Any

from tools.archive_run import archived_runs, command_line
from tools.gpu_study import FP32, OURS, PROCESSOR, TORCH

NAMES = {
    OURS: "**ours, fp16**", FP32: "ours, fp32", TORCH: "PyTorch eager, fp16", PROCESSOR: "ours on one core, default"
}  # fmt: skip


def gpu_table(folder: Path) -> str:
    """Return a Markdown table with a line for each variant of each bundle, and the commands below it.

    Flips and the largest difference of a logit are against ours in fp32; times are medians in milliseconds.
    """
    runs = archived_runs(folder)
    sizes = [str(timing["batch"]) for timing in next(iter(runs.values()))["result"]["timings"]]
    times = " | ".join(f"ms, {size} at once" for size in sizes)
    lines = [
        f"| bundle | form | accuracy | flips | Δlogit | {times} | texts/s at most |",
        f"| --- | --- | ---: | ---: | ---: | {' | '.join('---:' for _ in sizes)} | ---: |",
    ]
    for name, run in runs.items():
        lines += [_line(name, form, run["result"]) for form in NAMES if form in run["result"]["answers"]]
    commands = [f"{command_line(name, run)} ({', '.join(run['machine']['gpus'])})" for name, run in runs.items()]
    return "\n".join([*lines, "", *commands])


def _line(name: str, form: str, result: dict[str, Any]) -> str:
    answers, timings = result["answers"][form], [timing.get(form) for timing in result["timings"]]
    cells = [
        name, NAMES[form], f"{100 * answers['accuracy']:.2f}", answers["flips"], f"{answers['max_difference']:.3f}",
        *("" if timing is None else f"{timing['ms']:.3g}" for timing in timings),
        f"{max(timing['texts_per_second'] for timing in timings if timing is not None):,.0f}",
    ]  # fmt: skip
    return "| " + " | ".join(str(cell) for cell in cells) + " |"
