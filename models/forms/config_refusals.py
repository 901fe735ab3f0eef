"""refuse_config(): settings of a config.json that change what the model computes, and that Prunella does not read."""

from functools import cache
from pathlib import Path
from typing import Any

from models.errors import InputError
from models.families.config_forms import class_type
from models.messages import say

QUANTIZED = ("quantization_config", "compression_config")
TASKS = (  # classes of transformers end in these
    "ForSequenceClassification", "ForMaskedLM", "ForPreTraining", "ForTokenClassification", "ForMultipleChoice",
    "ForQuestionAnswering", "ForNextSentencePrediction", "ForCausalLM", "LMHeadModel", "Model",
)  # fmt: skip


OWN_HEADS = (
    "ForMultipleChoice",
    "ForTokenClassification",
)  # with a module called classifier, as a classifier of texts


def class_of(config: dict[str, Any]) -> str:
    """Return the first name in `architectures` of a config.json; an empty one if there is none."""
    architectures = config.get("architectures")
    return str(architectures[0]) if isinstance(architectures, list) and architectures else ""


def has_other_head(config: dict[str, Any]) -> bool:
    """Whether the module called classifier does not classify texts."""
    return class_of(config).endswith(OWN_HEADS)


def without_head(folder: Path, config: dict[str, Any]) -> str:
    """Return the message for a folder that has no classification head, with the class that config.json names."""
    name = class_of(config)
    if "For" not in name or name.endswith("ForSequenceClassification"):
        return f"{folder} is an encoder without a classification head: fine-tune it first"
    return (
        f"{folder} is a {name}, not a classifier of texts (…ForSequenceClassification): its encoder can be "
        "fine-tuned first (prunella finetune --encoder)"
    )


def refuse_config(config: dict[str, Any], source: str) -> None:
    """Refuse a config of quantized weights, of pruned heads, or of a class whose code is in the folder.

    Args:
        config: the object in config.json, with its model type (`canonical_config`).
        source: its path, for messages.

    Raises:
        InputError: the config has such a setting.
    """
    for key in QUANTIZED:
        if settings := config.get(key):
            method = settings.get("quant_method") if isinstance(settings, dict) else None
            raise InputError(
                f"{source} has {key} (method {method or 'unknown'}): quantized weights are not read. Save the model "
                "dequantized (transformers: model.dequantize(), then save_pretrained), or take the original model; "
                f"if the weights are dequantized already, remove {key}"
            )
    if pruned := config.get("pruned_heads"):
        raise InputError(
            f"{source} has pruned_heads = {str(pruned)[:80]}: attention heads that transformers pruned are not "
            "supported: take the model before it was pruned; prunella compress prunes heads"
        )
    if code := config.get("auto_map"):
        _check_code(code, config, source)


def _check_code(code: Any, config: dict[str, Any], source: str) -> None:
    """Say that code is not run where the class is one of transformers; refuse other classes."""
    name = class_of(config) or "none"
    if (
        class_type(config.get("architectures")) != config.get("model_type")
        or not name.endswith(TASKS)
        or name.count("For") > 1
    ):
        raise InputError(
            f"{source} names Python code of its own (auto_map: {_some(code)}), which is never run, and the class "
            f"{name}, which is none of transformers' for {config.get('model_type')}: what the model computes is "
            "unknown. Save it as a class of transformers, without auto_map"
        )
    _say_code(source, name)


def _some(code: Any) -> str:
    return ", ".join(map(str, code.values() if isinstance(code, dict) else [code]))[:80]


@cache
def _say_code(source: str, name: str) -> None:
    say(f"{source} names Python code of its own (auto_map): it is not run; the model is read as the class {name}")
