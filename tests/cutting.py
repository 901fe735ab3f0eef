"""Cut models for the tests: some units of each layer stay, their matrices as they are."""

from collections.abc import Sequence
from pathlib import Path

import numpy as np
from tiny import make_tiny_checkpoint, tiny_texts

from compress.inputs.length_matching import pad_texts
from compress.pruning.gram import output_bias, output_matrix
from compress.pruning.obs import PrunedSublayer, columns_of
from compress.pruning.surgery import cut
from models.checkpoint import load_checkpoint
from models.classifier import Classifier, TensorBatch
from models.tokenizer import Tokenizer


def plain_rung(model: Classifier, name: str, kept: np.ndarray) -> PrunedSublayer:
    """Return a sublayer with the units `kept` only, its output matrix as it is."""
    matrix = output_matrix(model, name)
    assert matrix is not None, f"{name} is dropped already"
    size = model.architecture.head_size if name.endswith("attention") else 1
    kept = np.sort(kept)
    return PrunedSublayer(kept, matrix.weight.detach()[:, columns_of(kept, size)], output_bias(matrix), float("nan"))


def tiny_batches(folder: Path, pair: bool) -> tuple[Classifier, list[TensorBatch]]:
    """Return a tiny random classifier, written to `folder`, and 64 texts or pairs for it."""
    make_tiny_checkpoint(folder)
    tokenizer = Tokenizer.open(folder, 32)
    encoded = tokenizer.encode(tiny_texts(64, pair).rows)
    return load_checkpoint(folder), [TensorBatch(b) for b in pad_texts(encoded, range(64), tokenizer)]


def cut_units(model: Classifier, heads: Sequence[np.ndarray], neurons: Sequence[np.ndarray]) -> Classifier:
    """Return the model with these heads and neurons of each layer."""
    kept = {f"{i}.attention": units for i, units in enumerate(heads)}
    kept |= {f"{i}.ffn": units for i, units in enumerate(neurons)}
    return cut(model, {name: plain_rung(model, name, units) for name, units in kept.items()})
