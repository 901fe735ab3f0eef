"""tools.archive_run keeps what a command told, and the tables are made of it."""

import json
import sys
from xml.etree import ElementTree

import pytest

from bench.measure.latency.timing import machine_card
from models.errors import CheckError, FolderError, InputError
from tools import archive_run as module
from tools.archive_run import archived_runs, record
from tools.tables.compression import compression_table, students_table
from tools.tables.compression_plot import draw_compression, mode_of
from tools.tables.training import defaults_table

POINT = {
    "asked": "8x", "accuracy": 0.8945, "loss_is": "accuracy", "loss_points": 0.46, "loss_interval": [-0.57, 1.49],
    "speedup": {"ort_fp32": 7.91}, "p50_ms": {"ours": 0.5, "ort_fp32": 3.95}, "bytes": 9_870_000, "rows": 872,
    "architecture": "6 layers, width 384, heads/ffn 2/288 1/96", "folder": "/home/somebody/store/bundle-1",
}  # fmt: skip


@pytest.fixture(autouse=True)
def results(tmp_path, monkeypatch):
    monkeypatch.setattr(module, "RESULTS", tmp_path)
    return tmp_path


def telling(told):
    return [sys.executable, "-c", f"print('for people'); print({json.dumps(told)!r})"]


def test_what_is_kept_names_no_place_on_this_machine(results):
    told = {
        "verb": "compress", "folder": "/tmp/x", "family": [POINT, POINT | {"asked": "12x"}], "report": "/tmp/y",
        "unreached": {"4x": "/home/somebody/store/bundle-2 has 3.8x, 4x was asked for"},
    }  # fmt: skip
    kept = record("compression/a", telling(told))
    assert archived_runs(results / "compression") == {"a": kept}
    assert kept["result"]["family"][0] == {key: value for key, value in POINT.items() if key != "folder"}
    assert set(kept["result"]) == {"verb", "family", "unreached"}
    assert kept["result"]["unreached"] == {"4x": "store/bundle-2 has 3.8x, 4x was asked for"}
    assert kept["command"].startswith("python -c")
    assert kept["machine"]["processor"]


def test_a_failed_check_that_printed_its_result_is_a_result():
    """`prunella compress` ends with 1 when the bundle is there and misses its target."""
    code = f"print({json.dumps(POINT)!r}); raise SystemExit(1)"
    assert record("compression/a", [sys.executable, "-c", code])["exit_code"] == 1
    assert "exit_code" not in record("compression/a", telling(POINT))


def test_the_largest_process_is_told():
    code = "import json; taken = bytearray(200_000_000); print(json.dumps({'a': len(taken)}))"
    assert record("compression/a", [sys.executable, "-c", code])["peak_mb"] > 190


def test_a_table_has_a_line_for_each_point_and_the_command(results):
    record("compression/many", telling({"family": [POINT, POINT | {"asked": "12x"}]}))
    record("compression/one", telling(POINT))
    lines = compression_table(results / "compression").splitlines()
    processor = machine_card()["processor"]
    assert [line.split(" | ")[:3] for line in lines if line.startswith(("| many", "| one"))] == [
        ["| many", processor, "8x"], ["| many", processor, "12x"], ["| one", processor, "8x"],
    ]  # fmt: skip
    wanted = (
        f"| many | {processor} | 8x | 7.91x | 0.50, 3.95 | 9.9 | 89.45 | +0.46 [-0.57, +1.49] | 872 | 2/288 1/96 |"
    )
    assert wanted in lines
    assert sum(line.startswith("- `") for line in lines) == 2


def test_the_figure_has_a_mark_for_each_point_and_knows_each_set(results):
    record("compression/trec-many", telling({"family": [POINT, POINT | {"asked": "12x", "loss_points": 1.2}]}))
    folder, path = results / "compression", results / "figure.svg"
    draw_compression(folder, path)
    first = path.read_text(encoding="utf-8")
    ElementTree.fromstring(first)
    draw_compression(folder, path)
    assert path.read_text(encoding="utf-8") == first
    record("compression/trec-one", telling(POINT))
    draw_compression(folder, path)
    assert (
        path.read_text(encoding="utf-8").count("<use") == first.count("<use") + 3
    )  # a mark, two ends of its interval
    record("compression/unknown", telling(POINT))
    with pytest.raises(FolderError, match="has unknown: wanted names that begin with sst2"):
        draw_compression(folder, path)


@pytest.mark.parametrize(
    ("flags", "mode"),
    [
        ("--mode instant --texts more.jsonl", "untrained"),
        ("--mode standard", "healed"),
        ("--mode standard --texts more.jsonl", "healed, with --texts"),
    ],
)
def test_a_mark_says_how_the_model_was_made(flags, mode):
    assert mode_of(f"prunella compress model {flags}") == mode


def test_only_a_whole_student_has_no_differences():
    found = {
        "healed": False, "name": "all of it", "shape": "1/96", "accuracy": 0.9, "points": 0.0, "divergence": 0.1,
        "points_interval": [0.0, 0.0], "more_divergence": 0.0, "more_divergence_interval": [0.0, 0.0],
    }  # fmt: skip
    other = found | {"name": "no refit", "points": 2.0, "points_interval": [1.0, 3.0]}
    _, _, whole, refitted_not = students_table([found, other]).splitlines()
    assert whole == "| all of it | 1/96 | 90.00% |  | 0.100 |  |"
    assert refitted_not == "| no refit | 1/96 | 90.00% | +2.0 [+1.0, +3.0] | 0.100 | +0.000 [+0.000, +0.000] |"


@pytest.mark.parametrize("name", ["", "alone", "too/many/parts"])
def test_a_name_without_a_kind_is_refused(name):
    with pytest.raises(InputError, match="usage"):
        record(name, telling({}))


def test_a_command_that_fails_or_tells_nothing_leaves_no_file(results):
    for command in ([sys.executable, "-c", "raise SystemExit(1)"], [sys.executable, "-c", "print('no JSON')"]):
        with pytest.raises(CheckError, match=r"exit code 1|is no JSON"):
            record("compression/a", command)
    assert not list(results.rglob("*.json"))


def test_the_table_of_the_defaults_compares_the_runs_of_a_set(results):
    one = {"test_accuracy": 0.9, "test_rows": 500, "steps": 80}
    several = {**one, "spread": {"test_accuracy": {"mean": 0.92, "deviation": 0.01}}}
    for name, result in {"a": several, "a-best": one | {"test_accuracy": 0.925}, "b": one, "b-before": one}.items():
        record(f"defaults/{name}", telling({"verb": "finetune", **result}))
    lines = defaults_table(results / "defaults").splitlines()
    assert lines[2:4] == [
        "| a | 500 |  | 92.00 ± 1.00 (80 steps) | 92.50 (80 steps) | -0.50 |",
        "| b | 500 | 90.00 (80 steps) | 90.00 (80 steps) |  |  |",
    ]
    assert [line.split("`")[1] for line in lines[5:]] == ["a", "a-best", "b", "b-before"]
