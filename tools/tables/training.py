"""training_table() and speed_table(): Markdown tables of the archived runs in docs/results/training."""

from pathlib import Path
from typing import Any

from tools.archive_run import archived_runs, command_line

METRICS = ("accuracy", "macro_f1")


def training_table(folder: Path) -> str:
    """Return a Markdown table with a line for each fine-tuning in `folder`, and the commands below it.

    A line gives the scores on the test rows, or on the validation rows where there is no test set, as mean ± sample
    standard deviation over the seeds, and the training time of one seed in seconds.
    """
    runs = archived_runs(folder)
    lines = [
        "| run | judged on | rows | accuracy | macro F1 | seeds | training, s a seed | tokens/s |",
        "| --- | --- | ---: | ---: | ---: | ---: | ---: | ---: |",
    ]
    trainings = {name: run for name, run in runs.items() if run["result"].get("verb") == "finetune"}
    lines += [_line(name, run["result"]) for name, run in trainings.items()]
    return "\n".join([*lines, "", *[command_line(name, run) for name, run in trainings.items()]])


def speed_table(folder: Path) -> str:
    """Return a Markdown table with a line for each run of `tools.training_speed`: medians, and [least, most]."""
    lines = [
        "| rows | batch x most tokens | ours, tokens/s | Trainer, tokens/s | ratio "
        "| FLOP utilisation, ours | Trainer |",
        "| --- | --- | ---: | ---: | ---: | ---: | ---: |",
    ]
    runs = [run for run in archived_runs(folder).values() if "flop_utilisation" in run["result"].get("ours", {})]
    for run in runs:
        result = run["result"]
        ours, theirs = result["ours"], result["trainer"]
        cells = [
            "/".join(result["data"]), f"{result['batch_size']} x {result['max_tokens']}",
            _range(ours["tokens_per_second"], ",.0f"), _range(theirs["tokens_per_second"], ",.0f"),
            _range(result["ours_over_trainer"], ".2f"),
            _range(ours["flop_utilisation"], ".2f"), _range(theirs["flop_utilisation"], ".2f"),
        ]  # fmt: skip
        lines.append("| " + " | ".join(cells) + " |")
    return "\n".join([*lines, "", *[f"- `{run['command']}` ({run['result']['precision']})" for run in runs]])


def _range(spread: dict[str, float], form: str) -> str:
    return f"{spread['median']:{form}} [{spread['least']:{form}}, {spread['most']:{form}}]"


def _line(name: str, result: dict[str, Any]) -> str:
    part = "test" if "test_rows" in result else "validation"
    prefix = "test_" if part == "test" else ""
    scores = [_score(result, prefix + metric) for metric in METRICS]
    seeds = len(result.get("seeds", [0]))
    cells = [
        name,
        part,
        result[f"{prefix}rows"],
        *scores,
        seeds,
        round(result["seconds"]),
        result["tokens_per_second"],
    ]
    return "| " + " | ".join(str(cell) for cell in cells) + " |"


def _score(result: dict[str, Any], metric: str) -> str:
    spread = result.get("spread", {}).get(metric)
    if spread is None:
        return f"{100 * result[metric]:.2f}"
    return f"{100 * spread['mean']:.2f} ± {100 * spread['deviation']:.2f}"
