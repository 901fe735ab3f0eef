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
from models.forms.embedding_settings import (
    CROSS_ENCODER,
    MODULES,
    check_outputs,
    check_settings,
    flatten,
    general_settings,
    list_modules,
    refuse_own_modules,
    settings_files,
)
from models.forms.float_weights import as_fp32
from models.forms.foreign_file import refuse_foreign_file
from models.forms.json_file import read_json
from models.forms.torch_file import read_torch_file

DENSE_FILES = ("model.safetensors", "pytorch_model.bin")  # in the order of preference
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
    modules = [one for one in list_modules(folder) if one[0] != "Dropout"]  # which does nothing but in training
    names = [name for name, _ in modules]
    if "Pooling" not in names:  # a cross-encoder or another model without sentence embeddings
        _check_cross_encoder(folder, names)
        return None
    if names not in (["Transformer", "Pooling", *rest] for rest in _ENDINGS):
        raise InputError(
            f"{path} lists {', '.join(names)}: supported are Transformer and Pooling, then Dense or Normalize or "
            "both; train without the others"
        )
    refuse_own_modules(folder)
    if modules[0][1]:
        raise InputError(f"{path}: the encoder is in {modules[0][1]}: {flatten(folder)}")
    if outside := [place for _, place in modules[1:] if place in ("", "..") or Path(place).name != place]:
        raise FolderError(f"{path} has the path {outside[0]!r}: wanted names of folders beside it")
    check_settings(folder)
    check_outputs(folder, "Pooling")
    place = dict(modules)
    files = [*settings_files(folder), f"{place['Pooling']}/config.json"]
    dense = None
    if "Dense" in place:
        dense = _read_dense(folder / place["Dense"])
        files += [f"{place['Dense']}/{name}" for name in ("config.json", _dense_file(folder / place["Dense"]))]
    return Modules(_pooling(folder / place["Pooling"] / "config.json"), dense, "Normalize" in place, tuple(files))


_ENDINGS: tuple[list[str], ...] = ([], ["Dense"], ["Normalize"], ["Dense", "Normalize"])


def _check_cross_encoder(folder: Path, names: list[str]) -> None:
    """Refuse settings and modules of a cross-encoder that change its answers."""
    refuse_own_modules(folder)
    check_settings(folder)
    if general_settings(folder).get("model_type") != CROSS_ENCODER:
        return
    check_outputs(folder, CROSS_ENCODER)
    if names != ["Transformer"]:
        raise InputError(
            f"{folder / MODULES} lists {', '.join(names)}: of a cross-encoder only a Transformer is supported; "
            "train without the others"
        )


def _pooling(path: Path) -> Literal["cls", "mean"]:
    config = read_json(path, dict)
    mode = config.get("pooling_mode")
    if mode is None:
        flags = [key.removeprefix(POOLING_FLAG) for key, on in config.items() if key.startswith(POOLING_FLAG) and on]
        mode = [FLAGS.get(flag, flag) for flag in flags] or "mean"
        if not any(key.startswith(POOLING_FLAG) or key.endswith("embedding_dimension") for key in config):
            raise FolderError(
                f"{path} is not the config of a Pooling: save the folder with sentence-transformers again"
            )
    if isinstance(mode, list):
        mode = "+".join(map(str, mode))
    if mode == "cls" or mode == "mean":
        return mode  # type: ignore[return-value, unused-ignore]
    raise InputError(f"{path}: pooling {mode!r}: supported are 'mean' and 'cls'; train the folder with one of them")


def _dense_file(folder: Path) -> str:
    return next((name for name in DENSE_FILES if (folder / name).is_file()), DENSE_FILES[0])


def _read_dense(folder: Path) -> Dense:
    config, file = read_json(folder / "config.json", dict), folder / _dense_file(folder)
    refuse_foreign_file(file)
    try:
        stored = read_torch_file(file) if file.suffix == ".bin" else load_file(str(file))
    except (SafetensorError, OSError) as error:
        raise FolderError(
            f"{folder} has no {' or '.join(DENSE_FILES)} that can be read: {error}: save the model again"
        ) from None
    tensors = as_fp32(stored, str(folder))
    if "linear.weight" not in tensors:
        raise FolderError(f"{file} lacks linear.weight: save the model again with sentence-transformers")
    for key in ("module_input_name", "module_output_name"):  # of version 5
        if (value := config.get(key) or "sentence_embedding") != "sentence_embedding":
            raise InputError(
                f"{folder / 'config.json'} has {key} = {value!r}: only 'sentence_embedding' is supported; train "
                "without this module"
            )
    name = str(config.get("activation_function", "torch.nn.modules.activation.Tanh"))
    if not name.startswith("torch."):
        raise InputError(
            f"{folder / 'config.json'} has activation_function = {name!r}, which is code of its own and never run: "
            "wanted one of torch.nn"
        )
    return Dense(tensors["linear.weight"], tensors.get("linear.bias"), name.rpartition(".")[2])
