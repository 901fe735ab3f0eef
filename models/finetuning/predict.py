"""predict(): computes the logits of rows, in batches of similar length."""

from collections.abc import Sequence

import numpy as np
import torch

from models.classifier import Classifier, TensorBatch
from models.messages import progress
from models.tokenizer import Encoded, Tokenizer
from models.train.batches import length_batches

QUIET_SECONDS = 5.0  # delay before the progress bar is shown: most predictions end earlier


@torch.inference_mode()
def predict(model: Classifier, encoded: Sequence[Encoded], tokenizer: Tokenizer, size: int = 32) -> np.ndarray:
    """Return logits (rows, labels), float32, in the order of `encoded`; computed in fp32 on the model's device."""
    model.eval()
    device = next(model.parameters()).device
    logits = np.zeros((len(encoded), model.labels), dtype=np.float32)
    bar = progress(total=len(encoded), desc="predict", unit="text", delay=QUIET_SECONDS, leave=False)
    for rows in length_batches(encoded, size, seed=0):
        batch = TensorBatch(tokenizer.pad([encoded[i] for i in rows]), device)
        logits[rows] = model(batch)[0].float().cpu().numpy()
        bar.update(len(rows))
    bar.close()
    return logits
