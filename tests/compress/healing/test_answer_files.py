"""Where a teacher's answers go: all bytes or an error, room asked for first, and no second reading of all of them."""

import os
import subprocess
import sys

import numpy as np
import pytest
from storing import ROOT
from tiny import make_tiny_checkpoint, tiny_texts

from compress.healing.teacher_cache import LOGITS, STATES, Teacher, teach
from models.checkpoint import load_checkpoint
from models.errors import CheckError
from models.store import answer_files
from models.store.answer_files import AnswerFile
from models.store.stage import Stage, run_stage
from models.store.units import size
from models.tokenizer import Tokenizer


def test_an_array_is_written_whole_also_in_short_writes(tmp_path, monkeypatch):
    pwrite = os.pwrite
    monkeypatch.setattr(os, "pwrite", lambda handle, data, place: pwrite(handle, data[:7], place))
    file, array = AnswerFile(tmp_path / "a", 120), np.arange(20, dtype=np.float32).reshape(4, 5).T  # not contiguous
    file.put(40, array)
    file.put(0, np.arange(10, dtype=np.float32))
    file.close()
    found = np.fromfile(tmp_path / "a", np.float32)
    np.testing.assert_array_equal(found, [*range(10), *array.ravel()])


def test_no_progress_is_an_error(tmp_path, monkeypatch):
    monkeypatch.setattr(os, "pwrite", lambda *_: 0)
    with pytest.raises(OSError, match="No space left"):
        AnswerFile(tmp_path / "a", 4).put(0, np.zeros(1, np.float32))


@pytest.fixture
def subject(tmp_path):
    make_tiny_checkpoint(tmp_path / "model")
    tokenizer = Tokenizer.open(tmp_path / "model", 32)
    return load_checkpoint(tmp_path / "model"), tokenizer.encode(tiny_texts(300).rows), tokenizer


def taught(subject, store):
    return run_stage(Stage("teach", 1, {}), [], store, lambda folder: teach(*subject, [0, 1], folder))


def test_the_size_is_said_before_and_too_little_room_is_refused_before_any_work(
    tmp_path, subject, monkeypatch, capsys
):
    model, encoded, _ = subject
    tokens = sum(len(e.ids) for e in encoded)
    states, logits = tokens * 2 * model.architecture.width * 2, len(encoded) * model.labels * 4
    usage = answer_files.shutil.disk_usage(tmp_path)
    monkeypatch.setattr(answer_files.shutil, "disk_usage", lambda _: usage._replace(free=states + logits - 1))
    forward = type(model).forward
    monkeypatch.setattr(type(model), "forward", lambda *_: pytest.fail("it worked"))
    with pytest.raises(CheckError, match=rf"take {size(states + logits)}, and .*a smaller --augment"):
        taught(subject, tmp_path / "store")
    monkeypatch.setattr(type(model), "forward", forward)
    monkeypatch.setattr(answer_files.shutil, "disk_usage", lambda _: usage._replace(free=states + logits))
    folder = taught(subject, tmp_path / "store").folder.path
    assert (folder / STATES).stat().st_size == states
    assert (folder / LOGITS).stat().st_size == logits
    assert f"the full model's answers take {size(states + logits)} in" in capsys.readouterr().err


FULL = """
import resource, sys
from pathlib import Path
from compress.healing import teacher_cache
from models.checkpoint import load_checkpoint
from models.errors import CheckError
from models.store.stage import Stage, run_stage
from models.teachers import answer_batches
from models.tokenizer import Tokenizer
from tiny import tiny_texts

answer_batches.KEEP_EVERY = 2
tokenizer = Tokenizer.open(Path(sys.argv[1]), 32)
subject = load_checkpoint(Path(sys.argv[1])), tokenizer.encode(tiny_texts(300).rows), tokenizer
if room := int(sys.argv[3]):
    resource.setrlimit(resource.RLIMIT_FSIZE, (room, room))  # writing stops there, as on a disk without room
forward, calls = type(subject[0]).forward, []
type(subject[0]).forward = lambda *given: calls.append(1) or forward(*given)
try:
    teach = teacher_cache.teach
    run_stage(Stage("teach", 1, {}), [], Path(sys.argv[2]), lambda folder: teach(*subject, [0, 1], folder))
except CheckError as error:
    print(error)
print(len(calls))
"""


def test_a_full_disk_is_said_and_the_same_command_goes_on(tmp_path, subject):
    model, encoded, _ = subject
    environment = {**os.environ, "PYTHONPATH": f"{ROOT}:{ROOT / 'tests'}"}
    told = []
    whole = sum(len(e.ids) for e in encoded) * 2 * model.architecture.width * 2
    for room in (whole - 1024, 0):
        done = subprocess.run(
            [sys.executable, "-c", FULL, str(tmp_path / "model"), str(tmp_path / "full"), str(room)], cwd=ROOT,
            env=environment, capture_output=True, text=True, check=True,
        )  # fmt: skip
        told.append(done.stdout.splitlines())
    (error, first), (second,) = told
    assert "File too large): make room" in error
    assert 0 < int(second) < 10 < int(first) + int(second)  # ten batches: some were not asked again
    straight, resumed = taught(subject, tmp_path / "straight").folder, taught(subject, tmp_path / "full")
    assert resumed.reused
    answers = [Teacher.open(folder.path, encoded) for folder in (straight, resumed.folder)]
    np.testing.assert_allclose(answers[0].logits, answers[1].logits, atol=1e-5)
    np.testing.assert_allclose(*(a.states(range(300), 32) for a in answers), atol=5e-3)
