"""embed(): vectors of texts by a sentence encoder: the mean of its last hidden states, of length 1 (Reimers 2019)."""

from collections.abc import Sequence
from pathlib import Path

import torch
from torch import Tensor
from torch.nn.functional import normalize

from models.checkpoint import load_checkpoint, read_architecture
from models.classifier import TensorBatch
from models.distributed import join
from models.messages import progress
from models.tokenizer import Row, Tokenizer
from models.train.batches import length_batches

MAX_TOKENS = 128  # of a text; the rest does not count
BATCH = 64


@torch.inference_mode()
def embed(rows: Sequence[Row], encoder: Path, what: str) -> Tensor:
    """Return the embeddings (rows, width), float32, on the CPU; they are computed in fp32, on a GPU if there is one.

    Args:
        rows: texts, or pairs of texts, in any order: batches are sorted by length.
        encoder: folder of the encoder.
        what: name of the rows, for the progress bar.
    """
    device = join().device
    tokenizer = Tokenizer.open(encoder, min(MAX_TOKENS, read_architecture(encoder).positions))
    model = load_checkpoint(encoder, labels=1).to(device).eval()  # its head is not used
    encoded = tokenizer.encode(rows)
    vectors = torch.zeros(len(rows), model.architecture.width)
    with progress(total=len(rows), desc=f"embed {what}", unit="text", delay=2) as bar:
        for numbers in length_batches(encoded, BATCH, seed=0):
            batch = TensorBatch(tokenizer.pad([encoded[i] for i in numbers]), device)
            states, mask = model(batch)[1][-1].float(), batch.mask[:, :, None].float()
            means = (states * mask).sum(1) / mask.sum(1)
            vectors[numbers] = normalize(means, dim=1).cpu()
            bar.update(len(numbers))
    return vectors
