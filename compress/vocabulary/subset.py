"""Reduce a tokenizer and an embedding table to the tokens that a domain uses and a set that always stays.

The token embeddings are half of the weights of a small encoder. A text that uses only kept tokens is split as before;
another text is split into shorter kept tokens. No text gets new unknown tokens: single characters always stay, and so
do the bytes of which some tokenizers compose characters that are not in their vocabulary.
"""

import json
import re
from collections.abc import Iterable
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import torch

from models import tokenizer as tokenizer_file
from models.architecture import Architecture
from models.classifier import Classifier
from models.errors import NoEffectError, UntrimmableError
from models.families import FAMILIES

KINDS = ("WordPiece", "BPE", "Unigram")
SPECIAL = re.compile(r"\[[A-Z]+\]|</?[a-z]+>")  # [PAD], <mask>: not every file lists them as added tokens
BYTE = re.compile(r"<0x[0-9A-F]{2}>")  # with `byte_fallback`, the bytes of a character that the vocabulary lacks


@dataclass(frozen=True, slots=True)
class TrimmedTokenizer:
    """The contents of a smaller tokenizer file, and the old id of each kept token."""

    document: dict[str, Any]  # tokenizer.json
    kept_ids: np.ndarray  # (kept tokens,), old ids in ascending order; the new id of a token is its index here


def trim_tokenizer(document: dict[str, Any], used: Iterable[int]) -> TrimmedTokenizer:
    """Return the tokenizer with the tokens `used`, special and added tokens, and single characters.

    A BPE tokenizer also keeps the merges that produce these tokens, and the tokens of these merges.

    Args:
        document: contents of `tokenizer.json`: WordPiece, BPE or Unigram; it is not changed.
        used: ids of the tokens that must stay.

    Raises:
        UntrimmableError: the tokenizer is of another kind.
    """
    document = json.loads(json.dumps(document))
    keep = set(used) | always_kept(document)
    if document["model"]["type"] == "BPE":
        keep |= _keep_merges(document["model"], token_names(document), keep)
    kept_ids = np.array(sorted(keep))
    _renumber(document, {int(old): new for new, old in enumerate(kept_ids)})
    return TrimmedTokenizer(document, kept_ids)


def trim_model(model: Classifier, kept_ids: np.ndarray, positions: int) -> Classifier:
    """Return the classifier with the rows `kept_ids` of its token embeddings and its first `positions` positions.

    Raises:
        NoEffectError: all tokens are kept.
    """
    shape = model.architecture
    if len(kept_ids) == shape.vocabulary:
        raise NoEffectError(f"all {len(kept_ids)} tokens are used: there is nothing to trim")
    pad_id = int(np.flatnonzero(kept_ids == shape.pad_id)[0])
    smaller = Architecture.model_validate(
        shape.model_dump() | {"vocabulary": len(kept_ids), "positions": positions, "pad_id": pad_id}
    )
    state = dict(model.state_dict())
    tokens_key, positions_key = "encoder.embeddings.tokens.weight", "encoder.embeddings.positions.weight"
    state[tokens_key] = state[tokens_key][torch.from_numpy(kept_ids)]
    if positions_key in state:  # ModernBERT has rotary positions, without a table
        state[positions_key] = state[positions_key][: positions + len(state[positions_key]) - shape.positions]
    result = Classifier(smaller, model.labels)
    result.load_state_dict(state)
    return result.eval()


def read_tokenizer(folder: Path) -> dict[str, Any]:
    """Return the contents of `tokenizer.json` in a folder."""
    return json.loads((folder / tokenizer_file.FILE).read_text(encoding="utf-8"))


def token_names(document: dict[str, Any]) -> dict[int, str]:
    """Return the text of each token by its id; added tokens that are not in the model's vocabulary are left out.

    Args:
        document: contents of `tokenizer.json`.

    Raises:
        UntrimmableError: the tokenizer is of another kind than KINDS.
    """
    model = document["model"]
    kind = model.get("type")
    if kind not in KINDS:
        raise UntrimmableError(
            f"a {kind} tokenizer cannot be trimmed: supported are {', '.join(KINDS)}; "
            "--no-trim-vocabulary leaves it whole"
        )
    if kind == "Unigram":
        return {token_id: name for token_id, (name, _) in enumerate(model["vocab"])}
    return {token_id: name for name, token_id in model["vocab"].items()}


def always_kept(document: dict[str, Any]) -> set[int]:
    """Return the ids of the tokens that stay whatever the texts are: special and added ones, characters and bytes.

    In a Unigram tokenizer the token with the lowest score stays too: the score of an unknown character depends on it.

    Args:
        document: contents of `tokenizer.json`.
    """
    model, names = document["model"], token_names(document)
    keep = {i for i, name in names.items() if _is_single(name) or SPECIAL.fullmatch(name)}
    keep |= {token["id"] for token in document.get("added_tokens") or ()}
    if model.get("byte_fallback"):
        keep |= {i for i, name in names.items() if BYTE.fullmatch(name)}
    if model["type"] == "Unigram":
        keep.add(int(np.argmin([score for _, score in model["vocab"]])))
        if model.get("unk_id") is not None:
            keep.add(model["unk_id"])
    return keep


def kept_for_padding(shape: Architecture) -> set[int]:
    """Return the ids that stay for the model: its padding id, and those before an id that must keep its number."""
    row = FAMILIES[shape.family].padding_row
    return {shape.pad_id, *(() if row is None else range(row + 1))}


def _is_single(name: str) -> bool:
    """Whether a token is a single character, with or without the prefix that continues or starts a word."""
    return len(name.removeprefix("##")) == 1 or (len(name) == 2 and name[0] in "▁Ġ")


def _keep_merges(model: dict[str, Any], names: dict[int, str], keep: set[int]) -> set[int]:
    """Drop the merges whose result is not a substring of a kept token.

    Returns:
        The ids of the inputs and results of the other merges.
    """
    kept_names = {names[i] for i in keep if i in names}
    parts = {name[a:b] for name in kept_names for a in range(len(name)) for b in range(a + 1, len(name) + 1)}
    pairs = [tuple(merge.split(" ", 1)) if isinstance(merge, str) else tuple(merge) for merge in model["merges"]]
    merges = [pair for pair in pairs if "".join(pair) in parts]
    model["merges"] = [list(pair) for pair in merges]
    ids = model["vocab"]
    return {ids[token] for first, second in merges for token in (first, second, first + second) if token in ids}


def _renumber(document: dict[str, Any], new_ids: dict[int, int]) -> None:
    """Replace every id in the file by its new id, and drop the tokens that have none."""
    model = document["model"]
    if model["type"] == "Unigram":
        model["vocab"] = [entry for token_id, entry in enumerate(model["vocab"]) if token_id in new_ids]
        if model.get("unk_id") is not None:
            model["unk_id"] = new_ids[model["unk_id"]]
    else:
        model["vocab"] = {name: new_ids[old] for name, old in model["vocab"].items() if old in new_ids}
    for token in document.get("added_tokens") or ():
        token["id"] = new_ids[token["id"]]
    padding = document.get("padding")
    if padding:
        padding["pad_id"] = new_ids.get(padding["pad_id"], 0)  # any row will do: padding is masked
    _renumber_processor(document.get("post_processor"), new_ids)


def _renumber_processor(processor: dict[str, Any] | None, new_ids: dict[int, int]) -> None:
    """Replace the ids in a post-processor, and in the ones that it consists of."""
    if processor is None:
        return
    for inner in processor.get("processors", ()):  # type Sequence
        _renumber_processor(inner, new_ids)
    for side in ("sep", "cls"):  # BertProcessing, RobertaProcessing: [token, id]
        if side in processor:
            processor[side][1] = new_ids[processor[side][1]]
    for special in (processor.get("special_tokens") or {}).values():  # TemplateProcessing
        special["ids"] = [new_ids[i] for i in special["ids"]]
