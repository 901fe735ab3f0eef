"""Engines that run the classifier in transformers and PyTorch, eager or compiled."""

import inspect
from collections.abc import Callable
from typing import Any

import numpy as np
from numpy.typing import NDArray

from bench.measure.engine_spec import EngineSpec, OpenEngine, token_lengths, tokenized
from models.tokenizer import Encoded, Tokenizer

FILES = ("model.safetensors", "tokenizer.json")


def eager_engine(spec: EngineSpec) -> OpenEngine:
    """Open the model as transformers loads it."""
    return _open(spec, lambda model: model)


def compiled_engine(spec: EngineSpec) -> OpenEngine:
    """Open the model through torch.compile with dynamic shapes; needs a C++ compiler."""
    import torch

    engine = _open(spec, lambda model: torch.compile(model, dynamic=True))
    examples = [Encoded([1] * n, [0] * n) for n in (8, 12)]
    for batch in (examples[:1], examples):  # compiles for batch size 1, then for any batch size
        engine.answer(batch)
    return engine


def _open(spec: EngineSpec, wrap: Callable[[Any], Any]) -> OpenEngine:
    """Return the engine of the model that `wrap` returns."""
    import torch
    from transformers import AutoModelForSequenceClassification

    torch.set_num_threads(spec.threads)
    loaded = AutoModelForSequenceClassification.from_pretrained(spec.folder, trust_remote_code=False).eval()
    takes_types = "token_type_ids" in inspect.signature(loaded.forward).parameters  # not in DistilBERT, ModernBERT
    model = wrap(loaded)
    tokenizer = Tokenizer.open(spec.folder, spec.task.max_tokens)

    def answer(encoded: list[Encoded]) -> NDArray[np.float32]:
        batch = tokenizer.pad(encoded)
        arrays = {"input_ids": batch.ids, "attention_mask": batch.mask}
        arrays |= {"token_type_ids": batch.types} if takes_types else {}
        with torch.inference_mode():
            return np.asarray(model(**{name: torch.from_numpy(a) for name, a in arrays.items()}).logits.numpy())

    size = sum((spec.folder / name).stat().st_size for name in FILES)
    return OpenEngine(tokenized(tokenizer), answer, size, batch_dependent=False, lengths=token_lengths)
