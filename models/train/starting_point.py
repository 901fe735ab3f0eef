"""The checkpoint folder that a training starts from: its path, its identity, and its tokenizer files."""

import json
import shutil
from hashlib import sha256
from pathlib import Path

from models import architecture as architecture_file
from models import task as task_file
from models import tokenizer as tokenizer_file
from models.builtin.mpnet_base import MPNET, mpnet_folder
from models.builtin.multilingual_e5 import E5, e5_folder
from models.checkpoint import CONFIG, refuse_adapter
from models.data.builtin import MINILM, minilm_folder
from models.data.texts import BUILTIN
from models.errors import InputError
from models.families.fast_tokenizer import VOCABULARIES
from models.forms.embedding_classifier import read_files
from models.forms.tokenizer_check import changed_tokenizer
from models.store.folder import MANIFEST, ModelFolder, sha256_of
from models.weights import weight_files

PADDED_ROWS = 128  # the vocabulary of embedding tables is often padded to a multiple of this
TOKENIZER_FILES = (tokenizer_file.FILE, "tokenizer_config.json", "special_tokens_map.json")


def resolve_encoder(encoder: str, store: Path) -> Path:
    """Return the folder that `encoder` names: a built-in encoder or a path.

    `builtin:minilm-l6` is in its package; `builtin:mpnet-base` and `builtin:multilingual-e5` are made in the store.

    Raises:
        InputError: there is no built-in encoder of this name, or its files are not as expected.
        MissingExtraError: its packages are not installed.
    """
    if encoder == MINILM:
        return minilm_folder()
    if encoder == MPNET:
        return mpnet_folder(store)
    if encoder == E5:
        return e5_folder(store)
    if encoder.startswith(BUILTIN):
        raise InputError(f"{encoder} is not a built-in encoder: they are {MINILM}, {MPNET} and {E5}")
    return Path(encoder)


def load_source_id(folder: Path) -> str:
    """Return a SHA-256 of a checkpoint's contents.

    It covers all files of a folder that Prunella made, and of any other folder the files that Prunella reads.

    Raises:
        FolderError: a folder that Prunella made is incomplete.
        InputError: there are no weights.
    """
    if (folder / MANIFEST).is_file():
        return ModelFolder.open(folder).manifest.digest()
    refuse_adapter(folder)
    weights = [path.name for path in weight_files(folder)]
    if not weights:
        raise InputError(f"{folder} is not a model folder: wanted model.safetensors in it")
    others = [CONFIG, architecture_file.FILE, task_file.FILE, *TOKENIZER_FILES]
    if not (folder / tokenizer_file.FILE).is_file():
        others += VOCABULARIES
    others += read_files(folder)
    files = [*weights, *(name for name in others if (folder / name).is_file())]
    hashes = {name: sha256_of(folder / name) for name in files}
    if (changed := changed_tokenizer(folder)) is not None:
        hashes["tokenizer of transformers"] = sha256(changed.encode()).hexdigest()
    return sha256(json.dumps(hashes).encode()).hexdigest()


def copy_tokenizer(source: Path, target: Path) -> None:
    """Copy the tokenizer, and the files that transformers needs with it."""
    tokenizer_file.copy_file(source, target)
    for name in TOKENIZER_FILES[1:]:
        if (source / name).is_file():
            shutil.copyfile(source / name, target / name)
