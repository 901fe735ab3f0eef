"""refuse_config(): settings of a config.json that change what the model computes, and that Prunella does not read."""

from functools import cache
from typing import Any

from models.errors import InputError
from models.families.config_forms import class_type
from models.messages import say

QUANTIZED = ("quantization_config", "compression_config")
TASKS = (  # classes of transformers end in these
    "ForSequenceClassification", "ForMaskedLM", "ForPreTraining", "ForTokenClassification", "ForMultipleChoice",
    "ForQuestionAnswering", "ForNextSentencePrediction", "ForCausalLM", "LMHeadModel", "Model",
)  # fmt: skip


def refuse_config(config: dict[str, Any], source: str) -> None:
    """Refuse a config of quantized weights, or of a class whose code is in the folder.

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
                "dequantized (transformers: model.dequantize(), then save_pretrained), or take the original model; if "
                f"the weights are dequantized already, remove {key}"
            )
    if code := config.get("auto_map"):
        _check_code(code, config, source)


def _check_code(code: Any, config: dict[str, Any], source: str) -> None:
    """Say that code is not run where the class is one of transformers; refuse other classes."""
    architectures = config.get("architectures")
    name = str(architectures[0]) if isinstance(architectures, list) and architectures else "none"
    if class_type(architectures) != config.get("model_type") or not name.endswith(TASKS) or name.count("For") > 1:
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
