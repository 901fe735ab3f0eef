"""Files of weights of a Hugging Face folder: one file, or several that an index lists."""

import json
from pathlib import Path

from safetensors import SafetensorError, safe_open
from safetensors.torch import load_file
from torch import Tensor

from models.errors import FolderError
from models.forms.foreign_file import refuse_foreign_file
from models.forms.torch_file import read_torch_file

SAFETENSORS = "model.safetensors"
NAMES = (SAFETENSORS, "pytorch_model.bin")  # in the order of preference; each may be an index of several files
INDEX = ".index.json"


def weight_files(folder: Path) -> list[Path]:
    """Return the files that hold the weights, with the index where there is one; an empty list where there are none.

    Raises:
        FolderError: an index cannot be read, or a file that it lists is missing.
    """
    for name in NAMES:
        if (folder / name).is_file():
            return [folder / name]
        if (folder / (name + INDEX)).is_file():
            return [folder / (name + INDEX), *_shards(folder / (name + INDEX))]
    return []


def read_weights(folder: Path) -> dict[str, Tensor]:
    """Return all tensors of a folder by their names; `.bin` files are read by torch's weights-only loader.

    Raises:
        FolderError: there are no weights, a file is missing, or one holds something else.
    """
    tensors: dict[str, Tensor] = {}
    for path in _tensor_files(folder):
        tensors |= _read_file(path)
    return tensors


def read_shapes(folder: Path) -> dict[str, tuple[int, ...]]:
    """Return the shapes of all tensors by their names, without reading safetensors files whole.

    Raises:
        FolderError: there are no weights, a file is missing, or one holds something else.
    """
    shapes: dict[str, tuple[int, ...]] = {}
    for path in _tensor_files(folder):
        if path.suffix != ".safetensors":
            shapes |= {name: tuple(tensor.shape) for name, tensor in _read_file(path).items()}
            continue
        try:
            with safe_open(str(path), "pt") as file:
                shapes |= {name: tuple(file.get_slice(name).get_shape()) for name in file.keys()}  # noqa: SIM118
        except (SafetensorError, OSError) as error:
            raise FolderError(f"{path} cannot be read as weights: {error}") from None
    return shapes


def _tensor_files(folder: Path) -> list[Path]:
    files = [path for path in weight_files(folder) if not path.name.endswith(INDEX)]
    if not files:
        raise FolderError(f"{folder} has neither {' nor '.join(NAMES)}, nor an index of several such files")
    for path in files:
        refuse_foreign_file(path)
    return files


def _shards(index: Path) -> list[Path]:
    try:
        names = sorted(set(json.loads(index.read_text(encoding="utf-8"))["weight_map"].values()))
    except (ValueError, KeyError, TypeError, AttributeError, OSError) as error:
        raise FolderError(f"{index} cannot be read as an index of weights: {error!r}") from None
    for name in names:
        if not isinstance(name, str) or Path(name).name != name:
            raise FolderError(f"{index} lists {name!r}: wanted names of files in the same folder")
        if not (index.parent / name).is_file():
            raise FolderError(f"{index.parent} lacks {name}, which {index.name} lists ({len(names)} files)")
    return [index.parent / name for name in names]


def _read_file(path: Path) -> dict[str, Tensor]:
    if path.suffix != ".safetensors":
        return read_torch_file(path)
    try:
        return load_file(str(path))
    except (SafetensorError, OSError, RuntimeError, ValueError) as error:
        raise FolderError(f"{path} cannot be read as weights: {error}") from None
