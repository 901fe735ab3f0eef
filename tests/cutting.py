"""Cut models for the tests: some units of each layer stay, their matrices as they are."""

from collections.abc import Sequence

import numpy as np

from compress.surgery import cut, plain_rung
from models.classifier import Classifier


def cut_units(model: Classifier, heads: Sequence[np.ndarray], neurons: Sequence[np.ndarray]) -> Classifier:
    """Return the model with these heads and neurons of each layer."""
    kept = {f"{i}.attention": units for i, units in enumerate(heads)}
    kept |= {f"{i}.ffn": units for i, units in enumerate(neurons)}
    return cut(model, {name: plain_rung(model, name, units) for name, units in kept.items()})
