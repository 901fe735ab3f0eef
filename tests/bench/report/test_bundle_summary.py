"""The report that lies in a bundle: a new measurement renews what it measured, and destroys nothing else."""

import json

import pytest
from serving import make_tiny_bundle
from tiny import tiny_texts

from bench.engines.available import Inputs
from bench.engines.reference import find_reference
from bench.measure.accuracy.difference import Difference
from bench.report.bench_config import BenchConfig
from bench.report.build import run_bench
from bench.report.bundle_summary import LOSS, SPEED, check_place, merged, renew_report
from compress.candidate_report import summary
from compress.candidates import Candidate
from compress.search.latency_meter import Measured
from compress.search.search_to_target import Target
from models.data.roles import RowRoles
from models.data.texts import Texts
from models.errors import FolderError
from models.store.folder import REPORT
from service.model.bundle import Bundle

COMPRESSED = {
    "asked": "4x", "target_met": True, "vocabulary": {"kept": 19779}, "accuracy": 0.95, "reference_accuracy": 0.96,
    "loss_is": "accuracy", "loss_points": 1.0, "loss_interval": [0.2, 1.8], "loss_is_inside": "likely",
    "max_loss": 1.0, "rows": 870, "speedup": {"ort_fp32": 4.1}, "reference": "ort_fp32",
    "p50_ms": {"ours": 2.0, "ort_fp32": 8.2},
    "batch": 1, "threads": 1, "bytes": 10, "architecture": "6 layers",
}  # fmt: skip


@pytest.fixture(scope="module")
def made(tmp_path_factory):
    store = tmp_path_factory.mktemp("store")
    return store, Bundle.open(make_tiny_bundle(store))


def measure(made, data, out):
    store, bundle = made
    config = BenchConfig(against=("ort_fp32",), batches=(1,), texts=4, rounds=3, openings=2)
    return run_bench(Inputs(bundle, find_reference(bundle, store), data, None), config, store, out)


def test_rows_without_labels_keep_the_loss_and_the_rows_that_it_is_of(made, tmp_path):
    folder = made[1].folder.path
    (folder / REPORT).write_text(json.dumps(COMPRESSED))
    measure(made, Texts(tiny_texts(6).rows, None, "x"), tmp_path)
    told = made[1].report()
    kept = (
        "loss_points",
        "loss_interval",
        "rows",
        "accuracy",
        "reference_accuracy",
        "asked",
        "vocabulary",
        "max_loss",
    )
    assert {key: told[key] for key in kept} == {key: COMPRESSED[key] for key in kept}
    assert told["p50_ms"] != COMPRESSED["p50_ms"]
    assert "target_met" not in told  # it was said of the older speed-up


def test_labelled_rows_renew_the_loss_as_a_whole(made, tmp_path):
    folder = made[1].folder.path
    (folder / REPORT).write_text(json.dumps(COMPRESSED))
    report = measure(made, tiny_texts(20), tmp_path)
    told = made[1].report()
    assert told["rows"] == 20
    assert told["loss_points"] == pytest.approx(report.engine("ours").difference.loss_points, rel=1e-3)
    assert told["accuracy"] == report.engine("ours").score.accuracy
    assert "loss_is_inside" not in told  # it was said of the older loss
    assert (told["asked"], told["vocabulary"]) == ("4x", {"kept": 19779})
    assert Bundle.open(folder).id == made[1].id


def test_what_was_never_measured_comes_in():
    assert merged({}, {"rows": 4, "accuracy": 1.0, "reference": None}) == {
        "rows": 4,
        "accuracy": 1.0,
        "reference": None,
    }
    assert merged({"variants": ["a"]}, {"speedup": {"ort_fp32": 2.0}}) == {
        "variants": ["a"],
        "speedup": {"ort_fp32": 2.0},
    }


OF_THE_COMPRESSION = {  # what a later measurement of other rows, or on another machine, does not change
    "asked", "choosing_loss_points", "choosing_rows", "bytes", "architecture", "embedding_bits", "vocabulary",
    "teachers",
}  # fmt: skip


def test_each_key_of_a_compression_is_renewed_with_its_group_or_is_of_the_compression():
    measured = Measured(ours_ms=2.0, reference_ms=8.0, speedup=4.0, bytes=10, interval=(3.9, 4.1))
    candidate = Candidate(
        target=Target(kind="speedup", value=4.0), folder="bundle", id="0", architecture="2 layers", measured=measured,
        score=0.9, reference_score=0.9,
        difference=Difference(
            rows=1000, loss_points=0.0, loss_interval=(-1, 1), mcnemar_p=1.0, flips=0, lost=0, won=0
        ),
        choosing=Difference(rows=9, loss_points=0.0, loss_interval=(-1, 1), mcnemar_p=1.0, flips=0, lost=0, won=0),
    )  # fmt: skip
    roles = RowRoles(tiny_texts(6), None).summary() | {"judged_on_training_rows": "unknown"}
    keys = {*summary(candidate, 1.0), *roles}
    assert keys - OF_THE_COMPRESSION <= {*LOSS, *SPEED}


def test_a_reference_that_did_not_run_leaves_loss_and_speedup():
    newer = {"rows": 9, "reference": None, "accuracy": 0.5, "p50_ms": {"ours": 3.0}, "speedup": {}, "bytes": 11}
    assert merged(COMPRESSED, newer) == COMPRESSED | {"bytes": 11}


def test_a_bundle_that_cannot_be_written_keeps_its_report_and_the_measurement_is_not_lost(made, tmp_path, capsys):
    path = made[1].folder.path / REPORT
    path.unlink()
    path.mkdir()  # nobody, root included, can put a file there
    try:
        measure(made, tiny_texts(6), tmp_path)
        assert (tmp_path / "report.json").is_file()
        assert "was not updated" in capsys.readouterr().err
        assert path.is_dir()
        assert not [p for p in path.parent.iterdir() if p.name.startswith(f".{REPORT}")]  # no half of a file
    finally:
        path.rmdir()


def test_a_damaged_report_is_left_for_people_to_see(tmp_path, capsys):
    (tmp_path / REPORT).write_text("{")
    renew_report(tmp_path, {"rows": 1})
    assert (tmp_path / REPORT).read_text() == "{"
    assert "was not updated" in capsys.readouterr().err


def test_a_place_that_cannot_be_written_is_refused_before_anything_is_measured(made, tmp_path):
    (tmp_path / "file").write_text("")
    with pytest.raises(FolderError, match="choose another --out"):
        check_place(tmp_path / "file" / "out")
    with pytest.raises(FolderError, match="choose another --out"):
        measure(made, tiny_texts(6), tmp_path / "file")
