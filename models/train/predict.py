"""predict(): rows → logits, in batches of like length."""

import sys
from collections.abc import Sequence

import numpy as np
import torch
from tqdm import tqdm

from models.classifier import Classifier, TensorBatch
from models.tokens import Encoded, Tokenizer
from models.train.batches import length_batches

QUIET_SECONDS = 5.0  # before a bar is shown: most predictions are over by then


@torch.inference_mode()
def predict(model: Classifier, encoded: Sequence[Encoded], tokenizer: Tokenizer, size: int = 32) -> np.ndarray:
    """Return logits (rows, labels), float32, in the order of `encoded`; computed in fp32 where the model is."""
    model.eval()
    device = next(model.parameters()).device
    logits = np.zeros((len(encoded), model.labels), dtype=np.float32)
    bar = tqdm(total=len(encoded), desc="predict", unit="text", file=sys.stderr, delay=QUIET_SECONDS, leave=False)
    for rows in length_batches(encoded, size, seed=0):
        batch = TensorBatch(tokenizer.pad([encoded[i] for i in rows]), device)
        logits[rows] = model(batch)[0].float().cpu().numpy()
        bar.update(len(rows))
    bar.close()
    return logits
