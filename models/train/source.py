"""The folder that a training begins with: where it is, what identifies it, and the tokenizer that goes with it."""

import json
import shutil
from hashlib import sha256
from pathlib import Path

from models import architecture as architecture_file
from models import task as task_file
from models import tokens
from models.checkpoint import CONFIG, refuse_adapter
from models.data.builtin import MINILM, minilm_folder
from models.errors import InputError
from models.folder import MANIFEST, ModelFolder, sha256_of

PADDED_ROWS = 128  # embedding tables are often rounded up to a multiple of this
TOKENIZER_FILES = (tokens.FILE, "tokenizer_config.json", "special_tokens_map.json")


def resolve_encoder(encoder: str) -> Path:
    """Return the folder of `builtin:minilm-l6` or of a path."""
    return minilm_folder() if encoder == MINILM else Path(encoder)


def load_source_id(folder: Path) -> str:
    """Return a SHA-256 of a checkpoint's contents: of all files of a folder of ours, of what is read of another's.

    Raises:
        FolderError: a folder of ours is not whole.
        InputError: there are no weights.
    """
    if (folder / MANIFEST).is_file():
        return ModelFolder.open(folder).manifest.digest()
    refuse_adapter(folder)
    weights = [name for name in ("model.safetensors", "pytorch_model.bin") if (folder / name).is_file()]
    if not weights:
        raise InputError(f"{folder} is not a model folder: wanted model.safetensors in it")
    beside = (CONFIG, architecture_file.FILE, task_file.FILE, *TOKENIZER_FILES)
    read = [weights[0], *(name for name in beside if (folder / name).is_file())]
    return sha256(json.dumps({name: sha256_of(folder / name) for name in read}).encode()).hexdigest()


def copy_tokenizer(source: Path, target: Path) -> None:
    """Copy the tokenizer, and what transformers wants beside it."""
    for name in TOKENIZER_FILES:
        if (source / name).is_file():
            shutil.copyfile(source / name, target / name)
