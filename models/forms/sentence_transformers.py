"""read_modules(): what a sentence-transformers folder does with the encoder's states (modules.json).

Layouts: those that sentence-transformers 2 to 5 write. A SetFit folder is one with a linear head (`linear_head`).
"""

from dataclasses import dataclass
from pathlib import Path
from typing import Literal

from safetensors import SafetensorError
from safetensors.torch import load_file
from torch import Tensor

from models.errors import FolderError, InputError
from models.forms.float_weights import as_fp32
from models.forms.foreign_file import refuse_foreign_file
from models.forms.json_file import read_json

MODULES = "modules.json"
SETTINGS = ("sentence_bert_config.json", "config_sentence_transformers.json")
POOLING_FLAG = "pooling_mode_"  # first part of the keys of versions before 5.5
FLAGS = {"mean_tokens": "mean", "cls_token": "cls"}  # the supported ones of these keys → name in later versions


@dataclass(frozen=True, slots=True)
class Dense:
    """A linear layer after the pooling: weight (outputs, inputs), bias (outputs,) or None, and its activation."""

    weight: Tensor
    bias: Tensor | None
    activation: str


@dataclass(frozen=True, slots=True)
class Modules:
    """The modules after the encoder."""

    pooling: Literal["cls", "mean"]
    dense: Dense | None
    normalize: bool  # the embedding is divided by its L2 norm
    files: tuple[str, ...]  # that were read, relative to the folder


def read_modules(folder: Path) -> Modules | None:
    """Return the modules of a sentence-transformers folder; None: it is another folder.

    Raises:
        FolderError: a file is missing or cannot be read.
        InputError: there is a module, or a setting of one, that is not supported.
    """
    path = folder / MODULES
    if not path.is_file():
        return None
    modules = [(str(m.get("type", "")).rpartition(".")[2], str(m.get("path", ""))) for m in read_json(path, list)]
    names = [name for name, _ in modules]
    if "Pooling" not in names:  # a cross-encoder or another model without sentence embeddings
        return None
    if names not in (["Transformer", "Pooling", *rest] for rest in _ENDINGS):
        raise InputError(
            f"{path} lists {', '.join(names)}: supported are Transformer and Pooling, then Dense or Normalize or both"
        )
    if modules[0][1]:
        raise InputError(
            f"{path}: the encoder is in {modules[0][1]}: save the model again with sentence-transformers"
        )
    if outside := [place for _, place in modules if Path(place).name != place]:
        raise FolderError(f"{path} has the path {outside[0]!r}: wanted names of folders beside it")
    _check_settings(folder)
    place = dict(modules)
    files = [MODULES, f"{place['Pooling']}/config.json", *(n for n in SETTINGS if (folder / n).is_file())]
    dense = None
    if "Dense" in place:
        dense = _read_dense(folder / place["Dense"])
        files += [f"{place['Dense']}/{name}" for name in ("config.json", "model.safetensors")]
    return Modules(_pooling(folder / place["Pooling"] / "config.json"), dense, "Normalize" in place, tuple(files))


_ENDINGS: tuple[list[str], ...] = ([], ["Dense"], ["Normalize"], ["Dense", "Normalize"])


def _pooling(path: Path) -> Literal["cls", "mean"]:
    config = read_json(path, dict)
    mode = config.get("pooling_mode")
    if mode is None:
        flags = [key.removeprefix(POOLING_FLAG) for key, on in config.items() if key.startswith(POOLING_FLAG) and on]
        mode = "+".join(FLAGS.get(flag, flag) for flag in flags)
    if mode == "cls" or mode == "mean":
        return mode  # type: ignore[return-value, unused-ignore]
    raise InputError(f"{path}: pooling {mode!r}: supported are 'mean' and 'cls'")


def _read_dense(folder: Path) -> Dense:
    config = read_json(folder / "config.json", dict)
    refuse_foreign_file(folder / "model.safetensors")
    try:
        tensors = as_fp32(load_file(str(folder / "model.safetensors")), str(folder))
    except (SafetensorError, OSError) as error:
        raise FolderError(f"{folder} has no model.safetensors that can be read: {error}") from None
    if "linear.weight" not in tensors:
        raise FolderError(f"{folder / 'model.safetensors'} lacks linear.weight")
    activation = str(config.get("activation_function", "torch.nn.modules.activation.Tanh")).rpartition(".")[2]
    return Dense(tensors["linear.weight"], tensors.get("linear.bias"), activation)


def _check_settings(folder: Path) -> None:
    """Refuse settings that change the text before it is tokenized."""
    bert, general = (read_json(folder / name, dict) if (folder / name).is_file() else {} for name in SETTINGS)
    if bert.get("do_lower_case") and not _lowercases(folder):
        raise InputError(
            f"{folder / SETTINGS[0]} lowercases texts, and the tokenizer does not: set do_lower_case to false there, "
            "and in its place give the tokenizer a Lowercase normalizer"
        )
    prompt = general.get("default_prompt_name")
    if prompt is not None and (general.get("prompts") or {}).get(prompt):
        raise InputError(
            f"{folder / SETTINGS[1]} puts the prompt {prompt!r} before every text, which is not supported: set "
            "default_prompt_name to null, and put it before the texts yourself"
        )


def _lowercases(folder: Path) -> bool:
    from models.tokenizer import read_backend

    backend, text = read_backend(folder), "A GOOD Film, ÀÉ ΑΒΓ"
    return list(backend.encode(text).ids) == list(backend.encode(text.lower()).ids)
