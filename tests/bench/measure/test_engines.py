"""Engines in processes of their own: what they hold, what is timed of them, and what becomes of one that fails."""

import os
from dataclasses import replace
from pathlib import Path

import numpy as np
import onnx
import psutil
import pytest
from serving import make_tiny_bundle
from tiny import make_tiny_checkpoint, tiny_texts

from bench.engines.available import Inputs, engine_specs
from bench.engines.reference import find_reference
from bench.measure.engine_spec import EngineSpec
from bench.measure.latency import engine_worker as module
from bench.measure.latency.cpu_affinity import choose_cores
from bench.measure.latency.engine_worker import PIECE, Worker, WorkerError
from bench.measure.latency.process_restarts import Conditions, OpeningError, measure_openings
from bench.measure.latency.request_batches import make_requests
from bench.measure.latency.worker_pool import Cell, collect_answers, open_fleet, time_cell
from export.baseline import stock_export
from models.data.texts import Texts
from models.store.folder import Manifest, ModelFolder
from models.task import Task
from service.model.bundle import Bundle
from service.model.engine import Engine
from service.settings import Settings

TASK = Task(labels=("a", "b"))
ROWS = tiny_texts(12).rows
ODD = ("plain", "never_ready", "never_answers", "slow_rows", "gone", "talker", "collector")


@pytest.fixture(scope="module")
def made(tmp_path_factory):
    store = tmp_path_factory.mktemp("store")
    return store, Bundle.open(make_tiny_bundle(store))


@pytest.fixture
def odd(monkeypatch, tmp_path):
    """Return the specification of an engine of odd_engines.py."""
    for name in ODD:
        monkeypatch.setitem(module.OPENERS, name, f"odd_engines:{name}")
    return lambda name, timeout=60.0: EngineSpec(name, tmp_path, TASK, timeout=timeout)


def requests_of(rows, batch=1):
    lengths = [len(row[0].split()) for row in rows]
    return make_requests(rows, lengths, batch, "as received", Settings().rules())


def ended(process: int) -> bool:
    """Whether a process computes no more; one that nobody waited for may be left as a zombie."""
    try:
        return psutil.Process(process).status() == psutil.STATUS_ZOMBIE
    except psutil.NoSuchProcess:
        return True


def test_an_engine_that_is_never_ready_is_ended_with_all_it_started_before_others_are_timed(odd, tmp_path):
    with open_fleet([odd("never_ready", timeout=3.0), odd("plain")], show=False) as fleet:
        assert "no answer within 3 s" in fleet.problems["never_ready"]
        processes = [int(number) for number in (tmp_path / "pids").read_text().split()]
        assert len(processes) == 3
        assert all(ended(process) for process in processes)
        assert set(time_cell(fleet, requests_of(ROWS), Cell(1, None, 1), 3, show=False).seconds) == {"plain"}


def test_an_engine_that_stops_answering_is_ended_and_the_others_go_on(odd, tmp_path):
    with open_fleet([odd("never_answers", timeout=3.0), odd("plain")], show=False) as fleet:
        times = time_cell(fleet, requests_of(ROWS), Cell(1, None, 1), 3, show=False)
        assert (set(times.seconds), set(fleet.problems)) == ({"plain"}, {"never_answers"})
        assert ended(int((tmp_path / "pids").read_text()))


def test_a_pass_over_many_rows_may_take_longer_than_the_limit_of_a_piece(odd):
    rows = [("word " * (n % 5 + 1),) for n in range(3 * PIECE)]
    with open_fleet([odd("slow_rows", timeout=2.5)], show=False) as fleet:  # 3.1 s in all, 1 s a piece
        assert collect_answers(fleet, rows)["slow_rows"][:, 0].tolist() == [len(row[0]) for row in rows]
        assert not fleet.problems


def test_an_engine_that_ends_by_itself_is_one_failed_row(odd):
    with open_fleet([odd("gone"), odd("plain")], show=False) as fleet:
        assert set(time_cell(fleet, requests_of(ROWS), Cell(1, None, 1), 3, show=False).seconds) == {"plain"}
        assert fleet.problems == {"gone": "the process ended with exit code 7"}


def test_what_an_engine_prints_is_no_part_of_our_output(odd, capfd):
    with open_fleet([odd("talker")], show=False) as fleet:
        assert not fleet.problems
    told = capfd.readouterr()
    assert (told.out, "loading checkpoint shards" in told.err) == ("", True)


def test_no_collection_of_garbage_falls_into_a_time(odd, tmp_path):
    with open_fleet([odd("collector")], show=False) as fleet:
        time_cell(fleet, requests_of(ROWS[:2]), Cell(1, None, 1), 3, show=False)
        assert set((tmp_path / "collector").read_text().split()) == {"False"}
        collect_answers(fleet, ROWS[:1])
        assert (tmp_path / "collector").read_text().split()[
            -1
        ] == "True"  # as programs run it, where nothing is timed


def test_training_texts_go_to_the_engine_that_learns_and_to_no_other(made):
    store, bundle = made
    names = ("pytorch", "ort_fp32", "stock_int8", "torch_compile", "tfidf")
    train = tiny_texts(30)
    found = engine_specs(Inputs(bundle, find_reference(bundle, store), tiny_texts(4), train), names, store).engines
    assert {name for name, spec in found.items() if spec.train is not None} == {"tfidf"}
    assert set(found) == {"ours", *names}


def test_memory_of_an_engine_does_not_depend_on_the_training_texts(made):
    store, bundle = made
    reference = find_reference(bundle, store)
    large = Texts([(f"{n} " * 200,) for n in range(60_000)], ["positive", "negative"] * 30_000, "large")
    peaks = []
    for train in (None, large):
        spec = engine_specs(Inputs(bundle, reference, tiny_texts(4), train), ("ort_fp32",), store).engines["ort_fp32"]
        worker = Worker(spec)
        try:
            worker.answers(ROWS)
            peaks.append(worker.peak_bytes())
        finally:
            worker.close()
    assert abs(peaks[1] - peaks[0]) < 8e6  # the texts alone are 70 MB


def test_engines_load_their_own_libraries_and_no_others(made):
    store, bundle = made
    names = ("ort_fp32", "pytorch", "tfidf")
    inputs = Inputs(bundle, find_reference(bundle, store), tiny_texts(4), tiny_texts(30))
    cores, before = choose_cores(1, opening=1), os.sched_getaffinity(0)
    loaded = {}
    for name, spec in engine_specs(inputs, names, store).engines.items():
        worker = Worker(replace(spec, cores=cores))
        try:
            threads = [int(task) for task in os.listdir(f"/proc/{worker.pid}/task")]
            assert all(os.sched_getaffinity(thread) == set(cores) for thread in threads)
            maps = Path(f"/proc/{worker.pid}/maps").read_text()
            parts = {"torch": "libtorch", "onnxruntime": "onnxruntime", "sklearn": "/sklearn/"}
            loaded[name] = {part for part, sign in parts.items() if sign in maps}
        finally:
            worker.close()
    loaded["pytorch"].discard("sklearn")  # transformers loads it where it is installed
    own = {"ours": {"onnxruntime"}, "ort_fp32": {"onnxruntime"}, "pytorch": {"torch"}, "tfidf": {"sklearn"}}
    assert loaded == own
    assert os.sched_getaffinity(0) == before


def test_a_worker_that_dies_is_one_failed_row(made):
    _, bundle = made
    good = EngineSpec("ours", bundle.folder.path, bundle.task)
    bad = EngineSpec("pytorch", bundle.folder.path, bundle.task)  # a bundle has no weights for torch
    with open_fleet([good, bad], show=False) as fleet:
        assert list(fleet.running) == ["ours"]
        assert "pytorch" in fleet.problems
        os.kill(fleet.running["ours"].pid, 9)
        assert time_cell(fleet, requests_of(ROWS), Cell(1, None, 1), 3, show=False).seconds == {}
        assert fleet.problems["ours"] == "the process ended with exit code -9"


def test_worker_answers_are_in_the_order_of_the_rows(made):
    _, bundle = made
    worker = Worker(EngineSpec("ours", bundle.folder.path, bundle.task))
    try:
        assert np.array_equal(worker.answers(ROWS), Engine.open(bundle).logits(ROWS))
        with pytest.raises(WorkerError):
            worker.answers([("a", "b", "c")])
    finally:
        worker.close()


def test_tokens_are_counted_as_each_engine_pads_them(made):
    store, bundle = made
    rows = [("good",), ("bad film",), ("the film was very good",)]
    inputs = Inputs(bundle, find_reference(bundle, store), tiny_texts(4), tiny_texts(30))
    specs = engine_specs(inputs, ("ort_fp32", "tfidf"), store).engines
    with open_fleet(list(specs.values()), show=False) as fleet:
        times = time_cell(fleet, requests_of(rows, batch=3), Cell(3, None, 1), 3, show=False)
    lengths = [3, 4, 7]
    assert times.tokens == {name: (sum(lengths), 3 * 7) for name in ("ours", "ort_fp32")}


def test_an_engine_that_cannot_be_opened_again_is_told(made):
    _, bundle = made
    good = EngineSpec("ours", bundle.folder.path, bundle.task)
    bad = EngineSpec("pytorch", bundle.folder.path, bundle.task)
    with pytest.raises(OpeningError) as told:
        measure_openings(bad, good, ROWS[:2], 2, Conditions(show=False))
    assert told.value.engine == "pytorch"


@pytest.mark.parametrize(("vnni", "signed"), [(False, False), (True, True)])
def test_the_key_of_our_sessions_has_nothing_to_change_in_optimums_graph(tmp_path, monkeypatch, vnni, signed):
    """Without VNNI its weights are unsigned; the key is about signed ones, and is set without VNNI only."""
    make_tiny_checkpoint(tmp_path / "model")
    monkeypatch.setattr(stock_export, "has_vnni", lambda: vnni)
    folder = ModelFolder(tmp_path / "model", Manifest(id="a", lineage=(), files={}))
    graph = onnx.load(stock_export.stock_export(folder, tmp_path / "store").folder.path / stock_export.INT8).graph
    kinds = {tensor.data_type for tensor in graph.initializer}
    assert (onnx.TensorProto.INT8 in kinds) == signed
    assert onnx.TensorProto.UINT8 in kinds
