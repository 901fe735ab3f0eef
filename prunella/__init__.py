"""Prunella: prune a fine-tuned text classifier, heal it by distillation, quantize it, and serve it.

`Classifier` classifies texts with a bundle and needs the base install only. `finetune`, `compress`, `quantize`,
`cascade` and `evaluate` are the commands of the command line as functions and need `pip install 'prunella[train]'`.
docs/api.md describes all of them.
"""

from importlib import import_module
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from prunella.api import cascade as cascade
    from prunella.api import compress as compress
    from prunella.api import evaluate as evaluate
    from prunella.api import finetune as finetune
    from prunella.api import quantize as quantize
    from prunella.classifier import Classifier as Classifier
    from prunella.classifier import Prediction as Prediction

_MODULES = {
    "Classifier": "prunella.classifier", "Prediction": "prunella.classifier", "compress": "prunella.api",
    "cascade": "prunella.api", "evaluate": "prunella.api", "finetune": "prunella.api", "quantize": "prunella.api",
}  # fmt: skip
__all__ = ["Classifier", "Prediction", "cascade", "compress", "evaluate", "finetune", "quantize"]


def __getattr__(name: str) -> Any:  # PEP 562: importing only the classifier does not import torch
    if name in _MODULES:
        try:
            return getattr(import_module(_MODULES[name]), name)
        except ModuleNotFoundError as error:
            from models.errors import MissingExtraError

            raise MissingExtraError(f"{name} needs {error.name}: pip install 'prunella[train]'") from error
    raise AttributeError(f"module {__name__!r} has no attribute {name!r}")
