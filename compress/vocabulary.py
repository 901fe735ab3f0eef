"""trim(): a tokenizer and an embedding table with the tokens that the domain uses, and a safe set.

Token tables are half of a small encoder. Every text that uses kept tokens only is split as before; one that does not
is split into smaller kept pieces, so nothing becomes unknown that was known: single characters always stay.
"""

import json
import re
from collections.abc import Iterable
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import torch

from models import tokens
from models.architecture import Architecture
from models.classifier import Classifier
from models.errors import NoEffectError, UntrimmableError

KINDS = ("WordPiece", "BPE", "Unigram")
SPECIAL = re.compile(r"\[[A-Z]+\]|</?[a-z]+>")  # [PAD], <mask>: files need not list them as added tokens


@dataclass(frozen=True, slots=True)
class Trimmed:
    """A smaller tokenizer file, and the old id of each new one."""

    document: dict[str, Any]  # tokenizer.json
    kept: np.ndarray  # (tokens left,), old ids in ascending order


def trim_tokenizer(document: dict[str, Any], used: Iterable[int]) -> Trimmed:
    """Return the tokenizer with the tokens `used`, special and added tokens, single characters, and their makings.

    Args:
        document: `tokenizer.json`: WordPiece, BPE or Unigram; it is not changed.
        used: ids that must stay.

    Raises:
        UntrimmableError: the tokenizer is of another kind.
    """
    document = json.loads(json.dumps(document))
    model = document["model"]
    kind = model.get("type")
    if kind not in KINDS:
        raise UntrimmableError(
            f"a {kind} tokenizer cannot be trimmed: known are {', '.join(KINDS)}; "
            "--no-trim-vocabulary leaves it whole"
        )
    names = _names(model)
    added = {token["id"] for token in document.get("added_tokens") or ()}
    keep = set(used) | added | {i for i, name in names.items() if _is_single(name) or SPECIAL.fullmatch(name)}
    if kind == "Unigram" and model.get("unk_id") is not None:
        keep.add(model["unk_id"])
    if kind == "BPE":
        keep |= _keep_merges(model, names, keep)
    kept = np.array(sorted(keep))
    new = {int(old): place for place, old in enumerate(kept)}
    _renumber(document, new)
    return Trimmed(document, kept)


def trim_model(model: Classifier, kept: np.ndarray, positions: int) -> Classifier:
    """Return the classifier with the rows `kept` of its token table and the first `positions` of its positions.

    Raises:
        NoEffectError: every row is kept.
    """
    shape = model.architecture
    if len(kept) == shape.vocabulary:
        raise NoEffectError(f"all {len(kept)} tokens are used: there is nothing to trim")
    smaller = Architecture.model_validate(
        shape.model_dump()
        | {"vocabulary": len(kept), "positions": positions, "pad_id": int(np.flatnonzero(kept == shape.pad_id)[0])}
    )
    state = dict(model.state_dict())
    table = "encoder.embeddings.tokens.weight"
    state[table] = state[table][torch.from_numpy(kept)]
    places = "encoder.embeddings.positions.weight"
    if places in state:  # ModernBERT's positions are angles
        state[places] = state[places][:positions]
    result = Classifier(smaller, model.labels)
    result.load_state_dict(state)
    return result.eval()


def read_tokenizer(folder: Path) -> dict[str, Any]:
    """Return `tokenizer.json` of a folder as JSON."""
    return json.loads((folder / tokens.FILE).read_text(encoding="utf-8"))


def _names(model: dict[str, Any]) -> dict[int, str]:
    if model["type"] == "Unigram":
        return {place: piece for place, (piece, _) in enumerate(model["vocab"])}
    return {place: piece for piece, place in model["vocab"].items()}


def _is_single(name: str) -> bool:
    """Whether a token is one character, with or without a mark that it goes on a word or begins one."""
    return len(name.removeprefix("##")) == 1 or (len(name) == 2 and name[0] in "▁Ġ")


def _keep_merges(model: dict[str, Any], names: dict[int, str], keep: set[int]) -> set[int]:
    """Drop the merges that make no part of a kept token; return the ids of all that the others need and make."""
    wanted = {names[i] for i in keep if i in names}
    parts = {name[a:b] for name in wanted for a in range(len(name)) for b in range(a + 1, len(name) + 1)}
    pairs = [tuple(merge.split(" ", 1)) if isinstance(merge, str) else tuple(merge) for merge in model["merges"]]
    left = [pair for pair in pairs if "".join(pair) in parts]
    model["merges"] = [list(pair) for pair in left]
    places = model["vocab"]
    return {places[piece] for first, second in left for piece in (first, second, first + second) if piece in places}


def _renumber(document: dict[str, Any], new: dict[int, int]) -> None:
    """Give every id in the file its new number."""
    model = document["model"]
    if model["type"] == "Unigram":
        model["vocab"] = [entry for place, entry in enumerate(model["vocab"]) if place in new]
        if model.get("unk_id") is not None:
            model["unk_id"] = new[model["unk_id"]]
    else:
        model["vocab"] = {piece: new[place] for piece, place in model["vocab"].items() if place in new}
    for token in document.get("added_tokens") or ():
        token["id"] = new[token["id"]]
    padding = document.get("padding")
    if padding:
        padding["pad_id"] = new[padding["pad_id"]]
    _renumber_processor(document.get("post_processor"), new)


def _renumber_processor(processor: dict[str, Any] | None, new: dict[int, int]) -> None:
    if processor is None:
        return
    for inner in processor.get("processors", ()):  # a Sequence of processors
        _renumber_processor(inner, new)
    for side in ("sep", "cls"):  # BertProcessing, RobertaProcessing: [token, id]
        if side in processor:
            processor[side][1] = new[processor[side][1]]
    for special in (processor.get("special_tokens") or {}).values():  # TemplateProcessing
        special["ids"] = [new[i] for i in special["ids"]]
