"""--out: whole or not there, and never a byte of it rewritten while a server has it mapped."""

import errno
import os
import subprocess
import sys
from pathlib import Path

import pytest
from storing import ROOT, made_of, opened, wait_until

from models.errors import CheckError, FolderError
from models.store.delivery import check_target, copy_folder
from models.store.lock import Lock

MAPPED = """
import hashlib, mmap, sys, time
from pathlib import Path

with open(sys.argv[1], "rb") as file:
    mapped = mmap.mmap(file.fileno(), 0, prot=mmap.PROT_READ)
before = hashlib.sha256(mapped).hexdigest()
Path(sys.argv[2]).touch()
while not Path(sys.argv[3]).exists():
    time.sleep(0.01)
print(hashlib.sha256(mapped).hexdigest() == before)  # a truncated file ends the process with SIGBUS here
"""


def run_python(code: str, *arguments: Path) -> subprocess.CompletedProcess[str]:
    return subprocess.run(
        [sys.executable, "-c", code, *map(str, arguments)], cwd=ROOT, env={**os.environ, "PYTHONPATH": str(ROOT)},
        capture_output=True, text=True, check=False,
    )  # fmt: skip


def state_of(folder: Path) -> dict[str, tuple[int, int, bytes]]:
    """Return inode, time of change and bytes of each file."""
    files = [path for path in folder.rglob("*") if path.is_file()]
    return {
        str(p.relative_to(folder)): (p.stat().st_ino, p.stat().st_mtime_ns, p.read_bytes()) for p in sorted(files)
    }


def test_what_a_process_has_mapped_stays_while_out_is_given_again(tmp_path):
    content = "weights " * 4096
    out = copy_folder(made_of(tmp_path / "store", content, report='{"p50": 1}'), tmp_path / "out").path
    before = state_of(out)
    mapped, may_end = tmp_path / "mapped", tmp_path / "may_end"
    process = subprocess.Popen(
        [sys.executable, "-c", MAPPED, *map(str, (out / "weights.bin", mapped, may_end))], cwd=ROOT,
        stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True,
    )  # fmt: skip
    try:
        wait_until(mapped.exists, process)
        measured = made_of(tmp_path / "store", content, report='{"p50": 1}')
        (measured.path / "report.json").write_text('{"p50": 2}')
        copy_folder(measured, out)
        may_end.touch()
        told, error = process.communicate(timeout=60)
    finally:
        process.kill()
    assert (process.returncode, told) == (0, "True\n"), error
    after = state_of(out)
    assert after["report.json"][2] == b'{"p50": 2}'
    assert {n: s for n, s in after.items() if n != "report.json"} == {
        n: s for n, s in before.items() if n != "report.json"
    }
    assert sorted(path.name for path in tmp_path.iterdir()) == ["mapped", "may_end", "out", "store"]


def test_a_crash_between_two_measurements_leaves_each_old_or_new(tmp_path, monkeypatch):
    folder = made_of(tmp_path / "store", report="old")
    (folder.path / "log.jsonl").write_text("old")
    copy_folder(folder, tmp_path / "out")
    for name in ("report.json", "log.jsonl"):
        (folder.path / name).write_text("new")
    replace, calls = os.replace, []

    def dies(*given):
        if calls:
            raise KeyboardInterrupt
        calls.append(given)
        replace(*given)

    monkeypatch.setattr(os, "replace", dies)
    with pytest.raises(KeyboardInterrupt):
        copy_folder(folder, tmp_path / "out")
    found = {name: content for name, (_, _, content) in state_of(tmp_path / "out").items()}
    assert (found["weights.bin"], found["log.jsonl"], found["report.json"]) == (b"whole", b"new", b"old")
    assert opened(tmp_path / "out") == folder.id


def test_a_crash_while_a_new_folder_is_copied_leaves_nothing_that_looks_finished(tmp_path):
    code = """
import os, shutil, sys
from pathlib import Path
from models.store.delivery import copy_folder
from models.store.folder import ModelFolder
copytree = shutil.copytree

def dies(source, target):
    copytree(source, target)
    os._exit(9)

shutil.copytree = dies
copy_folder(ModelFolder.open(Path(sys.argv[1])), Path(sys.argv[2]))
"""
    folder = made_of(tmp_path / "store")
    done = run_python(code, folder.path, tmp_path / "out")
    assert done.returncode == 9, done.stderr
    assert {path.name for path in tmp_path.iterdir()} == {"store", ".out.lock", ".out.partial"}
    copy_folder(folder, tmp_path / "out")  # clears what was left
    assert {path.name for path in tmp_path.iterdir()} == {"store", "out"}


def test_other_content_is_refused_though_the_recipe_is_the_same(tmp_path):
    copy_folder(made_of(tmp_path / "one", "of a GPU"), tmp_path / "out")
    before = state_of(tmp_path / "out")
    with pytest.raises(FolderError, match=r"exists and is not this result .*choose another --out"):
        copy_folder(made_of(tmp_path / "two", "of a CPU"), tmp_path / "out")
    assert state_of(tmp_path / "out") == before


def test_a_damaged_folder_is_refused(tmp_path):
    folder = made_of(tmp_path / "store")
    out = copy_folder(folder, tmp_path / "out").path
    (out / "weights.bin").write_text("other")
    with pytest.raises(FolderError, match=r"is not whole: .*weights.bin was altered"):
        copy_folder(folder, out)


def test_a_symbolic_link_is_followed_and_stays_one(tmp_path):
    folder = made_of(tmp_path / "store", report="old")
    real = copy_folder(folder, tmp_path / "version-1").path
    link = tmp_path / "current"
    link.symlink_to(real.name)
    (folder.path / "report.json").write_text("new")
    copy_folder(folder, link)
    assert link.is_symlink()
    assert (real / "report.json").read_text() == "new"
    real.rename(tmp_path / "gone")
    with pytest.raises(FolderError, match="symbolic link to version-1, which does not exist"):
        copy_folder(folder, link)


def test_the_stores_own_folder_may_be_named(tmp_path):
    folder = made_of(tmp_path / "store")
    before = state_of(folder.path)
    assert copy_folder(folder, folder.path).path == folder.path
    assert state_of(folder.path) == before


@pytest.mark.skipif(not os.access("/dev/shm", os.W_OK), reason="no second file system")
def test_another_file_system_is_no_obstacle(tmp_path, monkeypatch):
    import tempfile

    with tempfile.TemporaryDirectory(dir="/dev/shm") as other:
        assert os.stat(other).st_dev != os.stat(tmp_path).st_dev
        folder = made_of(tmp_path / "store")
        assert copy_folder(folder, Path(other) / "deep" / "out").id == folder.id
        assert sorted(path.name for path in (Path(other) / "deep").iterdir()) == ["out"]


@pytest.mark.parametrize("failing", [errno.ENOSPC, errno.EROFS, errno.EACCES])
@pytest.mark.parametrize("when", ["whole", "measurements"])
def test_an_error_of_the_disk_says_where_the_result_is(tmp_path, monkeypatch, failing, when):
    folder = made_of(tmp_path / "store", report="{}")
    if when == "measurements":
        copy_folder(folder, tmp_path / "out")
    before = state_of(tmp_path / "out")

    def fails(*given, **named):
        raise OSError(failing, os.strerror(failing))

    monkeypatch.setattr("shutil.copyfile" if when == "measurements" else "shutil.copy2", fails)
    if when == "whole":
        monkeypatch.setattr("shutil.copytree", fails)
    with pytest.raises(
        CheckError, match=f"cannot write .*out .{os.strerror(failing)}.: the result is kept in .*store"
    ):
        copy_folder(folder, tmp_path / "out")
    assert state_of(tmp_path / "out") == before
    assert {path.name for path in tmp_path.iterdir()} <= {"store", "out"}


def test_a_disk_that_is_full_half_way_leaves_nothing(tmp_path):
    code = """
import resource, sys
from pathlib import Path
from models.store.delivery import copy_folder
from models.errors import CheckError
from models.store.folder import ModelFolder
folder = ModelFolder.open(Path(sys.argv[1]))
resource.setrlimit(resource.RLIMIT_FSIZE, (2**16, 2**16))  # writing stops there, as on a disk without room
try:
    copy_folder(folder, Path(sys.argv[2]))
except CheckError as error:
    print(error)
"""
    folder = made_of(tmp_path / "store", "x" * 2**17)
    done = run_python(code, folder.path, tmp_path / "out")
    assert "File too large" in done.stdout, done.stderr
    assert str(folder.path) in done.stdout
    assert [path.name for path in tmp_path.iterdir()] == ["store"]


def test_what_cannot_become_a_folder_is_refused_before_any_work(tmp_path):
    (tmp_path / "file").write_text("mine")
    (tmp_path / "mine").mkdir()
    for target, told in [
        (tmp_path / "file", "not a finished folder"), (tmp_path / "mine", "not a finished folder"),
        (tmp_path / "file" / "out", "not a writable folder"),
    ]:  # fmt: skip
        with pytest.raises(FolderError, match=told):
            check_target(target)
    check_target(tmp_path / "new" / "out")
    assert not (tmp_path / "new").exists()


def test_two_commands_with_one_out_wait_for_each_other(tmp_path, capsys):
    folder, out = made_of(tmp_path / "store"), tmp_path / "out"
    code = "import sys; from pathlib import Path; from models.store.delivery import *;"
    code += "from models.store.folder import ModelFolder;"
    code += "copy_folder(ModelFolder.open(Path(sys.argv[1])), Path(sys.argv[2]))"
    with Lock(out):
        process = subprocess.Popen(
            [sys.executable, "-c", code, str(folder.path), str(out)], cwd=ROOT,
            env={**os.environ, "PYTHONPATH": str(ROOT)}, stderr=subprocess.PIPE, text=True,
        )  # fmt: skip
        assert process.stderr is not None
        assert f"waiting for process {os.getpid()} " in process.stderr.readline()
        assert not out.exists()
    assert process.wait(60) == 0, process.communicate()
    assert opened(out) == folder.id
