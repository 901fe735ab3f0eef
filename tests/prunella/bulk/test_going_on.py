"""A run that was killed, whose worker was killed, whose disk was full, whose input is damaged: it goes on."""

import csv
import errno
import json
import os
import signal
import subprocess
import sys
import time
from pathlib import Path

import pyarrow as pa
import pyarrow.parquet
import pytest
from scoring import TEXTS, contents, lines_of, parts, score, table_of, write_lines

from models.errors import CheckError, FolderError, InputError
from prunella.bulk import output_folder, score_files
from prunella.bulk.job import Chunk, Job
from prunella.bulk.local_worker import LocalWorker
from prunella.bulk.output_folder import OutputFolder
from prunella.bulk.score_files import ScoreOptions
from prunella.bulk.workers import ATTEMPTS, Engine, Workers
from service.model.bundle import Bundle

pytest_plugins = ["serving"]
MANY = [f"{TEXTS[i % 10]} {TEXTS[i // 10 % 10]}" for i in range(60)]


class Killed(BaseException):
    """What a test raises where the process would end."""


def stop_at(monkeypatch, step, call, reason):
    """Let one step of adding a part to the output end the run, at its call number `call`."""
    owner, name = (output_folder, "sync") if step == "sync" else (OutputFolder, "_append")
    real, calls = getattr(owner, name), iter(range(1, 1000))

    def stops(*args):
        if next(calls) != call:
            return real(*args)
        if step == "noted":
            real(*args)
        if step == "half a note":
            with (args[0].path / "_manifest.jsonl").open("a") as manifest:
                manifest.write(args[1].model_dump_json()[:30])
        raise reason

    monkeypatch.setattr(owner, name, stops)


def test_a_part_that_cannot_be_created_is_told_with_its_own_reason(tiny_bundle, tmp_path, monkeypatch):
    """What cannot be created cannot be removed either: that error would hide why."""
    path, write = write_lines(tmp_path / "in.jsonl", MANY), Path.write_bytes

    def refuses(self, content):
        if self.name.startswith(".part-"):
            raise OSError(errno.EROFS, os.strerror(errno.EROFS))
        return write(self, content)

    monkeypatch.setattr(Path, "write_bytes", refuses)
    with pytest.raises(CheckError, match=r"Read-only file system.*make room and run the same command again"):
        score(monkeypatch, tiny_bundle, path, tmp_path / "out")


STEPS = [("sync", 3), ("sync", 4), ("not noted", 2), ("half a note", 2), ("noted", 2)]  # two syncs a part


@pytest.mark.parametrize(("step", "call"), STEPS)
@pytest.mark.parametrize("kind", ["killed", "full"])
def test_each_row_is_there_once_wherever_the_run_ended(step, call, kind, tiny_bundle, tmp_path, monkeypatch):
    path = write_lines(tmp_path / "in.jsonl", MANY)
    score(monkeypatch, tiny_bundle, path, tmp_path / "whole", chunk_rows=7)
    full = OSError(errno.ENOSPC, os.strerror(errno.ENOSPC))
    with monkeypatch.context() as patch:
        stop_at(patch, step, call, Killed() if kind == "killed" else full)
        with pytest.raises(Killed if kind == "killed" else CheckError) as error:
            score(monkeypatch, tiny_bundle, path, tmp_path / "out", chunk_rows=7)
        if kind == "full":
            assert "make room" in str(error.value)
        assert not (tmp_path / "out" / "_SUCCESS").exists()
    summary = score(monkeypatch, tiny_bundle, path, tmp_path / "out", chunk_rows=7)
    assert 0 < summary["resumed_rows"] < 60
    assert contents(tmp_path / "out") == contents(tmp_path / "whole")
    assert {one.name for one in (tmp_path / "out").iterdir()} == {one.name for one in (tmp_path / "whole").iterdir()}
    assert len((tmp_path / "out" / "_manifest.jsonl").read_text().splitlines()) == 9


def write_form(form, folder):
    """Write MANY with their numbers as one file, as files of a folder or of partitions, or as CSV with odd cells."""
    rows = list(enumerate(MANY))
    if form == "csv":
        (folder / "in.csv").write_text("id,text\n" + "".join(f'{i},"{text},\n""x"""\n\n' for i, text in rows))
        return folder / "in.csv"
    names = {"file": ["in.parquet"], "folder": ["in/a.parquet", "in/b.parquet"]}
    names["hive"] = ["in/y=1/a.parquet", "in/y=2/a.parquet", "in/y=__HIVE_DEFAULT_PARTITION__/a.parquet"]
    size = len(rows) // len(names[form])
    for number, name in enumerate(names[form]):
        (folder / name).parent.mkdir(parents=True, exist_ok=True)
        ids, texts = zip(*rows[number * size : (number + 1) * size], strict=True)
        table = pa.table({"id": ids, "text": texts})
        pyarrow.parquet.write_table(table, folder / name, row_group_size=9)
    return folder / "in.parquet" if form == "file" else folder / "in"


@pytest.mark.parametrize("form", ["file", "folder", "hive", "csv"])
def test_every_form_of_input_goes_on_at_the_row_where_it_ended(form, tiny_bundle, tmp_path, monkeypatch):
    path = write_form(form, tmp_path)
    score(monkeypatch, tiny_bundle, path, tmp_path / "whole", chunk_rows=7)
    for call in (1, 1, 2, 3, 1):  # killed five times
        with monkeypatch.context() as patch:
            stop_at(patch, "not noted", call, Killed())
            with pytest.raises(Killed):
                score(monkeypatch, tiny_bundle, path, tmp_path / "out", chunk_rows=7)
    summary = score(monkeypatch, tiny_bundle, path, tmp_path / "out", chunk_rows=7)
    assert summary["resumed_rows"] >= 3 * 6  # of the fourth and third time; parts of a file's end are shorter
    assert contents(tmp_path / "out") == contents(tmp_path / "whole")
    if form == "csv":
        cells = [row for part in parts(tmp_path / "out") for row in csv.DictReader(part.open(newline=""))]
    else:
        cells = table_of(tmp_path / "out").to_pylist()
    assert [int(row["id"]) for row in cells] == list(range(60))


def test_the_command_goes_on_after_kill_9(tiny_bundle, tmp_path, monkeypatch):
    path = write_lines(tmp_path / "in.jsonl", MANY * 40)
    score(monkeypatch, tiny_bundle, path, tmp_path / "whole", chunk_rows=30)
    command = [sys.executable, "-m", "prunella", "score", tiny_bundle, path, tmp_path / "out", "--chunk-rows", "30"]
    manifest = tmp_path / "out" / "_manifest.jsonl"

    def noted():
        return manifest.read_bytes().count(b"\n") if manifest.exists() else 0

    with subprocess.Popen(list(map(str, command)), stdout=subprocess.PIPE, stderr=subprocess.PIPE) as process:
        while noted() < 5 and process.poll() is None:
            time.sleep(0.002)
        process.kill()
    assert not (tmp_path / "out" / "_SUCCESS").exists()
    done = subprocess.run(list(map(str, command)), capture_output=True, text=True, check=True)
    assert json.loads(done.stdout.splitlines()[-1])["rows"] == 2400
    assert contents(tmp_path / "out") == contents(tmp_path / "whole")


def test_a_damaged_row_group_keeps_what_is_before_it_and_a_repaired_file_goes_on(tiny_bundle, tmp_path, monkeypatch):
    (tmp_path / "in").mkdir()
    pyarrow.parquet.write_table(pa.table({"text": TEXTS}), tmp_path / "in" / "a.parquet")
    second = tmp_path / "in" / "b.parquet"
    pyarrow.parquet.write_table(pa.table({"text": MANY}), second, row_group_size=10)
    whole = second.read_bytes()
    offset = pyarrow.parquet.read_metadata(second).row_group(3).column(0).dictionary_page_offset
    second.write_bytes(whole[:offset] + b"\xff" * 40 + whole[offset + 40 :])
    with pytest.raises(InputError, match=r"b\.parquet cannot be read after row \d+"):
        score(monkeypatch, tiny_bundle, tmp_path / "in", tmp_path / "out", chunk_rows=10)
    kept = contents(tmp_path / "out")
    assert {"part-00000-000000.parquet", "part-00001-000000.parquet"} <= kept.keys()
    second.write_bytes(whole)
    summary = score(monkeypatch, tiny_bundle, tmp_path / "in", tmp_path / "out", chunk_rows=10)
    assert summary["rows"] == 70
    assert summary["resumed_rows"] == 10  # those of the file that has not changed
    score(monkeypatch, tiny_bundle, tmp_path / "in", tmp_path / "whole", chunk_rows=10)
    assert contents(tmp_path / "out") == contents(tmp_path / "whole")


def test_files_may_be_added_behind_the_others_only(tiny_bundle, tmp_path, monkeypatch):
    (tmp_path / "in").mkdir()
    write_lines(tmp_path / "in" / "b.jsonl")
    score(monkeypatch, tiny_bundle, tmp_path / "in", tmp_path / "out")
    write_lines(tmp_path / "in" / "c.jsonl")
    assert score(monkeypatch, tiny_bundle, tmp_path / "in", tmp_path / "out")["resumed_rows"] == 10
    assert len(lines_of(tmp_path / "out")) == 20
    write_lines(tmp_path / "in" / "a.jsonl")
    with pytest.raises(FolderError, match="behind the others"):
        score(monkeypatch, tiny_bundle, tmp_path / "in", tmp_path / "out")


@pytest.mark.parametrize("limit", [None, 8])
def test_a_finished_run_starts_no_worker(limit, tiny_bundle, tmp_path, monkeypatch):
    path = write_lines(tmp_path / "in.jsonl")
    score(monkeypatch, tiny_bundle, path, tmp_path / "out", limit=limit, chunk_rows=4)
    monkeypatch.setattr(score_files, "open_engine", pytest.fail)
    summary = score_files.score(str(tiny_bundle), path, tmp_path / "out", ScoreOptions(limit=limit, chunk_rows=4))
    assert (summary["rows"], summary["resumed_rows"], summary["workers"]) == (limit or 10, limit or 10, 0)
    assert (tmp_path / "out" / "_SUCCESS").is_file()


def test_a_part_that_was_lost_is_made_again(tiny_bundle, tmp_path, monkeypatch):
    path = write_lines(tmp_path / "in.jsonl", MANY)
    score(monkeypatch, tiny_bundle, path, tmp_path / "out", chunk_rows=7)
    before = contents(tmp_path / "out")
    (tmp_path / "out" / "part-00000-000002.jsonl").unlink()
    (tmp_path / "out" / "part-00000-000004.jsonl").write_text("short")
    assert score(monkeypatch, tiny_bundle, path, tmp_path / "out", chunk_rows=7)["resumed_rows"] == 46
    assert contents(tmp_path / "out") == before


def local_engine(bundle, kills):
    """Return an engine whose first `kills` workers are killed as soon as they have opened the bundle."""
    opened = Bundle.open(bundle)
    job = Job(bundle=opened.id, source="x", format="jsonl")
    left = iter(range(kills))

    def open_worker():
        worker = LocalWorker(bundle, job, None)
        if next(left, None) is not None:
            os.kill(worker._process.pid, signal.SIGKILL)
        return worker

    return Engine(1, open_worker)


def test_a_chunk_whose_process_is_killed_is_scored_by_another(tiny_bundle, caplog):
    chunk = Chunk(0, 0, 1, True, "in.jsonl, rows 1 to 1", "lines", b'{"text": "good"}\n')
    with Workers(local_engine(tiny_bundle, 1)) as workers:
        part = workers.submit(chunk).result()
    assert (part.rows, part.errors, workers.deaths) == (1, 0, 1)


def test_a_chunk_whose_processes_are_all_killed_fails_the_run(tiny_bundle):
    chunk = Chunk(0, 0, 1, True, "in.jsonl, rows 1 to 1", "lines", b'{"text": "good"}\n')
    with (
        Workers(local_engine(tiny_bundle, ATTEMPTS)) as workers,
        pytest.raises(CheckError, match="3 workers ended while they scored these rows"),
    ):
        workers.submit(chunk).result()


def test_a_worker_says_why_a_bundle_cannot_be_opened(tmp_path):
    with pytest.raises(FolderError):
        LocalWorker(tmp_path, Job(bundle="x", source="x"), None)
