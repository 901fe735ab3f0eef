"""training_table(), defaults_table() and speed_table(): Markdown tables of the archived runs in docs/results."""

from pathlib import Path
from typing import Any

from tools.archive_run import archived_runs, command_line

METRICS = ("accuracy", "macro_f1")
DEFAULTS_SUFFIXES = ("-before", "-best")


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


def defaults_table(folder: Path) -> str:
    """Return a Markdown table of the defaults of `finetune`, with a line for each set, and the commands below it.

    Of a set NAME the runs are NAME (without flags), NAME-before (without flags, before the recipe was chosen from the
    data) and NAME-best (the best recipe known), if they were made. A cell gives the accuracy on the test rows as in
    `training_table`, and the number of steps.
    """
    runs = archived_runs(folder)
    names = [name for name in runs if not name.endswith(DEFAULTS_SUFFIXES)]
    lines = [
        "| set | test rows | defaults before | defaults now | best recipe known | now minus best, points |",
        "| --- | ---: | ---: | ---: | ---: | ---: |",
    ]
    for name in names:
        now, before, best = (runs.get(name + suffix, {}).get("result") for suffix in ("", *DEFAULTS_SUFFIXES))
        difference = f"{100 * (_mean(now) - _mean(best)):+.2f}" if best else ""
        cells = [name, str(now["test_rows"]), *(_with_steps(one) for one in (before, now, best)), difference]
        lines.append("| " + " | ".join(cells) + " |")
    return "\n".join([*lines, "", *[command_line(name, run) for name, run in sorted(runs.items())]])


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


def _mean(result: dict[str, Any]) -> float:
    return float(result.get("spread", {}).get("test_accuracy", {}).get("mean", result["test_accuracy"]))


def _with_steps(result: dict[str, Any] | None) -> str:
    return f"{_score(result, 'test_accuracy')} ({result['steps']} steps)" if result else ""


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
