"""load_checkpoint(): Hugging Face folder → Classifier; save_checkpoint(): Classifier → folder with the same names.

A Prunella folder is a Hugging Face folder: `config.json`, `tokenizer.json`, and `model.safetensors` with the tensor
names of transformers. If `config.json` can describe the shape, transformers loads the folder. The shape of a pruned
model is in `architecture.json`, and its matrices are smaller or absent. `models.families` maps the tensor names.
"""

import json
from pathlib import Path
from typing import Any

import torch
from safetensors import SafetensorError
from safetensors.torch import save_file
from torch import Tensor, nn

from models import architecture as architecture_file
from models.architecture import Architecture, Pooling
from models.classifier import Classifier, Head, make_encoder
from models.encoders.layered import LayeredEncoder
from models.errors import CheckError, FolderError, InputError
from models.families import FAMILIES
from models.families.config_forms import ALIASES, canonical_config
from models.families.family import POSITIONS
from models.families.stored_names import family_names
from models.families.unread import check_unread
from models.forms.config_refusals import has_other_head, refuse_config, without_head
from models.forms.embedding_classifier import EmbeddingClassifier
from models.forms.embedding_settings import nested_hint
from models.forms.float_weights import as_fp32
from models.forms.foreign_file import refuse_foreign_file
from models.store.folder import refuse_missing
from models.task import Task
from models.weights import SAFETENSORS, read_weights

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
        InputError: the model's family or one of its settings is not supported.
    """
    folder = Path(folder)
    if (folder / architecture_file.FILE).is_file():
        return Architecture.read(folder / architecture_file.FILE)
    config = canonical_config(read_config(folder), str(folder / CONFIG))
    family = FAMILIES.get(str(config.get("model_type")))
    if family is None:
        known = ", ".join((*FAMILIES, *ALIASES))
        raise InputError(f"{folder} is a {config.get('model_type')!r} model: supported are {known}")
    refuse_config(config, str(folder / CONFIG))
    shape = family.read_config(config, str(folder / CONFIG))
    embedding = EmbeddingClassifier.open(folder)
    return shape if embedding is None else embedding.shaped(shape)


def read_config(folder: Path) -> dict[str, Any]:
    """Return `config.json` of a Hugging Face folder.

    Raises:
        FolderError: there is no such folder; the file is missing or no JSON object; or the folder holds an adapter.
    """
    refuse_missing(Path(folder))
    refuse_adapter(Path(folder))
    path = Path(folder) / CONFIG
    if not path.is_file():
        raise FolderError(f"{folder} has no {CONFIG}: wanted a Hugging Face model folder{checkpoint_hint(folder)}")
    refuse_foreign_file(path)
    try:
        config = json.loads(path.read_text(encoding="utf-8"))
    except ValueError as error:
        raise FolderError(f"{path} is not valid JSON: {error}") from None
    if not isinstance(config, dict):
        raise FolderError(f"{path} holds {type(config).__name__}, wanted an object")
    return config


def checkpoint_hint(folder: Path) -> str:
    """Return the end of a message that names the newest `checkpoint-N`, or the encoder, inside a folder."""
    folders = [path for path in Path(folder).glob("checkpoint-*") if (path / CONFIG).is_file()]
    steps = {int(number): path for path in folders if (number := path.name.rpartition("-")[2]).isdecimal()}
    if not steps:
        return nested_hint(Path(folder))
    return f"; it holds {len(steps)} checkpoints of a training, the newest is {steps[max(steps)]}: give that one"


def refuse_adapter(folder: Path) -> None:
    """Refuse a folder that holds an adapter, with or without a model: transformers would load both.

    Raises:
        FolderError: there is an adapter_config.json.
    """
    if (folder / ADAPTER_CONFIG).is_file():
        raise FolderError(
            f"{folder} holds an adapter ({ADAPTER_CONFIG}), which is not supported: merge it into its model "
            f"(peft: merge_and_unload) and save the result; if you have merged it already, remove {ADAPTER_CONFIG}"
        )


def read_names(config: dict[str, Any], source: str) -> dict[str, Any]:
    """Return `id2label` of a `config.json`, whose path is `source`; an empty object if it has none.

    Raises:
        FolderError: it is not an object.
    """
    names = config.get("id2label") or {}
    if not isinstance(names, dict):
        raise FolderError(
            f'{source} has id2label = {str(names)[:80]}: wanted an object such as {{"0": "no", "1": "yes"}}'
        )
    return names


def label_names(names: dict[str, Any], count: int) -> tuple[str, ...]:
    """Return the names of `count` outputs from `id2label`; the default names of transformers for others."""
    return tuple(str(names.get(str(i), f"LABEL_{i}")) for i in range(count))


def read_tensors(folder: Path) -> dict[str, Tensor]:
    """Return all tensors of a checkpoint in fp32, by their names in transformers.

    They are read from safetensors, or from a `.bin` that torch's weights-only loader accepts; from one file, or from
    several that an index lists.

    Raises:
        FolderError: there are no weights, one of several files is missing, or a file holds something else, such as
            quantized weights or those of another family.
    """
    shape, tensors = read_architecture(folder), read_weights(Path(folder))
    names = family_names(tensors, FAMILIES[shape.family].names, len(shape.layers), Path(folder))
    return as_fp32({names[name]: tensor for name, tensor in tensors.items()}, str(folder))


def load_checkpoint(  # noqa: PLR0913 (five of them choose what is new)
    folder: Path,
    labels: int | None = None,
    seed: int = 0,
    dropout: float = 0.1,
    new_output: bool = False,
    pooling: Pooling | None = None,
) -> Classifier:
    """Return the classifier whose weights are in `folder`, in evaluation mode.

    Args:
        folder: a Hugging Face folder.
        labels: number of logits. If the checkpoint has no head (a bare encoder), a new head is initialized with
            `seed`. None: the checkpoint must have a head, whose number of logits is kept.
        seed: random seed of the new head.
        dropout: dropout rate in training.
        new_output: initialize the last layer of the head anew, even if the checkpoint has one of this size.
        pooling: input of the head; None: as in the checkpoint. A head of another pooling is initialized anew.

    Raises:
        FolderError: the weights are missing, are not those of the config, or have no head and `labels` is None.
        InputError: the model's family or one of its settings is not supported.
    """
    folder = Path(folder)
    shape, state = _read_state(folder)
    if pooling is not None and pooling != shape.pooling:
        shape = shape.model_copy(update={"pooling": pooling, "head": "dense"})
        state = {name: tensor for name, tensor in state.items() if not name.startswith("head.")}
    output = state.get("head.out.weight")
    if labels is None and output is None:
        raise FolderError(without_head(folder, read_config(folder)))
    count = labels if labels is not None else int(output.shape[0])  # type: ignore[union-attr]
    torch.manual_seed(seed)
    model = Classifier(shape, count, dropout)
    if output is None or output.shape[0] != count or new_output:
        _initialize_head(model.head, whole=output is None)
        prefix = "head." if output is None else "head.out."
        state |= {name: tensor for name, tensor in model.state_dict().items() if name.startswith(prefix)}
    _load_state(model, state, folder)
    return model.eval()


def load_encoder(folder: Path, dropout: float = 0.1) -> LayeredEncoder:
    """Return the encoder whose weights are in `folder`, without any head, in evaluation mode."""
    folder = Path(folder)
    shape, state = _read_state(folder)
    encoder = make_encoder(shape, dropout)
    prefix = "encoder."
    _load_state(encoder, {n.removeprefix(prefix): t for n, t in state.items() if n.startswith(prefix)}, folder)
    return encoder.eval()


def save_checkpoint(model: Classifier, task: Task, folder: Path) -> None:
    """Write `model.safetensors`, `config.json` and `architecture.json` into `folder`."""
    shape = model.architecture
    family = FAMILIES[shape.family]
    name = f"{family.classes}ForSequenceClassification" if shape.is_in_transformers() else "PrunellaClassifier"
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
    """Write an encoder into `folder`, as the same files as `save_checkpoint`.

    Args:
        encoder: the encoder; its tensors get the prefix of the family, such as `bert.`.
        folder: the target folder.
        extra: more tensors under their final names, such as `cls.predictions.bias`.
        architectures: class of transformers for `config.json`, such as BertForMaskedLM; None: the bare model.
    """
    shape = encoder.architecture
    family = FAMILIES[shape.family]
    name = architectures or f"{family.classes}Model"
    config = {
        "architectures": [name if shape.is_in_transformers() else "PrunellaEncoder"],
        **family.write_config(shape),
    }
    state = {f"encoder.{name}": tensor for name, tensor in encoder.state_dict().items()}
    extra_tensors = {name: tensor.detach().cpu().contiguous().clone() for name, tensor in (extra or {}).items()}
    _write(folder, family.write_tensors(state, shape) | extra_tensors, config, shape)


def _write(folder: Path, tensors: dict[str, Tensor], config: dict[str, Any], shape: Architecture) -> None:
    try:
        save_file(tensors, str(folder / SAFETENSORS), metadata={"format": "pt"})
    except SafetensorError as error:
        raise CheckError(f"cannot write {folder / SAFETENSORS} ({error}): make room and run it again") from None
    shape.write(folder / architecture_file.FILE)
    (folder / CONFIG).write_text(json.dumps(config, indent=2) + "\n", encoding="utf-8")


def _read_state(folder: Path) -> tuple[Architecture, dict[str, Tensor]]:
    shape, tensors = read_architecture(folder), read_tensors(folder)
    family = FAMILIES[shape.family]
    config = read_config(folder)
    tensors = family.fold(tensors, config, str(folder / CONFIG))
    check_unread(tensors, family.names, len(shape.layers), folder)
    state = family.read_tensors(tensors, shape)
    if has_other_head(config):
        state = {name: tensor for name, tensor in state.items() if not name.startswith("head.")}
    if shape.head != "dense":  # the pooler of a bare encoder is not part of the classifier
        state = {name: tensor for name, tensor in state.items() if not name.startswith(("head.dense.", "head.norm."))}
    if (folder / architecture_file.FILE).is_file():
        return shape, state
    embedding = EmbeddingClassifier.open(folder)
    return shape, state if embedding is None else state | embedding.head_tensors(shape)


def _initialize_head(head: Head, whole: bool) -> None:
    """Initialize a head as BERT does: its output layer only, or also its dense layer if `whole`."""
    matrices = [head.out]
    if (
        whole and head.dense is not None
    ):  # the dense layer of a bare encoder was trained for another task, or not at all
        matrices.append(head.dense)
    for matrix in matrices:
        nn.init.normal_(matrix.weight, std=0.02)
        if matrix.bias is not None:
            nn.init.zeros_(matrix.bias)


REMEDY = "correct config.json, or save the model again (model.save_pretrained)"


def _load_state(module: Classifier | LayeredEncoder, state: dict[str, Tensor], folder: Path) -> None:
    expected = module.state_dict()
    shape, prefix = module.architecture, "" if isinstance(module, Classifier) else "encoder."

    def stored(name: str) -> str:
        return FAMILIES[shape.family].names.stored_name(prefix + name, len(shape.layers))

    missing, unexpected = expected.keys() - state.keys(), state.keys() - expected.keys()
    for problem, names in (("lacks", missing), ("has too many", unexpected)):
        if names:
            raise FolderError(
                f"{folder} {problem} weights, the first of {len(names)} is {min(map(stored, names))}: {REMEDY}"
            )
    for name, tensor in expected.items():
        if state[name].shape != tensor.shape:
            unused = FAMILIES[shape.family].unread_rows(shape.pad_id) if prefix + name == POSITIONS else 0
            held, wanted = ((size[0] + unused, *size[1:]) for size in (state[name].shape, tensor.shape))
            raise FolderError(f"{folder}: {stored(name)} has shape {held}, the config says {wanted}: {REMEDY}")
    module.load_state_dict(state)
