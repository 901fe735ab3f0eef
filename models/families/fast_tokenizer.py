"""build_fast_tokenizer(): a folder without tokenizer.json → the fast tokenizer that transformers makes."""

import json
from functools import cache
from importlib.util import find_spec
from pathlib import Path
from typing import Any

import tokenizers

from models.errors import FolderError
from models.families.config_forms import canonical_config
from models.forms.foreign_file import refuse_foreign_file
from models.messages import say

VOCABULARIES = (
    "vocab.txt", "vocab.json", "merges.txt", "sentencepiece.bpe.model", "spiece.model", "spm.model",
    "added_tokens.json",
)  # fmt: skip
CLASSES = {  # model type → class, for a folder that does not name its own
    "bert": "BertTokenizerFast", "electra": "ElectraTokenizerFast", "distilbert": "DistilBertTokenizerFast",
    "roberta": "RobertaTokenizerFast", "xlm-roberta": "XLMRobertaTokenizerFast",
    "mpnet": "MPNetTokenizerFast", "ernie": "BertTokenizerFast",
    "deberta-v2": "DebertaV2TokenizerFast", "modernbert": "PreTrainedTokenizerFast",
}  # fmt: skip
TOKENIZERS_BACKEND = "TokenizersBackend"  # transformers 5 names so what is tokenizer.json alone


def build_fast_tokenizer(folder: Path) -> tokenizers.Tokenizer:
    """Return the tokenizer that transformers makes of the folder's files, with the folder's own options.

    Raises:
        FolderError: there are no vocabulary files, transformers is not installed or cannot read them, or the
            tokenizer is code in the folder.
    """
    files = [name for name in VOCABULARIES if (folder / name).is_file()]
    if not files:
        raise FolderError(f"{folder} has no tokenizer.json and no vocabulary ({', '.join(VOCABULARIES[:5])}, …)")
    for name in files:
        refuse_foreign_file(folder / name)
    if code := custom_code(folder):
        raise FolderError(
            f"{folder} has no tokenizer.json, and its tokenizer is Python code of its own ({code}), which is never "
            "run: where you trust it, save tokenizer.json (transformers: tokenizer.save_pretrained) beside the model"
        )
    try:
        import transformers
    except ModuleNotFoundError:
        raise FolderError(
            f"{folder} has no tokenizer.json: it can be made of {', '.join(files)} with transformers, which is not "
            "installed (pip install 'prunella[train]')"
        ) from None
    try:
        tokenizer = tokenizer_class(folder, transformers).from_pretrained(
            str(folder), local_files_only=True, trust_remote_code=False
        )
    except Exception as error:  # of many kinds: a missing package, a broken file, a class that is not there
        remedy = ""
        if any(name.endswith(".model") for name in files) and find_spec("sentencepiece") is None:
            remedy = "; a SentencePiece file needs the package sentencepiece (pip install sentencepiece)"
        reason = " ".join(str(error).split())[:300]
        raise FolderError(
            f"{folder}: transformers cannot make a tokenizer of {', '.join(files)}: {reason}{remedy}"
        ) from None
    backend = getattr(tokenizer, "backend_tokenizer", None)
    if backend is None:
        raise FolderError(f"{folder}: transformers has no fast tokenizer of the class {type(tokenizer).__name__}")
    _say_made(folder, ", ".join(files), type(tokenizer).__name__)
    from models.forms.tokenizer_check import with_segments_of

    document = str(backend.to_str())
    return tokenizers.Tokenizer.from_str(with_segments_of(tokenizer, folder, document) or document)


@cache
def _say_made(folder: Path, files: str, name: str) -> None:
    say(f"{folder} has no tokenizer.json: made of {files} by {name}")


def tokenizer_class(folder: Path, transformers: Any) -> Any:
    """Return AutoTokenizer, which reads the class from the folder; or another class where it cannot."""
    named = _read(folder / "tokenizer_config.json").get("tokenizer_class")
    config = _read(folder / "config.json")
    if named == TOKENIZERS_BACKEND and not hasattr(transformers, TOKENIZERS_BACKEND):
        return transformers.PreTrainedTokenizerFast
    if named is None and "model_type" not in config:
        model_type = str(canonical_config(config, str(folder / "config.json")).get("model_type"))
        if model_type in CLASSES:
            return getattr(transformers, CLASSES[model_type])
    return transformers.AutoTokenizer


def custom_code(folder: Path) -> str | None:
    """Return the class of a tokenizer whose code is in the folder (`auto_map`); None: there is none."""
    for name in ("tokenizer_config.json", "config.json"):
        code = _read(folder / name).get("auto_map")
        if isinstance(code, dict):
            code = code.get("AutoTokenizer")
        if isinstance(code, list):  # of the slow and the fast class
            code = next((one for one in code if one), None)
        if code:
            return str(code)
    return None


def _read(path: Path) -> dict[str, object]:
    try:
        document = json.loads(path.read_text(encoding="utf-8"))
    except (OSError, ValueError):
        return {}
    return document if isinstance(document, dict) else {}
