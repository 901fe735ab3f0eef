"""The tables of docs/results/teachers.md: full models, students and comparisons, each run with its command."""

import json
from pathlib import Path
from typing import Any

from tools.tables.teachers import teachers_table

LOSS = {"loss_is": "accuracy", "loss_points": -0.5, "loss_interval": [-1.5, 0.4], "rows": 872, "accuracy": 0.91}
FAST = {"speedup": {"ort_fp32": 8.04}, "speedup_interval": [7.9, 8.2], "p50_ms": {"ours": 0.61, "ort_fp32": 4.9}}
RUNS: dict[str, dict[str, Any]] = {
    "minilm": {
        "verb": "finetune", "test_accuracy": 0.8987, "test_rows": 872, "seconds": 1200.4, "tokens_per_second": 1500
    },
    "family": {
        "verb": "compress",
        "family": [
            {
                **LOSS, **FAST, "asked": "8x", "bytes": 12_000_000, "reference_accuracy": 0.905,
                "architecture": "2 layers, width 64, heads/ffn 2/288 1/96",
                "teachers": [{"teacher": "mpnet", "loss_points": 3.1, "loss_interval": [1.4, 4.8], "rows": 872}],
            }
        ],
    },
    "8x-mpnet": {
        "verb": "bench", **LOSS, **FAST, "reference_accuracy": 0.944, "text_to_answer": {"speedup": {"ort_fp32": 7.5}}
    },
    "ablation": {"students": []},  # of another command
}  # fmt: skip


def archive(folder: Path) -> None:
    for name, result in RUNS.items():
        run = {"command": f"prunella {name}", "result": result}
        (folder / f"{name}.json").write_text(json.dumps(run))


def test_each_run_is_in_the_table_of_its_command(tmp_path):
    archive(tmp_path)
    models, students, compared, commands = teachers_table(tmp_path).split("\n\n")
    assert models.splitlines()[2:] == ["| minilm | 89.87% | 872 | 1200 | 1,500 |"]
    assert students.splitlines()[2:] == [
        "| family | 8x | 8.0x [7.9, 8.2] | 12.0 | 91.00% | -0.50 [-1.50, +0.40] | +3.10 [+1.40, +4.80] | 872 "
        "| 2/288 1/96 |"
    ]
    assert compared.splitlines()[2:] == [
        "| 8x-mpnet | 8.0x [7.9, 8.2] | 7.5x | 4.90 to 0.610 | 94.40%, 91.00% | -0.50 [-1.50, +0.40] | 872 |"
    ]
    assert [line.split("`")[1] for line in commands.splitlines()] == ["8x-mpnet", "family", "minilm"]
