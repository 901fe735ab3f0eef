"""A stage's folder: found by the contents of its inputs, made once by any number of commands, whole or not there."""

import json
import os
import re
import resource
import signal
import subprocess
import sys
from pathlib import Path

import pytest
from processes import start_two
from storing import HELD_UP, ROOT, first_line, held_up, made_of, start_held_up, wait_until

from models.errors import CheckError, FolderError
from models.store.folder import MANIFEST, Manifest, ModelFolder, find_folder, identity
from models.store.lock import Lock
from models.store.stage import Stage, run_stage

# identity


def test_one_recipe_that_gave_two_models_gives_two_of_everything_derived(tmp_path):
    one, other = made_of(tmp_path / "one", "weights of a GPU"), made_of(tmp_path / "other", "weights of a CPU")
    assert one.path.name == other.path.name  # one recipe
    assert one.id != other.id
    store = tmp_path / "store"
    derived = [made_of(store, "answers", "teach", [parent]) for parent in (one, other)]
    assert derived[0].path != derived[1].path
    again = made_of(tmp_path / "third", "weights of a GPU", seed=7)  # another recipe, the same model
    assert again.id == one.id
    assert made_of(store, "never made", "teach", [again]).path == derived[0].path


def test_every_parent_counts_and_so_does_what_the_configuration_says_of_the_machine(tmp_path):
    first, second, other = (made_of(tmp_path, content, n=content) for content in ("a", "b", "c"))
    stages = [
        Stage("heal", 1, config) for config in ({}, {"device": "cuda"}, {"precision": "bf16"}, {"torch": "2.9"})
    ]
    keys = {stage.key(parents) for stage in stages for parents in ([first, second], [second, first], [first, other])}
    assert len(keys) == 12


def test_measurements_are_no_part_of_the_identity(tmp_path):
    one, other = (made_of(tmp_path / n, report=f'{{"seconds": {n}}}') for n in "12")
    assert one.id == other.id
    assert Stage("heal", 1, {}).key([one]) == Stage("heal", 1, {}).key([other])


def as_format_1(folder: ModelFolder, recipe_id: str) -> ModelFolder:
    """Rewrite a folder as versions before format 2 left it."""
    document = json.loads((folder.path / MANIFEST).read_text())
    del document["key"]
    for entry in document["files"].values():
        del entry["mtime_ns"]
    (folder.path / MANIFEST).write_text(json.dumps(document | {"format": 1, "id": recipe_id}))
    target = folder.path.with_name(f"{folder.manifest.lineage[-1].stage}-{recipe_id}")
    return ModelFolder.open(folder.path.rename(target))


def test_folders_of_format_1_open_and_nothing_derived_of_them_is_reused(tmp_path):
    old = as_format_1(made_of(tmp_path, "old", "finetune"), "0123456789ab")
    assert old.id == old.manifest.digest()[:12] != "0123456789ab"
    before = identity(["0123456789ab"], "teach", 1, {})  # the key that a version before had
    as_format_1(made_of(tmp_path, "answers of other weights", "teach", [old]), before)
    made = run_stage(Stage("teach", 1, {}), [old], tmp_path, lambda t: (t / "a").write_text("right") and None)
    assert not made.reused
    assert made.folder.path.name != f"teach-{before}"
    for folder_id in ("0123456789ab", old.id):  # as a lineage of either format names it
        assert find_folder([tmp_path / "nowhere", tmp_path], "finetune", folder_id) == old.path
    assert find_folder([tmp_path], "finetune", "ba9876543210") is None


def test_a_manifest_of_a_later_format_is_refused(tmp_path):
    folder = made_of(tmp_path)
    document = json.loads((folder.path / MANIFEST).read_text())
    (folder.path / MANIFEST).write_text(json.dumps(document | {"format": 3}))
    with pytest.raises(FolderError, match="format"):
        ModelFolder.open(folder.path)


def test_a_quick_look_reads_no_large_file_and_a_full_one_does(tmp_path, monkeypatch):
    monkeypatch.setattr("models.store.folder.QUICK_BYTES", 4)
    folder = made_of(tmp_path).path
    weights, read = folder / "weights.bin", []
    monkeypatch.setattr("models.store.folder.sha256_of", lambda path: read.append(path.name) or "another hash")
    ModelFolder.open(folder, quick=True)
    made_of(tmp_path)  # a reuse looks quickly
    assert read == []
    with pytest.raises(FolderError, match="altered"):
        ModelFolder.open(folder)
    status = weights.stat()
    os.utime(weights, ns=(status.st_atime_ns, status.st_mtime_ns + 1))
    with pytest.raises(FolderError, match="altered"):
        ModelFolder.open(folder, quick=True)
    assert read == ["weights.bin", "weights.bin"]


# two commands at once


@pytest.fixture
def started():
    """Processes that end with the test."""
    processes: list[subprocess.Popen[str]] = []
    yield processes
    for process in processes:
        process.kill()
        process.communicate()


def start(store, together, processes):
    """Start the same command: in one process, or in two that work together. Return its processes."""
    if together:
        processes += (new := start_two(["-c", HELD_UP, *held_up(store, together)]))
    else:
        processes.append(start_held_up(store))
        new = processes[-1:]
    return new


@pytest.mark.parametrize("together", [False, True])
@pytest.mark.parametrize("killed", [False, True])
def test_the_second_of_two_equal_commands_waits_and_takes_what_is_there(tmp_path, started, together, killed):
    store = tmp_path / "store"
    first = start(store, together, started)
    wait_until((tmp_path / "begun").exists, first[0])
    (tmp_path / "begun").unlink()
    second = start(store, together, started)
    told, folder = first_line(second[0]), store / f"work-{Stage('work', 1, {}).key([])}"
    found = re.fullmatch(r"prunella: waiting for process (\d+) \(since \d+ (?:s|min)\), which works on (.*)\n", told)
    assert found, told
    assert found.groups() == (str(first[0].pid), str(folder))
    if killed:
        for process in first:
            process.send_signal(signal.SIGKILL)
            process.wait()
        wait_until((tmp_path / "begun").exists, second[0])
    (tmp_path / "may_end").touch()
    ended = [process.communicate(timeout=120) for process in started]
    assert all(process.returncode == 0 for process in (second if killed else started)), ended
    lines = {out for out, _ in ended[len(first) :]}
    folder_id = ModelFolder.open(folder).id
    assert lines == {f"{not killed} {folder_id}\n"}
    if not killed:
        assert {out for out, _ in ended[: len(first)]} == {f"False {folder_id}\n"}
    assert [path.name for path in store.iterdir()] == [folder.name]


def test_processes_that_do_not_agree_say_so_and_nobody_waits(tmp_path):
    code = (
        "import sys; from pathlib import Path; from models.distributed import rank; from models.store.stage import *;"
        "run_stage(Stage('work', 1, {'precision': rank()}), [], Path(sys.argv[1]), lambda t: None, together=False)"
    )
    first, second = start_two(["-c", code, str(tmp_path)])
    told = second.communicate(timeout=120)[1]
    first.kill()
    first.communicate()
    assert second.returncode != 0
    assert "InputError: the processes do not agree on the inputs and settings of 'work'" in told


def test_a_lock_file_that_is_removed_while_somebody_waits_keeps_nobody_out_and_lets_nobody_in_twice(tmp_path):
    one, other = Lock(tmp_path / "a"), Lock(tmp_path / "a")
    one.acquire()
    assert not other.try_acquire()
    one.path.unlink()  # by hand
    assert other.try_acquire()
    one.release()
    other.release()
    assert not list(tmp_path.iterdir())


def test_a_store_that_cannot_be_written_is_an_error_for_people(tmp_path):
    (tmp_path / "store").write_text("a file")
    with pytest.raises(FolderError, match=r"cannot lock .*store/work-.*choose another folder"):
        made_of(tmp_path / "store")


# failures


def test_a_full_disk_is_an_error_for_people_and_leaves_nothing(tmp_path):
    code = """
import resource, sys
from pathlib import Path
from models.errors import CheckError
from storing import made_of
resource.setrlimit(resource.RLIMIT_FSIZE, (2**16, 2**16))  # writing stops there, as on a disk without room
try:
    made_of(Path(sys.argv[1]), "x" * 2**17)
except CheckError as error:
    print(error)
"""
    environment = {**os.environ, "PYTHONPATH": f"{ROOT}:{ROOT / 'tests'}"}
    done = subprocess.run(
        [sys.executable, "-c", code, str(tmp_path)], cwd=ROOT, env=environment, capture_output=True, text=True,
        check=True,
    )  # fmt: skip
    assert "File too large): make room" in done.stdout
    assert not list(tmp_path.iterdir())
    assert resource.getrlimit(resource.RLIMIT_FSIZE)[0] != 2**16


def test_what_was_refused_is_not_kept(tmp_path):
    def refuses(target):
        (target / "half").write_text("half")
        raise CheckError("no")

    with pytest.raises(CheckError):
        run_stage(Stage("work", 1, {}), [], tmp_path, refuses)
    assert not list(tmp_path.iterdir())


def test_a_folder_without_its_manifest_is_made_again(tmp_path, capsys):
    folder = made_of(tmp_path)
    (folder.path / MANIFEST).unlink()
    assert made_of(tmp_path).id == folder.id
    assert "it is created again" in capsys.readouterr().err


def test_the_manifest_names_key_and_content(tmp_path):
    folder = made_of(tmp_path)
    manifest = Manifest.read(folder.path / MANIFEST)
    assert (manifest.format, manifest.id, f"work-{manifest.key}") == (2, folder.id, folder.path.name)
    assert Path(folder.path).parent == tmp_path
