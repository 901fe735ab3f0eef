"""The engine on a real Ray cluster of two workers on this machine."""

import os
import signal
from pathlib import Path

import pyarrow as pa
import pytest
from scoring import TEXTS, contents, score, write_lines

from models.errors import InputError
from prunella.bulk import score_files as bulk_run
from prunella.bulk.score_files import ScoreOptions

ray = pytest.importorskip("ray", reason="Ray is not installed: pip install 'prunella[ray]'")
pytest_plugins = ["serving"]
MANY = [f"{TEXTS[i % 10]} {TEXTS[i // 10 % 10]}" for i in range(100)]


@pytest.fixture(scope="module")
def cluster():
    ray.init(num_cpus=2, include_dashboard=False, log_to_driver=False)
    yield
    ray.shutdown()


def test_parts_are_those_of_the_local_engine_also_when_an_actor_is_killed(
    cluster, tiny_bundle, tmp_path, monkeypatch
):
    from prunella.bulk import ray_worker

    path = write_lines(tmp_path / "in.jsonl", MANY)
    with monkeypatch.context() as patch:
        score(patch, tiny_bundle, path, tmp_path / "local", chunk_rows=10)
    killed = []

    class Victim(ray_worker.RayWorker):
        """The first actor is killed, as by a lack of memory, when it has scored two chunks."""

        calls = 0

        def __call__(self, chunk):
            self.calls += 1
            if self.calls == 3 and not killed:
                killed.append(ray.get(self._actor.process.remote()))
                os.kill(killed[0], signal.SIGKILL)
            return super().__call__(chunk)

    monkeypatch.setattr(ray_worker, "RayWorker", Victim)
    options = ScoreOptions(engine="ray", chunk_rows=10)
    summary = bulk_run.score(str(tiny_bundle), path, tmp_path / "ray", options)
    assert (summary["rows"], summary["workers"], summary["deaths"], len(killed)) == (100, 2, 1, 1)
    assert contents(tmp_path / "ray") == contents(tmp_path / "local")


def test_more_workers_than_the_cluster_has_cores_are_refused(cluster, tiny_bundle, tmp_path):
    path = write_lines(tmp_path / "in.jsonl")
    with pytest.raises(InputError, match="2 cores"):
        bulk_run.score(str(tiny_bundle), path, tmp_path / "out", ScoreOptions(engine="ray", processes=3))


def test_a_data_set_is_classified_by_actors(cluster, tiny_bundle):
    import ray.data

    from prunella.bulk.scorer import Scorer
    from prunella.ray import Classify

    data = ray.data.from_arrow(pa.table({"n": range(101), "text": [*MANY, None]}))
    rows = data.map_batches(
        Classify, fn_constructor_args=(str(tiny_bundle.resolve()),), batch_format="pyarrow", batch_size=32,
        num_cpus=1, concurrency=2,
    ).take_all()  # fmt: skip
    rows.sort(key=lambda row: row["n"])
    expected = Scorer(Path(tiny_bundle))([*MANY, None])
    assert [(row["label"], row["score"], row["error"]) for row in rows] == [
        (one.label, one.score, one.error) for one in expected
    ]
    assert rows[-1]["error"] == "the text is null"
