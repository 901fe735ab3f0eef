"""Bring a folder that the installed transformers wrote into the forms that other versions and other people write."""

import json
from pathlib import Path
from typing import Any

from models.tokenizer import read_backend


def change_config(folder: Path, drop: tuple[str, ...] = (), **changes: Any) -> None:
    """Remove keys from `config.json`, and set others."""
    path = folder / "config.json"
    config = {key: value for key, value in json.loads(path.read_text(encoding="utf-8")).items() if key not in drop}
    path.write_text(json.dumps(config | changes), encoding="utf-8")


def as_transformers_5(folder: Path, **parts: Any) -> None:
    """Write `config.json` as version 5 does; `parts` replace keys of it."""
    config = json.loads((folder / "config.json").read_text(encoding="utf-8"))
    changes: dict[str, Any] = {"dtype": "float32", "transformers_version": "5.0.0"}
    old = ["torch_dtype"]
    if config["model_type"] == "modernbert":
        every, layers = config["global_attn_every_n_layers"], config["num_hidden_layers"]
        thetas = {"full_attention": "global_rope_theta", "sliding_attention": "local_rope_theta"}
        changes["rope_parameters"] = {
            kind: {"rope_theta": config[key], "rope_type": "default"} for kind, key in thetas.items()
        }
        changes["layer_types"] = ["sliding_attention" if i % every else "full_attention" for i in range(layers)]
        old += [*thetas.values(), "global_attn_every_n_layers"]
    change_config(folder, tuple(old), **changes | parts)


def with_tokenizers_backend(folder: Path) -> None:
    """Write `tokenizer_config.json` as version 5 does for a tokenizer that is `tokenizer.json` alone."""
    tokenizer = {"backend": "tokenizers", "is_local": True, "tokenizer_class": "TokenizersBackend"}
    (folder / "tokenizer_config.json").write_text(json.dumps(tokenizer), encoding="utf-8")


def as_camembert(folder: Path) -> None:
    """Name a RoBERTa folder as CamemBERT's, which has the same layers."""
    change_config(folder, model_type="camembert", architectures=["CamembertForSequenceClassification"])


def as_vocabulary_files(folder: Path) -> None:
    """Replace `tokenizer.json` by `vocab.txt`, or by `vocab.json` and `merges.txt`, as slow tokenizers write them."""
    path = folder / "tokenizer.json"
    model = json.loads(path.read_text(encoding="utf-8"))["model"]
    vocabulary = read_backend(folder).get_vocab()
    path.unlink()
    if model["type"] == "BPE":
        merges = [" ".join(pair) if isinstance(pair, list) else pair for pair in model["merges"]]
        (folder / "vocab.json").write_text(json.dumps(vocabulary), encoding="utf-8")
        (folder / "merges.txt").write_text("\n".join(["#version: 0.2", *merges]) + "\n", encoding="utf-8")
        return
    words = sorted(vocabulary, key=lambda word: vocabulary[word])
    (folder / "vocab.txt").write_text("\n".join(words) + "\n", encoding="utf-8")
