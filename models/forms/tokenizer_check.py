"""agreed_backend(): the tokenizer that transformers makes of a folder, which counts where its files disagree.

transformers changes what `tokenizer.json` says: by `do_lower_case`, `strip_accents`, `add_prefix_space` and the added
tokens of `tokenizer_config.json`, or by the defaults of the class of tokenizer.
"""

import json
from functools import cache
from pathlib import Path
from typing import Any

import tokenizers

from models.errors import FolderError
from models.families.fast_tokenizer import custom_code, tokenizer_class
from models.forms.embedding_settings import max_seq_length
from models.forms.probe_texts import probe_texts
from models.messages import say

CONFIG, FILE = "tokenizer_config.json", "tokenizer.json"
SHOWN = 60  # maximum number of characters of a text in a message
MOST_TOKENS = 500  # of the added tokens are compared
PAIR = "and a second text"


def agreed_backend(folder: Path, backend: tokenizers.Tokenizer) -> tokenizers.Tokenizer:
    """Return the tokenizer that answers as transformers' does for the folder.

    Args:
        folder: a Hugging Face folder.
        backend: what its tokenizer.json holds.

    Raises:
        FolderError: also the tokenizer that transformers made of the files gives other ids than transformers.
    """
    changed = changed_tokenizer(folder)
    return backend if changed is None else tokenizers.Tokenizer.from_str(changed)


def changed_tokenizer(folder: Path) -> str | None:
    """Return what transformers makes of a folder's tokenizer, as JSON, if it gives other ids than tokenizer.json.

    Raises:
        FolderError: also the tokenizer that transformers made of the files gives other ids than transformers.
    """
    if not (folder / FILE).is_file():
        return None
    names = (FILE, CONFIG, "config.json", "special_tokens_map.json", "added_tokens.json")
    times = tuple((folder / name).stat().st_mtime_ns if (folder / name).is_file() else 0 for name in names)
    return _made_by_transformers(folder, times)


def model_max_length(folder: Path) -> int | None:
    """Return the maximum input length in tokens that sentence-transformers sets, or else the tokenizer's."""
    limit = _limit(max_seq_length(folder))
    if limit is not None:
        return limit
    try:
        document = json.loads((folder / CONFIG).read_text(encoding="utf-8"))
    except (OSError, ValueError):
        return None
    return _limit(document.get("model_max_length")) if isinstance(document, dict) else None


@cache
def _made_by_transformers(folder: Path, times: tuple[int, ...]) -> str | None:
    """Return the tokenizer that transformers makes, as JSON, if tokenizer.json gives other ids; else None."""
    del times  # a changed file is another key
    try:
        import transformers
    except ModuleNotFoundError:
        return None
    if code := custom_code(folder):
        say(
            f"WARNING: {folder}: the tokenizer is Python code of its own ({code}), which is never run: {FILE} is "
            "taken as it is"
        )
        return None
    try:
        theirs = tokenizer_class(folder, transformers).from_pretrained(
            str(folder), local_files_only=True, trust_remote_code=False
        )
        text = first_difference(tokenizers.Tokenizer.from_file(str(folder / FILE)), theirs)
    except Exception as error:  # of many kinds: a class that is not there, a missing package, a broken file
        reason = " ".join(str(error).split())[:200]
        say(f"WARNING: {folder}: transformers cannot use the tokenizer ({reason}): {FILE} is taken as it is")
        return None
    if theirs.truncation_side == "left":
        say(f"{folder}: transformers cuts long texts at the left; here they are cut at the right end")
    if text is None:
        return with_segments_of(theirs, folder, (folder / FILE).read_text(encoding="utf-8"))
    has_config = (folder / CONFIG).is_file()
    changed_by, verb = (f"{CONFIG} and the class", "change") if has_config else ("the class", "changes")
    backend = getattr(theirs, "backend_tokenizer", None)
    document = None if backend is None else str(backend.to_str())
    other = None if document is None else first_difference(tokenizers.Tokenizer.from_str(document), theirs)
    if document is None or other is not None:
        shown = (other or text)[:SHOWN]
        raise FolderError(
            f"{folder}: the tokenizer of transformers ({type(theirs).__name__}) splits {shown!r} otherwise "
            f"than {FILE}: save the tokenizer again with transformers (tokenizer.save_pretrained)"
        )
    say(
        f"{folder}: in transformers, {changed_by} {type(theirs).__name__} {verb} what {FILE} says, for example of "
        f"{text[:SHOWN]!r}: texts are split as transformers splits them"
    )
    return with_segments_of(theirs, folder, document) or document


def with_segments_of(theirs: Any, folder: Path, document: str) -> str | None:
    """Return a tokenizer that gives the second text of a pair segment 0, where transformers does; None: as it is.

    transformers gives a model the inputs in `model_input_names` only. Without segments it takes 0 for all tokens.
    """
    if "token_type_ids" in theirs.model_input_names or _segments_of(folder) < 2:
        return None
    if not any(tokenizers.Tokenizer.from_str(document).encode(PAIR, PAIR).type_ids):
        return None
    say(
        f"{folder}: {CONFIG} has no token_type_ids in model_input_names: both texts of a pair have segment 0, as in "
        "transformers"
    )
    return without_segments(document)


def _segments_of(folder: Path) -> int:
    """Return the number of segments of the model in a folder, by its config.json; 0 where it does not say."""
    try:
        config = json.loads((folder / "config.json").read_text(encoding="utf-8"))
    except (OSError, ValueError):
        return 0
    usual = 2 if isinstance(config, dict) and config.get("model_type") in ("bert", "electra", "ernie") else 0
    segments = config.get("type_vocab_size", usual) if isinstance(config, dict) else 0
    return segments if isinstance(segments, int) else 0


def without_segments(document: str) -> str:
    """Return a tokenizer.json whose special tokens and texts all have segment 0."""
    parts = json.loads(document)
    parts["post_processor"] = _in_one_segment(parts.get("post_processor"))
    return json.dumps(parts, ensure_ascii=False)


def _in_one_segment(processor: dict[str, Any] | None) -> dict[str, Any] | None:
    if processor is None:
        return None
    if "processors" in processor:  # a sequence
        return processor | {"processors": [_in_one_segment(one) for one in processor["processors"]]}
    if processor["type"] == "BertProcessing":
        (first, first_id), (last, last_id) = processor["cls"], processor["sep"]
        texts = [{"Sequence": {"id": text, "type_id": 0}} for text in "AB"]
        special = {token: {"SpecialToken": {"id": token, "type_id": 0}} for token in (first, last)}
        ids = {
            token: {"id": token, "ids": [i], "tokens": [token]} for token, i in ((first, first_id), (last, last_id))
        }
        single = [special[first], texts[0], special[last]]
        return {
            "type": "TemplateProcessing", "single": single, "pair": [*single, texts[1], special[last]],
            "special_tokens": ids,
        }  # fmt: skip
    if processor["type"] == "TemplateProcessing":
        changed = {
            form: [{kind: part | {"type_id": 0} for kind, part in piece.items()} for piece in processor[form]]
            for form in ("single", "pair")
        }
        return processor | changed
    return processor


def first_difference(backend: tokenizers.Tokenizer, theirs: Any) -> str | None:
    """Return the first text for which a tokenizer and one of transformers give different ids; None: there is none."""
    backend = tokenizers.Tokenizer.from_str(backend.to_str())
    backend.no_truncation()
    backend.no_padding()
    added = [token.content for token in [*theirs.added_tokens_decoder.values()][:MOST_TOKENS]]
    for text in [*probe_texts(), *(f"a {token} b{token}" for token in added)]:
        if list(backend.encode(text).ids) != theirs(text, verbose=False)["input_ids"]:
            return text
    if list(backend.encode(PAIR, PAIR).ids) != theirs(PAIR, PAIR, verbose=False)["input_ids"]:
        return PAIR
    return None


def _limit(value: Any) -> int | None:
    return int(value) if isinstance(value, int | float) and 4 <= value < 1_000_000 else None
