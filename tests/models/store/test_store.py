"""`prunella store`: what is there, what depends on it, and what may go: never what a running command holds."""

import json
import os
import re
import subprocess
import sys
import time
from pathlib import Path

import pytest
from storing import ROOT, made_of, start_held_up, wait_until
from verbs import run, run_plain

from models.store.folder import ModelFolder
from models.store.inventory import list_store
from models.store.leftovers import DAY, remove_leftovers
from models.store.lock import Lock
from models.store.units import size
from prunella.cli.store import read_time

STAGE = "finetune-0123456789ab"


def age(path: Path, days: float) -> Path:
    """Let a file or a folder, and all that is in it, have changed last so many days ago."""
    then = time.time() - days * DAY
    for part in (*path.rglob("*"), path):
        os.utime(part, (then, then))
    return path


def leave(store: Path, name: str, days: float) -> Path:
    """Leave what a killed run leaves."""
    path = store / name
    path.mkdir(parents=True)
    (path / "half.bin").write_bytes(b"x" * 1000)
    return age(path, days)


@pytest.fixture
def store(tmp_path) -> Path:
    """A model, what was made of it, a report, and a letter that is not Prunella's."""
    store = tmp_path / "store"
    source = made_of(store, "weights", "finetune")
    bundle = made_of(store, "graph" * 1000, "bundle", [source])
    (store / f"report-{bundle.id}").mkdir()
    (store / f"report-{bundle.id}" / "report.html").write_text("<html>")
    (store / "letters-of-mine").mkdir()
    (store / "letters-of-mine" / "a.txt").write_text("dear")
    return store


def names(store: Path) -> set[str]:
    return {path.name for path in store.iterdir()}


def kinds(store: Path, *wanted: str) -> set[str]:
    """Return the names that begin with one of these."""
    return {name for name in names(store) if name.startswith(wanted)}


def test_list_says_what_is_there_and_what_was_made_of_it(store, capsys, monkeypatch):
    age(next(store.glob("bundle-*")), 40)
    leave(store, f"{STAGE}.scratch", 3)
    code, told, err = run(capsys, monkeypatch, "store", "list", "--store", store)
    assert code == 0
    entries = {entry["stage"] if entry["kind"] != "unfinished" else "unfinished": entry for entry in told["entries"]}
    assert entries.keys() == {"finetune", "bundle", "report", "unfinished"}
    bundle = next(store.glob("bundle-*"))
    assert entries["finetune"]["needed_by"] == [bundle.name]
    assert entries["bundle"]["id"] == entries["report"]["id"] == ModelFolder.open(bundle).id
    assert entries["bundle"]["unused"] == pytest.approx(40 * DAY, abs=600)
    assert entries["unfinished"]["bytes"] == 1000
    assert told["bytes"] == sum(entry["bytes"] for entry in told["entries"])
    assert f"for {bundle.name}" in err
    assert re.search(rf"{bundle.name} .* kB .* unused +40 days", err)
    assert "letters" not in err


@pytest.mark.parametrize("name", ["judged-0123456789ab-ba9876543210.json", "judged-0123456789ab.json"])
def test_a_judgement_of_the_demo_is_a_report(store, capsys, monkeypatch, name):
    (store / name).write_text("{}")  # the second name is that of earlier versions
    (store / "judged-by-me.json").write_text("{}")
    _, told, _ = run(capsys, monkeypatch, "store", "clean", "--all", "--yes", "--store", store)
    found = next(entry for entry in told["entries"] if entry["stage"] == "judged")
    assert (found["kind"], found["id"], found["bytes"]) == ("report", "0123456789ab", 2)
    assert names(store) == {"letters-of-mine", "judged-by-me.json"}


def test_list_verify_reads_every_file(store, capsys, monkeypatch):
    assert run(capsys, monkeypatch, "store", "list", "--verify", "--store", store)[:2][0] == 0
    bundle = next(store.glob("bundle-*"))
    weights = bundle / "weights.bin"
    weights.write_text("g" + weights.read_text()[1:].replace("g", "h", 1))
    code, told, err = run(capsys, monkeypatch, "store", "list", "--verify", "--store", store)
    assert (code, told["damaged"]) == (1, [bundle.name])
    assert f"{weights} was altered" in err


def test_nothing_goes_without_yes(store, capsys, monkeypatch):
    before = names(store)
    code, told, err = run(capsys, monkeypatch, "store", "clean", "--all", "--store", store)
    assert (code, told["dry_run"], told["removed"], told["freed_bytes"]) == (0, True, [], 0)
    assert len(told["entries"]) == 3
    assert "would remove 3 folders" in err
    assert names(store) == before


def test_all_goes_with_yes_and_what_is_not_prunellas_stays(store, capsys, monkeypatch):
    leave(store, f"{STAGE}.scratch", 0)
    code, told, _ = run(capsys, monkeypatch, "store", "clean", "--all", "--yes", "--store", store)
    assert (code, len(told["removed"])) == (0, 4)
    assert told["freed_bytes"] == told["bytes"] > 6000
    assert names(store) == {"letters-of-mine"}


def test_what_was_used_lately_stays(store, capsys, monkeypatch):
    for path in store.iterdir():
        age(path, 31)
    made_of(store, "weights", "finetune")  # reused: that is a use
    code, told, _ = run(capsys, monkeypatch, "store", "clean", "--older-than", "30d", "--yes", "--store", store)
    assert code == 0
    assert {name.split("-")[0] for name in told["removed"]} == {"bundle", "report"}
    assert {name.split("-")[0] for name in names(store)} == {"finetune", "letters"}


def test_partial_removes_what_was_left_more_than_a_day_ago(store, capsys, monkeypatch):
    old = [f"{STAGE}.partial", f"{STAGE}.rank1.partial", f"{STAGE}.scratch", f".{STAGE}.removed"]
    for name in old:
        leave(store, name, 2)
    leave(store, "heal-0123456789ab.scratch", 0.9)
    code, told, _ = run(capsys, monkeypatch, "store", "clean", "--partial", "--yes", "--store", store)
    assert (code, set(told["removed"])) == (0, set(old))
    assert len(names(store)) == 5


def test_what_another_process_has_open_or_works_on_stays(store, tmp_path, capsys, monkeypatch):
    bundle = next(store.glob("bundle-*"))
    code = "import sys; from pathlib import Path; from models.store.folder import ModelFolder;"
    code += "folder = ModelFolder.open(Path(sys.argv[1])); print('open', flush=True); sys.stdin.read()"
    holding = subprocess.Popen(
        [sys.executable, "-c", code, str(bundle)], cwd=ROOT, env={**os.environ, "PYTHONPATH": str(ROOT)},
        stdin=subprocess.PIPE, stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True,
    )  # fmt: skip
    working = start_held_up(store)
    try:
        assert holding.stdout.readline() == "open\n"
        wait_until((tmp_path / "begun").exists, working)
        partial = next(store.glob("work-*.partial"))
        age(partial, 2)
        _, told, _ = run(capsys, monkeypatch, "store", "clean", "--all", "--yes", "--store", store)
        assert set(told["in_use"]) == {bundle.name, partial.name}
        assert kinds(store, "finetune", "bundle", "work", "report") == {bundle.name, partial.name}
        (tmp_path / "may_end").touch()
        assert working.communicate(timeout=60)[0].startswith("False")
        holding.communicate("", timeout=60)
    finally:
        working.kill()
        holding.kill()
    _, told, _ = run(capsys, monkeypatch, "store", "clean", "--all", "--yes", "--store", store)
    assert (told["in_use"], len(told["removed"])) == ([], 2)


def test_a_folder_is_held_as_long_as_it_is_open_in_this_process(tmp_path):
    folder = made_of(tmp_path)
    assert [entry.in_use for entry in list_store(tmp_path)] == [True]
    copies = [folder, ModelFolder.open(folder.path)]
    del folder
    assert [entry.in_use for entry in list_store(tmp_path)] == [True]
    copies.clear()
    assert [entry.in_use for entry in list_store(tmp_path)] == [False]


def test_a_store_on_a_link_and_links_in_it(store, tmp_path, capsys, monkeypatch):
    elsewhere = made_of(tmp_path / "elsewhere", "mine").path
    (store / "finetune-aaaaaaaaaaaa").symlink_to(elsewhere)
    (tmp_path / "link").symlink_to(store)
    code, told, _ = run(capsys, monkeypatch, "store", "clean", "--all", "--yes", "--store", tmp_path / "link")
    assert (code, len(told["removed"])) == (0, 3)
    assert ModelFolder.open(elsewhere)
    assert "finetune-aaaaaaaaaaaa" in names(store)


@pytest.mark.parametrize(
    ("arguments", "told"),
    [
        (("clean",), "nothing is selected"),
        (("clean", "--older-than", "month"), "wanted days, hours or minutes"),
        (("clean", "--older-than", "-3d"), "wanted days, hours or minutes"),
        (("list", "--store", "/nowhere/store"), "there is no store yet"),
        (("clean", "--all", "--store", "/nowhere/store"), "there is no store yet"),
    ],
)
def test_wrong_use_ends_with_2(tmp_path, capsys, monkeypatch, arguments, told):
    monkeypatch.chdir(tmp_path)
    code, out, err = run_plain(capsys, monkeypatch, "store", *arguments)
    assert (code, out) == (2, "")
    assert told in err


def test_times_and_sizes():
    assert [read_time(value) for value in ("30d", "1.5h", "90m", "0d")] == [30 * DAY, 5400, 5400, 0]
    assert [size(count) for count in (0, 999, 1000, 3_400_000, 41_000_000_000)] == [
        "0 B", "999 B", "1.0 kB", "3.4 MB", "41.0 GB"
    ]  # fmt: skip


# what a stage removes by itself


def test_a_stage_removes_what_killed_runs_left_and_keeps_what_a_run_can_go_on_from(tmp_path, capsys):
    store = tmp_path / "store"
    finished = made_of(store, "a").path
    remove_leftovers.cache_clear()
    for name, days in [
        (f"{STAGE}.partial", 2), (f"{STAGE}.rank3.partial", 2), (f".{STAGE}.removed", 2),
        (f"{finished.name}.scratch", 2), (f"{STAGE}.scratch", 2),
        ("heal-0123456789ab.partial", 0.9), ("letters.partial", 2),
    ]:  # fmt: skip
        leave(store, name, days)
    (store / ".heal-ba9876543210.lock").write_text("{}")
    age(store / ".heal-ba9876543210.lock", 2)
    made_of(store, "b", n=2)
    told = capsys.readouterr().err
    left = {f"{STAGE}.scratch", "heal-0123456789ab.partial", "letters.partial"}
    assert {name for name in names(store) if not re.fullmatch("work-[0-9a-f]{12}", name)} == left
    assert told.count("left by a run that was killed more than a day ago") == 4
    assert "1 runs that were killed more than a day ago; the same command resumes" in told
    leave(store, f"{STAGE}.partial", 2)
    made_of(store, "c", n=3)  # once is enough for a process
    assert f"{STAGE}.partial" in names(store)


def test_what_is_old_and_worked_on_is_not_removed(tmp_path):
    store = tmp_path / "store"
    partial = leave(store, f"{STAGE}.partial", 2)
    remove_leftovers.cache_clear()
    with Lock(store / STAGE):
        age(Lock(store / STAGE).path, 2)
        made_of(store)
        assert partial.exists()
        assert Lock(store / STAGE).path.exists()


def test_the_last_line_is_json_and_help_names_the_flags(store):
    environment = {**os.environ, "PYTHONPATH": str(ROOT), "COLUMNS": "200"}
    command = [sys.executable, "-m", "prunella", "store"]
    done = subprocess.run(
        [*command, "list", "--store", str(store)], capture_output=True, text=True, env=environment, check=True
    )
    assert json.loads(done.stdout.splitlines()[-1])["verb"] == "store list"
    page = subprocess.run([*command, "clean", "--help"], capture_output=True, text=True, env=environment, check=True)
    assert all(flag in page.stdout for flag in ("--older-than", "--partial", "--all", "--yes", "--store"))
