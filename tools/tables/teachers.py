"""teachers_table(): Markdown tables of the runs in docs/results/teachers: full models, students, and comparisons."""

from pathlib import Path
from typing import Any

from bench.report.markdown import points_lost, table
from models.architecture import shape_in
from tools.archive_run import archived_runs, command_line
from tools.tables.compression import points_of

Run = dict[str, Any]


def teachers_table(folder: Path) -> str:
    """Return a table of the fine-tuned models, one of the students, one of `prunella bench`, and all commands.

    Args:
        folder: archived runs of `prunella finetune`, `compress` and `bench`; files of other commands are left out.
    """
    runs = {name: run for name, run in archived_runs(folder).items() if "verb" in run.get("result", {})}

    def of(verb: str) -> list[tuple[str, Run]]:
        return [(name, run) for name, run in runs.items() if run["result"]["verb"] == verb]

    models = [_model(name, run["result"]) for name, run in of("finetune")]
    students = [_student(name, point) for name, run in of("compress") for point in points_of(run)]
    compared = [_comparison(name, run["result"]) for name, run in of("bench")]
    parts = [
        table(["full model", "accuracy", "test rows", "training, s", "tokens/s"], models),
        table(
            [
                "student", "asked", "speed-up over its full model [95 %]", "MB", "accuracy",
                "points lost against its full model [95 %]", "points lost against the teacher [95 %]", "rows",
                "heads/ffn",
            ],
            students,
        ),
        table(
            [
                "bundle against a full model", "speed-up [95 %]", "from text to answer", "ms", "accuracy of both",
                "points lost [95 %]", "rows",
            ],
            compared,
        ),
        "\n".join(command_line(name, run) for name, run in runs.items()),
    ]  # fmt: skip
    return "\n\n".join(parts)


def _model(name: str, result: Run) -> list[str]:
    return [
        name, f"{result['test_accuracy']:.2%}", f"{result['test_rows']:,}", f"{result['seconds']:.0f}",
        f"{result['tokens_per_second']:,}",
    ]  # fmt: skip


def _student(name: str, point: Run) -> list[str]:
    against = [one for one in point.get("teachers", []) if "loss_points" in one]
    return [
        name, point["asked"], _speedup(point), f"{point['bytes'] / 1e6:.1f}", f"{point['accuracy']:.2%}",
        _lost(point), ", ".join(map(_lost, against)) or "not measured", f"{point['rows']:,}",
        shape_in(point["architecture"]),
    ]  # fmt: skip


def _comparison(name: str, result: Run) -> list[str]:
    ms = result["p50_ms"]
    return [
        name, _speedup(result), f"{result['text_to_answer']['speedup']['ort_fp32']:.1f}x",
        f"{ms['ort_fp32']:.2f} to {ms['ours']:.3f}", f"{result['reference_accuracy']:.2%}, {result['accuracy']:.2%}",
        _lost(result), f"{result['rows']:,}",
    ]  # fmt: skip


def _speedup(result: Run) -> str:
    low, high = result["speedup_interval"]
    return f"{result['speedup']['ort_fp32']:.1f}x [{low:.1f}, {high:.1f}]"


def _lost(result: Run) -> str:
    return points_lost(result["loss_points"], result["loss_interval"])
