"""Convert the options of `prunella compress` to a CompressConfig and Targets."""

import math
from typing import Any, Literal

from compress.config import CompressConfig, DistillConfig
from compress.search.search_to_target import Target
from models.errors import InputError

MODES: dict[str, dict[str, Any] | None] = {  # settings of healing; None: no healing
    "instant": None,
    "standard": {"epochs": 10, "minutes": 40.0},
    "max": {"epochs": 40, "minutes": None, "metric": "distance", "patience": 5},  # until the metric stops improving
}
FAMILY_MINUTES = 120.0  # of healing for all targets of a family, so that the command takes 2.5 hours at most


def read_trim(trim: bool | None, for_size: bool) -> str:
    """Return the setting `vocabulary`; by default it is trimmed, if possible, only when the target is a size."""
    if trim is None:
        return "trim_if_possible" if for_size else "whole"
    return "trim" if trim else "whole"


def read_targets(
    speedup: float | None, latency_ms: float | None, size_mb: float | None, family: str | None
) -> list[Target]:
    """Return the targets that the flags name; 4x if there are none.

    Raises:
        InputError: more than one flag is given, or a value is not a valid target.
    """
    flags = {"--speedup": speedup, "--latency-ms": latency_ms, "--size-mb": size_mb, "--family": family}
    named = [flag for flag, value in flags.items() if value is not None]
    if len(named) > 1:
        raise InputError(f"{' and '.join(named)} are given: wanted one target")
    if family is not None:
        try:
            values = [float(part) for part in family.split(",")]
        except ValueError:
            raise InputError(f"--family is {family!r}: wanted speed-ups with commas between, such as 2,4,8") from None
    else:
        values = [speedup if speedup is not None else 4.0]
    if latency_ms is not None or size_mb is not None:
        kind: Literal["latency_ms", "size_mb"] = "size_mb" if latency_ms is None else "latency_ms"
        value = size_mb if latency_ms is None else latency_ms
        assert value is not None
        if not 0 < value < math.inf:
            raise InputError(f"{named[0]} is {value:g}: wanted more than 0")
        return [Target(kind=kind, value=value)]
    for value in values:
        if not 1 < value < math.inf:
            raise InputError(f"the target is a speed-up of {value:g}: wanted more than 1")
    return [Target(kind="speedup", value=value) for value in sorted(values)]


def make_config(
    mode: str, healing: dict[str, float | None], settings: dict[str, Any], targets: int = 1
) -> CompressConfig:
    """Return the configuration of a mode.

    Args:
        mode: one of MODES.
        healing: `epochs`, `minutes`, `learning_rate` and `augment`; None: the default of the mode.
        settings: further fields of the configuration.
        targets: number of targets of the family; they share FAMILY_MINUTES if the mode has a time limit and `minutes`
            is None.
    """
    if mode not in MODES:
        raise InputError(f"--mode is {mode!r}: choose from {', '.join(MODES)}")
    defaults, options = MODES[mode], {name: value for name, value in healing.items() if value is not None}
    if defaults is None:
        if options:
            flags = ", ".join(f"--{name.replace('_', '-')}" for name in options)
            raise InputError(f"--mode instant trains nothing: leave out {flags}")
        return CompressConfig(heal=None, **settings)
    settings = settings | {"augment": options.pop("augment", 0)}
    if defaults["minutes"]:
        defaults = defaults | {"minutes": min(defaults["minutes"], FAMILY_MINUTES / targets)}
    training = {**DistillConfig().training.model_dump(), "seed": settings["seed"], **defaults, **options}
    heal = {"minutes": training.pop("minutes"), "training": training}
    return CompressConfig(heal=DistillConfig.model_validate(heal), **settings)
