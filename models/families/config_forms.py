"""canonical_config(): the forms in which versions of transformers write a config.json → the one form that we read.

Sources: the configuration classes of transformers 4.57 and 5.0 (`configuration_*.py`): their defaults, and the keys
that version 5 writes for ModernBERT.
"""

from functools import cache
from typing import Any

from models.errors import FolderError, InputError
from models.messages import say

ALIASES = {"camembert": "roberta"}  # model types that have the modules and tensor names of another
CLASSES = {  # prefix of the class names in `architectures` → model type, for a config.json that names none
    "XLMRoberta": "xlm-roberta", "Camembert": "roberta", "Roberta": "roberta", "DistilBert": "distilbert",
    "ModernBert": "modernbert", "Electra": "electra", "DebertaV2": "deberta-v2", "Deberta": "deberta", "Bert": "bert",
    "MPNet": "mpnet", "Ernie": "ernie",
}  # fmt: skip
_BERT_DEFAULTS = {"layer_norm_eps": 1e-12, "type_vocab_size": 2}
DEFAULTS: dict[str, dict[str, Any]] = {  # of the configuration classes; sizes of matrices have none here
    "bert": _BERT_DEFAULTS,
    "roberta": _BERT_DEFAULTS,
    "xlm-roberta": _BERT_DEFAULTS,
    "electra": _BERT_DEFAULTS,
    "ernie": _BERT_DEFAULTS | {"use_task_id": False},
    "mpnet": {"layer_norm_eps": 1e-12, "relative_attention_num_buckets": 32},
    "modernbert": {
        "norm_eps": 1e-5, "global_attn_every_n_layers": 3, "local_attention": 128, "attention_bias": False,
        "mlp_bias": False, "norm_bias": False, "classifier_bias": False, "classifier_pooling": "cls",
        "global_rope_theta": 160_000.0, "local_rope_theta": 10_000.0,
    },
    "deberta-v2": {
        "layer_norm_eps": 1e-7, "type_vocab_size": 0, "relative_attention": False, "max_relative_positions": -1,
        "position_biased_input": True, "pos_att_type": None, "pooler_hidden_act": "gelu",
    },
}  # fmt: skip
GLOBAL, LOCAL = "full_attention", "sliding_attention"


def canonical_config(config: dict[str, Any], source: str) -> dict[str, Any]:
    """Return the config with its model type, the keys of transformers 4, and the defaults of what is not there.

    Each default that is used is said once.

    Args:
        config: the object in config.json.
        source: the file, for messages.

    Raises:
        FolderError: the layers of a ModernBERT have no regular pattern.
        InputError: its rotary positions, or the relative positions or widths of a DeBERTa, are not supported.
    """
    config = dict(config)
    model_type = config.get("model_type") or class_type(config.get("architectures"))
    if model_type is None:
        return config
    config["model_type"] = model_type = ALIASES.get(str(model_type), model_type)
    if model_type == "modernbert":
        config = _modernbert(config, source)
    elif model_type == "deberta-v2":
        config = _deberta(config, source)
    for key, value in DEFAULTS.get(model_type, {}).items():
        if key not in config:
            config[key] = value
            _say_default(source, key, value)
    return config


def class_type(architectures: Any) -> str | None:
    """Return the model type of a class such as RobertaForSequenceClassification."""
    name = str(architectures[0]) if isinstance(architectures, list) and architectures else ""
    for prefix, model_type in CLASSES.items():
        if name.startswith((f"{prefix}For", f"{prefix}Model")):
            return model_type
    return None


@cache
def _say_default(source: str, key: str, value: Any) -> None:
    say(f"{source} has no {key}: {value!r} is used, the default of transformers")


def _modernbert(config: dict[str, Any], source: str) -> dict[str, Any]:
    """Return the keys of transformers 4 for those of 5: rope_parameters and layer_types."""
    for part, key in ((GLOBAL, "global_rope_theta"), (LOCAL, "local_rope_theta")):
        rope = _rope_of(config, part, source)
        if (kind := rope.get("rope_type", rope.get("type", "default"))) != "default":  # `type`: before rope_type
            raise InputError(f"{source}: rope_type {kind!r} of {part}: only 'default' is supported")
        if "rope_theta" in rope:
            config[key] = rope["rope_theta"]
    if "local_attention" not in config and "sliding_window" in config:
        config["local_attention"] = 2 * config["sliding_window"]
    if "global_attn_every_n_layers" not in config and config.get("layer_types"):
        config["global_attn_every_n_layers"] = _period_of(config["layer_types"], source)
    return config


def _rope_of(config: dict[str, Any], part: str, source: str) -> dict[str, Any]:
    """Return the rotary settings of one kind of layer; an empty object if the config has none.

    Raises:
        FolderError: they are not one object for each kind of layer, such as one for all: transformers ignores it.
    """
    kinds = config.get("rope_parameters") or {}
    if not isinstance(kinds, dict) or not all(isinstance(kinds.get(kind) or {}, dict) for kind in kinds):
        raise FolderError(
            f"{source} has rope_parameters = {str(kinds)[:80]}: wanted an object with {GLOBAL} and {LOCAL}, and in "
            "each an object with rope_theta"
        )
    rope: dict[str, Any] = kinds.get(part) or {}
    return rope


def _deberta(config: dict[str, Any], source: str) -> dict[str, Any]:
    """Return `pos_att_type` as a list, and check the widths that could differ from the hidden size."""
    parts = config.get("pos_att_type")
    if isinstance(parts, str):
        config["pos_att_type"] = parts = [part.strip() for part in parts.lower().split("|")]
    if unknown := sorted(set(parts or ()) - {"c2p", "p2c", "none", ""}):
        raise InputError(f"{source} has pos_att_type {', '.join(unknown)}: only c2p and p2c are supported")
    width, heads = config.get("hidden_size"), config.get("num_attention_heads")
    if isinstance(width, int) and isinstance(heads, int):
        wanted = {"embedding_size": width, "pooler_hidden_size": width, "attention_head_size": width // max(heads, 1)}
        for key, value in wanted.items():
            if config.get(key, value) != value:
                raise InputError(
                    f"{source} has {key} = {config[key]!r}: only {value} is supported with hidden_size = {width} and "
                    f"num_attention_heads = {heads}"
                )
    return config


def _period_of(layer_types: list[str], source: str) -> int:
    """Return N where every N-th layer, starting at 0, has global attention.

    Raises:
        FolderError: the layers follow another pattern.
    """
    places = [i for i, kind in enumerate(layer_types) if kind == GLOBAL]
    period = places[1] if len(places) > 1 else len(layer_types)
    expected = [LOCAL if i % period else GLOBAL for i in range(len(layer_types))]
    if not places or layer_types != expected:
        raise FolderError(f"{source}: layer_types follows no pattern of one {GLOBAL} layer, then some of {LOCAL}")
    return period
