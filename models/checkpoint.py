"""load_checkpoint(): Hugging Face folder → Classifier, and save_checkpoint(): back again, in the same names.

A folder of ours is a Hugging Face folder: `config.json`, `tokenizer.json`, `model.safetensors` with transformers'
names. Where a shape is one that `config.json` can say, transformers loads the folder; a pruned one has its truth in
`architecture.json`, and the matrices are smaller or absent. What the names are is told in `models.families`.
"""

import json
from pathlib import Path
from typing import Any

import torch
from safetensors import SafetensorError
from safetensors.torch import load_file, save_file
from torch import Tensor, nn

from models import architecture as architecture_file
from models.architecture import Architecture
from models.classifier import Classifier, Head, make_encoder
from models.errors import CheckError, FolderError, InputError
from models.families import FAMILIES
from models.families.unread import check_unread
from models.layered import LayeredEncoder
from models.task import Task

WEIGHTS = "model.safetensors"
CONFIG = "config.json"
ADAPTER_CONFIG = "adapter_config.json"
PROBLEMS = {
    "single": "single_label_classification",
    "multi": "multi_label_classification",
    "regression": "regression",
}


def read_architecture(folder: Path) -> Architecture:
    """Return the shape of the checkpoint in `folder`.

    Raises:
        FolderError: there is no readable config.
        InputError: the model is of a family, or has a setting, that is not computed here.
    """
    folder = Path(folder)
    if (folder / architecture_file.FILE).is_file():
        return Architecture.read(folder / architecture_file.FILE)
    config = read_config(folder)
    family = FAMILIES.get(str(config.get("model_type")))
    if family is None:
        raise InputError(f"{folder} is a {config.get('model_type')!r} model: known are {', '.join(FAMILIES)}")
    return family.read_config(config, str(folder / CONFIG))


def read_config(folder: Path) -> dict[str, Any]:
    """Return `config.json` of a Hugging Face folder."""
    refuse_adapter(Path(folder))
    path = Path(folder) / CONFIG
    if not path.is_file():
        raise FolderError(f"{folder} has no {CONFIG}: wanted a Hugging Face model folder")
    try:
        config = json.loads(path.read_text(encoding="utf-8"))
    except ValueError as error:
        raise FolderError(f"{path} is not valid JSON: {error}") from None
    if not isinstance(config, dict):
        raise FolderError(f"{path} holds {type(config).__name__}, wanted an object")
    return config


def refuse_adapter(folder: Path) -> None:
    """Refuse a folder that holds an adapter, alone or beside a model: transformers would load both.

    Raises:
        FolderError: there is an adapter_config.json.
    """
    if (folder / ADAPTER_CONFIG).is_file():
        raise FolderError(
            f"{folder} holds an adapter ({ADAPTER_CONFIG}), which is not computed here: merge it into its model "
            f"(peft: merge_and_unload) and save that; if that is done, remove {ADAPTER_CONFIG}"
        )


def label_names(config: dict[str, Any], count: int) -> tuple[str, ...]:
    """Return the names that a `config.json` has for `count` outputs; transformers' own where it has none."""
    names = config.get("id2label") or {}
    return tuple(str(names.get(str(i), f"LABEL_{i}")) for i in range(count))


def read_tensors(folder: Path) -> dict[str, Tensor]:
    """Return every tensor of a checkpoint in fp32, by transformers' name.

    They come from safetensors, or from a `.bin` that torch's weights-only loader accepts.

    Raises:
        FolderError: there is neither, or it holds something else.
    """
    tensors = _read_file(Path(folder))
    old = (("LayerNorm.gamma", "LayerNorm.weight"), ("LayerNorm.beta", "LayerNorm.bias"))  # files from before 2019
    for before, now in old:
        tensors = {name.replace(before, now): tensor for name, tensor in tensors.items()}
    return {name: tensor.float() for name, tensor in tensors.items()}


def load_checkpoint(
    folder: Path, labels: int | None = None, seed: int = 0, dropout: float = 0.1, renewed: bool = False
) -> Classifier:
    """Return the classifier whose weights are in `folder`, ready to answer.

    Args:
        folder: a Hugging Face folder.
        labels: number of logits wanted; a checkpoint without a head (a bare encoder) gets a new, seeded one.
            None: the head must be there.
        seed: of the new head.
        dropout: rate of dropout in training.
        renewed: whether the head's last layer is a new one although there is one of this size.
    """
    folder = Path(folder)
    shape, state = _read_state(folder)
    found = state.get("head.out.weight")
    if labels is None and found is None:
        raise FolderError(f"{folder} is an encoder without a classification head: fine-tune it first")
    count = labels if labels is not None else int(found.shape[0])  # type: ignore[union-attr]
    torch.manual_seed(seed)
    model = Classifier(shape, count, dropout)
    if found is None or found.shape[0] != count or renewed:
        _renew(model.head, whole=found is None)
        start = "head." if found is None else "head.out."
        state |= {name: tensor for name, tensor in model.state_dict().items() if name.startswith(start)}
    _load_state(model, state, folder)
    return model.eval()


def load_encoder(folder: Path, dropout: float = 0.1) -> LayeredEncoder:
    """Return the encoder whose weights are in `folder`, without any head, ready to answer."""
    folder = Path(folder)
    shape, state = _read_state(folder)
    encoder = make_encoder(shape, dropout)
    start = "encoder."
    _load_state(encoder, {n.removeprefix(start): t for n, t in state.items() if n.startswith(start)}, folder)
    return encoder.eval()


def save_checkpoint(model: Classifier, task: Task, folder: Path) -> None:
    """Write `model.safetensors`, `config.json` and `architecture.json` into `folder`."""
    shape = model.architecture
    family = FAMILIES[shape.family]
    name = f"{family.classes}ForSequenceClassification" if shape.is_uniform() else "PrunellaClassifier"
    config = {
        "architectures": [name],
        **family.write_config(shape),
        "problem_type": PROBLEMS[task.kind],
        "id2label": {str(i): label for i, label in enumerate(task.labels)},
        "label2id": {label: i for i, label in enumerate(task.labels)},
    }
    _write(folder, family.write_tensors(model.state_dict(), shape), config, shape)


def save_encoder(
    encoder: LayeredEncoder, folder: Path, extra: dict[str, Tensor] | None = None, architectures: str | None = None
) -> None:
    """Write an encoder into `folder` in the form of `save_checkpoint`.

    Args:
        encoder: what to write; its tensors get the family's prefix, such as `bert.`.
        folder: where to write.
        extra: further tensors under their final names, such as `cls.predictions.bias`.
        architectures: transformers' class for `config.json`, such as BertForMaskedLM; None: the bare model.
    """
    shape = encoder.architecture
    family = FAMILIES[shape.family]
    name = architectures or f"{family.classes}Model"
    config = {"architectures": [name if shape.is_uniform() else "PrunellaEncoder"], **family.write_config(shape)}
    state = {f"encoder.{name}": tensor for name, tensor in encoder.state_dict().items()}
    more = {name: tensor.detach().cpu().contiguous().clone() for name, tensor in (extra or {}).items()}
    _write(folder, family.write_tensors(state, shape) | more, config, shape)


def _write(folder: Path, tensors: dict[str, Tensor], config: dict[str, Any], shape: Architecture) -> None:
    try:
        save_file(tensors, str(folder / WEIGHTS), metadata={"format": "pt"})
    except SafetensorError as error:
        raise CheckError(f"cannot write {folder / WEIGHTS} ({error}): make room and run it again") from None
    shape.write(folder / architecture_file.FILE)
    (folder / CONFIG).write_text(json.dumps(config, indent=2) + "\n", encoding="utf-8")


def _read_state(folder: Path) -> tuple[Architecture, dict[str, Tensor]]:
    shape, tensors = read_architecture(folder), read_tensors(folder)
    family = FAMILIES[shape.family]
    check_unread(tensors, family.names, len(shape.layers), folder)
    return shape, family.read_tensors(tensors, shape)


def _renew(head: Head, whole: bool) -> None:
    """Draw a head anew as BERT does: the output only, or all of it."""
    matrices = [head.out]
    if whole:  # what a bare encoder has there was trained for something else, if at all
        matrices.append(head.dense)
    for matrix in matrices:
        nn.init.normal_(matrix.weight, std=0.02)
        if matrix.bias is not None:
            nn.init.zeros_(matrix.bias)


def _read_file(folder: Path) -> dict[str, Tensor]:
    path = folder / WEIGHTS
    try:
        if path.is_file():
            return load_file(str(path))
        path = folder / "pytorch_model.bin"
        if path.is_file():
            return dict(torch.load(path, map_location="cpu", weights_only=True))
    except (SafetensorError, OSError, RuntimeError, ValueError, EOFError) as error:
        raise FolderError(f"{path} cannot be read as weights: {error}") from None
    except Exception as error:
        if type(error).__name__ == "UnpicklingError":  # weights-only refuses anything that could run code
            raise FolderError(f"{path} holds more than weights, which is not loaded: {error}") from None
        raise
    raise FolderError(f"{folder} has neither {WEIGHTS} nor pytorch_model.bin")


def _load_state(module: nn.Module, state: dict[str, Tensor], folder: Path) -> None:
    wanted = module.state_dict()
    for told, names in (("lacks", wanted.keys() - state.keys()), ("has too many", state.keys() - wanted.keys())):
        if names:
            raise FolderError(f"{folder} {told} weights, the first of {len(names)} is {min(names)}")
    for name, tensor in wanted.items():
        if state[name].shape != tensor.shape:
            raise FolderError(
                f"{folder}: {name} has shape {tuple(state[name].shape)}, the config says {tuple(tensor.shape)}"
            )
    module.load_state_dict(state)
