"""Other engines, where they are installed (the extra `peers`): they answer as the model that they are made of."""

from pathlib import Path

import numpy as np
import pytest
from serving import make_tiny_bundle
from tiny import tiny_texts

from bench.engines.available import Inputs, engine_specs
from bench.engines.reference import find_reference
from bench.measure.latency.worker_pool import open_fleet
from bench.report.bench_config import BenchConfig
from bench.report.build import run_bench
from export.baseline.other_engines import CALIBRATION_ROWS, CalibrationTexts
from models.data.texts import Texts
from models.tokenizer import Tokenizer
from service.model.bundle import Bundle

PACKAGES = {"openvino": ("openvino", "nncf"), "ctranslate2": ("ctranslate2",)}


@pytest.fixture(scope="module")
def made(tmp_path_factory):
    store = tmp_path_factory.mktemp("store")
    return store, Bundle.open(make_tiny_bundle(store))


@pytest.mark.parametrize("name", PACKAGES)
def test_peers_answer_like_the_reference(made, tmp_path, name):
    for package in PACKAGES[name]:
        pytest.importorskip(package)
    store, bundle = made
    inputs = Inputs(bundle, find_reference(bundle, store), tiny_texts(30), tiny_texts(30))
    config = BenchConfig(against=("ort_fp32", name), batches=(1, 4), texts=4, rounds=3, openings=2)
    report = run_bench(inputs, config, store, tmp_path)
    row = report.engines[2]
    assert (row.status, row.problem) == ("ok", None)
    assert row.difference.flips <= 6  # int8 of a random model with small margins; chance alone flips 15
    assert len(row.timings) == 3
    assert all(t.mean_tokens and t.mean_padded_tokens >= t.mean_tokens for t in row.timings)


@pytest.mark.parametrize("name", PACKAGES)
def test_a_peer_holds_no_training_texts_and_no_other_engine(made, name):
    for package in PACKAGES[name]:
        pytest.importorskip(package)
    store, bundle = made
    inputs = Inputs(bundle, find_reference(bundle, store), tiny_texts(4), tiny_texts(30))
    spec = engine_specs(inputs, (name,), store).engines[name]
    assert spec.train is None
    with open_fleet([spec], show=False) as fleet:
        assert not fleet.problems
        maps = Path(f"/proc/{fleet.running[name].pid}/maps").read_text()
    assert "libtorch" not in maps
    assert "onnxruntime" not in maps


def test_a_peer_that_is_not_installed_is_a_row_that_says_what_to_do(made, tmp_path, monkeypatch):
    from importlib.metadata import PackageNotFoundError

    def missing(package):
        raise PackageNotFoundError(package)

    monkeypatch.setattr("export.baseline.other_engines.version", missing)
    store, bundle = made
    inputs = Inputs(bundle, find_reference(bundle, store), tiny_texts(30), tiny_texts(30))
    specs = engine_specs(inputs, ("openvino", "ctranslate2"), tmp_path)
    assert {name: status for name, (status, _) in specs.problems.items()} == dict.fromkeys(PACKAGES, "absent")
    assert all("prunella[peers]" in told for _, told in specs.problems.values())


def test_calibration_texts_are_drawn_at_random_and_as_long_as_those_that_are_served(made):
    store, bundle = made
    tokenizer = Tokenizer.open(find_reference(bundle, store).path, 32)
    words = [" ".join(["good"] * (n % 20 + 1)) + f" {chr(97 + n % 26)}" for n in range(4000)]
    train = Texts([(w,) for w in sorted(words, key=len)], ["a", "b"] * 2000, "sorted by length")
    served = Texts([(" ".join(["film"] * n),) for n in (9, 10, 11)] * 50, None, "served")
    texts = CalibrationTexts(train, served, 32)
    rows = texts.choose(tokenizer)
    places = [train.rows.index(row) for row in rows]
    lengths = np.array([len(e.ids) for e in tokenizer.encode(rows)])
    assert len(rows) == CALIBRATION_ROWS
    assert min(places) > CALIBRATION_ROWS  # not the first of the file
    assert rows == texts.choose(tokenizer)
    assert np.abs(np.median(lengths) - 12) <= 1


def test_what_decides_the_calibration_is_in_its_key():
    train, served = tiny_texts(30), tiny_texts(10)
    keys = [
        CalibrationTexts(*arguments).settings()
        for arguments in ((train, served, 32), (train, served, 64), (tiny_texts(31), served, 32), (train, train, 32))
    ]
    assert len({str(key) for key in keys}) == 4
