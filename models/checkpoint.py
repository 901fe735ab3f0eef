"""load_checkpoint(): Hugging Face folder → Classifier, and save_checkpoint(): back again, in the same names.

A folder of ours is a Hugging Face folder: `config.json`, `tokenizer.json`, `model.safetensors` with transformers'
names. Where a shape is one that `config.json` can say, transformers loads the folder; a pruned one has its truth in
`architecture.json`, and the matrices are smaller or absent.
"""

import json
from pathlib import Path
from typing import Any

import torch
from safetensors import SafetensorError
from safetensors.torch import load_file, save_file
from torch import Tensor

from models import architecture as architecture_file
from models.architecture import Architecture, LayerShape
from models.classifier import Classifier
from models.errors import FolderError, InputError
from models.task import Task

WEIGHTS = "model.safetensors"
KNOWN_FAMILIES = ("bert",)  # MiniLM's checkpoints call themselves bert
_LAYER_NAMES = {
    "attention.output": "attention.output.dense",
    "attention.norm": "attention.output.LayerNorm",
    "ffn.rise": "intermediate.dense",
    "ffn.fall": "output.dense",
    "ffn.norm": "output.LayerNorm",
}
_OUTER_NAMES = {
    "encoder.embeddings.tokens": "bert.embeddings.word_embeddings",
    "encoder.embeddings.positions": "bert.embeddings.position_embeddings",
    "encoder.embeddings.types": "bert.embeddings.token_type_embeddings",
    "encoder.embeddings.norm": "bert.embeddings.LayerNorm",
    "head.dense": "bert.pooler.dense",
    "head.out": "classifier",
}


def read_architecture(folder: Path) -> Architecture:
    """Return the shape of the checkpoint in `folder`.

    Raises:
        FolderError: there is no readable config.
        InputError: the model is of a family, or has a setting, that this encoder does not compute.
    """
    if (folder / architecture_file.FILE).is_file():
        return Architecture.read(folder / architecture_file.FILE)
    config = read_config(folder)
    _refuse_unknown(folder, config)
    heads = config["num_attention_heads"]
    layer = LayerShape(heads=heads, ffn=config["intermediate_size"])
    return Architecture(
        vocabulary=config["vocab_size"],
        positions=config["max_position_embeddings"],
        token_types=config["type_vocab_size"],
        width=config["hidden_size"],
        head_size=config["hidden_size"] // heads,
        layers=(layer,) * config["num_hidden_layers"],
        norm_epsilon=config["layer_norm_eps"],
    )


def read_config(folder: Path) -> dict[str, Any]:
    """Return `config.json` of a Hugging Face folder."""
    path = Path(folder) / "config.json"
    if not path.is_file():
        raise FolderError(f"{folder} has no config.json: wanted a Hugging Face model folder")
    try:
        config = json.loads(path.read_text(encoding="utf-8"))
    except ValueError as error:
        raise FolderError(f"{path} is not valid JSON: {error}") from None
    if not isinstance(config, dict):
        raise FolderError(f"{path} holds {type(config).__name__}, wanted an object")
    return config


def load_checkpoint(folder: Path, labels: int | None = None, seed: int = 0) -> Classifier:
    """Return the classifier whose weights are in `folder`.

    Args:
        folder: a Hugging Face folder with safetensors, or with a `.bin` that torch's weights-only loader accepts.
        labels: number of logits wanted; a checkpoint without a head (a bare encoder) gets a new, seeded one.
            None: the head must be there.
        seed: of the new head.
    """
    folder = Path(folder)
    shape = read_architecture(folder)
    tensors = {_with_prefix(name): tensor.float() for name, tensor in _read_tensors(folder).items()}
    found_head = tensors.get("classifier.weight")
    if found_head is None and labels is None:
        raise FolderError(f"{folder} is an encoder without a classification head: fine-tune it first")
    new_head = found_head is None or (labels is not None and found_head.shape[0] != labels)
    count = labels if labels is not None else int(found_head.shape[0])  # type: ignore[union-attr]
    torch.manual_seed(seed)
    model = Classifier(shape, count)
    state = _from_hugging_face(tensors, shape)
    if new_head:
        torch.nn.init.normal_(model.head.out.weight, std=0.02)
        torch.nn.init.zeros_(model.head.out.bias)
        state |= {"head.out.weight": model.head.out.weight, "head.out.bias": model.head.out.bias}
        if found_head is None:  # a bare encoder's pooler was trained for something else, if at all
            torch.nn.init.normal_(model.head.dense.weight, std=0.02)
            torch.nn.init.zeros_(model.head.dense.bias)
            state |= {"head.dense.weight": model.head.dense.weight, "head.dense.bias": model.head.dense.bias}
    _load_state(model, state, folder)
    return model.eval()


def save_checkpoint(model: Classifier, task: Task, folder: Path) -> None:
    """Write `model.safetensors`, `config.json` and `architecture.json` into `folder`."""
    shape = model.architecture
    save_file(_to_hugging_face(model), str(folder / WEIGHTS), metadata={"format": "pt"})
    shape.write(folder / architecture_file.FILE)
    (folder / "config.json").write_text(json.dumps(_config(shape, task), indent=2) + "\n", encoding="utf-8")


def _config(shape: Architecture, task: Task) -> dict[str, Any]:
    first = shape.layers[0]
    uniform = shape.is_uniform()
    kinds = {"single": "single_label_classification", "multi": "multi_label_classification"}
    config: dict[str, Any] = {
        # transformers must not load a pruned folder as if it were a plain one
        "architectures": ["BertForSequenceClassification" if uniform else "PrunellaClassifier"],
        "model_type": "bert" if uniform else "prunella-bert",
        "vocab_size": shape.vocabulary,
        "hidden_size": shape.width,
        "num_hidden_layers": len(shape.layers),
        "max_position_embeddings": shape.positions,
        "type_vocab_size": shape.token_types,
        "layer_norm_eps": shape.norm_epsilon,
        "hidden_act": "gelu",
        "pad_token_id": 0,
        "problem_type": kinds.get(task.kind, "regression"),
        "id2label": {str(i): label for i, label in enumerate(task.labels)},
        "label2id": {label: i for i, label in enumerate(task.labels)},
    }
    if uniform:
        config |= {"num_attention_heads": first.heads, "intermediate_size": first.ffn}
    return config


def _refuse_unknown(folder: Path, config: dict[str, Any]) -> None:
    family = config.get("model_type")
    if family not in KNOWN_FAMILIES:
        raise InputError(f"{folder} is a {family!r} model: known are {', '.join(KNOWN_FAMILIES)}")
    wanted = {"hidden_act": "gelu", "position_embedding_type": "absolute"}
    for key, value in wanted.items():
        if config.get(key, value) != value:
            raise InputError(f"{folder} has {key} = {config[key]!r}: only {value!r} is computed here")
    numbers = ("num_attention_heads", "intermediate_size", "vocab_size", "max_position_embeddings", "type_vocab_size")
    needed = (*numbers, "hidden_size", "num_hidden_layers", "layer_norm_eps")
    missing = [key for key in needed if key not in config]
    if missing:
        raise FolderError(f"{folder}/config.json lacks {', '.join(missing)}")


def _read_tensors(folder: Path) -> dict[str, Tensor]:
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


def _with_prefix(name: str) -> str:
    """Bare encoders are saved without `bert.`, classifiers with it; old files say gamma and beta."""
    name = name.replace("LayerNorm.gamma", "LayerNorm.weight").replace("LayerNorm.beta", "LayerNorm.bias")
    return name if name.startswith(("bert.", "classifier.")) else f"bert.{name}"


def _from_hugging_face(tensors: dict[str, Tensor], shape: Architecture) -> dict[str, Tensor]:
    names = {
        f"{ours}.{end}": f"{theirs}.{end}" for ours, theirs in _OUTER_NAMES.items() for end in ("weight", "bias")
    }
    state = {ours: tensors[theirs] for ours, theirs in names.items() if theirs in tensors}
    for index, layer in enumerate(shape.layers):
        ours, theirs = f"encoder.layers.{index}", f"bert.encoder.layer.{index}"
        for end in ("weight", "bias"):
            for our_name, their_name in _LAYER_NAMES.items():
                if f"{theirs}.{their_name}.{end}" in tensors:
                    state[f"{ours}.{our_name}.{end}"] = tensors[f"{theirs}.{their_name}.{end}"]
            parts = [tensors.get(f"{theirs}.attention.self.{part}.{end}") for part in ("query", "key", "value")]
            found = [part for part in parts if part is not None]
            if layer.heads and len(found) == 3:
                state[f"{ours}.attention.qkv.{end}"] = torch.cat(found)
        for name, kept in (("attention.output", layer.heads), ("ffn.fall", layer.ffn)):
            if not kept and f"{ours}.{name}.bias" in state:  # a dropped sublayer keeps its bias only
                state[f"{ours}.{name.split('.')[0]}.bias"] = state.pop(f"{ours}.{name}.bias")
    return state


def _to_hugging_face(model: Classifier) -> dict[str, Tensor]:
    named: dict[str, Tensor] = {}
    for name, tensor in model.state_dict().items():
        module, end = name.rsplit(".", 1)
        if module in _OUTER_NAMES:
            named[f"{_OUTER_NAMES[module]}.{end}"] = tensor
            continue
        _, _, index, inner = module.split(".", 3)
        layer = f"bert.encoder.layer.{index}"
        if inner == "attention.qkv":
            for part, piece in zip(("query", "key", "value"), tensor.chunk(3), strict=True):
                named[f"{layer}.attention.self.{part}.{end}"] = piece
        elif inner in ("attention", "ffn"):  # the bias of a dropped sublayer
            named[f"{layer}.{_LAYER_NAMES['attention.output' if inner == 'attention' else 'ffn.fall']}.bias"] = tensor
        else:
            named[f"{layer}.{_LAYER_NAMES[inner]}.{end}"] = tensor
    return {name: tensor.detach().cpu().contiguous().clone() for name, tensor in named.items()}


def _load_state(model: Classifier, state: dict[str, Tensor], folder: Path) -> None:
    wanted = model.state_dict()
    missing = sorted(wanted.keys() - state.keys())
    if missing:
        raise FolderError(f"{folder} lacks weights, the first of {len(missing)} is {missing[0]}")
    for name, tensor in wanted.items():
        if state[name].shape != tensor.shape:
            raise FolderError(
                f"{folder}: {name} has shape {tuple(state[name].shape)}, the config says {tuple(tensor.shape)}"
            )
    model.load_state_dict(state)
