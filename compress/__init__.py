"""Compression of fine-tuned classifiers. `from compress import compress` is `prunella compress` as a function."""

from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from compress.run import compress as compress

__all__ = ["compress"]


def __getattr__(name: str) -> Any:  # PEP 562: importing a module of this package does not import torch
    if name == "compress":
        from compress.run import compress

        return compress
    raise AttributeError(f"module {__name__!r} has no attribute {name!r}")
