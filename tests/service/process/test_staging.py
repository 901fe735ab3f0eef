"""Staging: what workers open is a whole private copy; what cannot be copied is served from its place."""

import os
import shutil
import subprocess
import sys
from pathlib import Path

import pytest
from test_server_process import ROOT, running, served_id

from models.errors import FolderError
from service.model.bundle import Bundle
from service.process.staging import copy, fingerprint, stage

pytest_plugins = ["serving"]  # the fixture tiny_bundle


def test_a_copy_is_a_whole_bundle_and_holds_nothing_else(tiny_bundle, tmp_path):
    source = tmp_path / "source"
    shutil.copytree(tiny_bundle, source)
    (source / "large.tmp").write_bytes(b"x")
    (source / "report.json").write_text("{}")
    found = stage(tmp_path / "into", str(source), str(source))
    copied = Bundle.open(Path(found["model"]["folder"]))
    assert (copied.id, found["model"]["id"], found["model"]["source"]) == (copied.id, copied.id, str(source))
    assert (copied.folder.path / "report.json").is_file()
    assert not (copied.folder.path / "large.tmp").exists()
    assert found["warning"] is None


def test_a_fingerprint_follows_the_symlink_and_the_content(tiny_bundle, tmp_path):
    one, two, link = tmp_path / "one", tmp_path / "two", tmp_path / "link"
    shutil.copytree(tiny_bundle, one)
    shutil.copytree(tiny_bundle, two)
    link.symlink_to(one)
    before = fingerprint(str(link))
    assert before == fingerprint(str(one)) != fingerprint(str(two))
    (one / "manifest.json").write_text((one / "manifest.json").read_text() + " ")
    assert fingerprint(str(link)) != before
    shutil.rmtree(one)
    assert fingerprint(str(link)) == ""


def test_what_is_known_is_checked_and_not_copied(tiny_bundle, tmp_path):
    source = tmp_path / "source"
    shutil.copytree(tiny_bundle, source)
    known = fingerprint(str(source))
    assert stage(tmp_path / "into", str(source), known=known) == {"fingerprint": known, "model": None}
    assert stage(tmp_path / "into", str(source)) == {"fingerprint": known, "model": None}
    assert stage(tmp_path / "into", str(source), known="another")["model"]["id"]
    (source / "task.json").write_text("{}")
    with pytest.raises(FolderError, match="altered"):
        stage(tmp_path / "into", str(source), known=known)


def test_what_cannot_be_copied_is_served_from_its_place(tiny_bundle, tmp_path):
    (tmp_path / "file").write_text("")
    folder, warning = copy(tiny_bundle, tmp_path / "file" / "into")
    assert folder == tiny_bundle
    assert "cannot be copied" in warning
    assert copy(tiny_bundle, None)[0] == tiny_bundle
    assert copy(tmp_path, tmp_path / "into") == (tmp_path, None)  # no bundle: its worker says so
    assert not (tmp_path / "into").exists()


def test_a_server_without_a_temporary_folder_serves_one_worker(tiny_bundle, tmp_path):
    kept = {k: v for k, v in os.environ.items() if not k.startswith("PRUNELLA_")}
    code = """
import sys, tempfile
def refuse(*_, **__):
    raise OSError(30, "Read-only file system")
tempfile.mkdtemp = refuse
from service.process.launch import main
sys.exit(main(sys.argv[1:]))
"""
    environment = {**kept, "PYTHONPATH": str(ROOT), "PRUNELLA_BUNDLE": str(tiny_bundle), "PRUNELLA_DEVICE": "cpu"}
    with running([sys.executable, "-c", code], environment, tmp_path / "log") as (_, url):
        assert served_id(url) == Bundle.open(tiny_bundle).id
    assert "served from its place" in (tmp_path / "log").read_text()
    several = {**environment, "PRUNELLA_WORKERS": "2"}
    command = [sys.executable, "-c", code, "--port", "0"]
    ended = subprocess.run(command, env=several, capture_output=True, text=True, timeout=60, check=False)
    assert (ended.returncode, "TMPDIR" in ended.stderr) == (2, True)
