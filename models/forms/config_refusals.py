"""refuse_config(): settings of a config.json that change what the model computes, and that Prunella does not read."""

from typing import Any

from models.errors import InputError

QUANTIZED = ("quantization_config", "compression_config")


def refuse_config(config: dict[str, Any], source: str) -> None:
    """Refuse a config of quantized weights.

    Args:
        config: the object in config.json.
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
