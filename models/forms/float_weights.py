"""as_fp32(): the tensors of a checkpoint in fp32; integers, quantized weights and NaN are refused, by name."""

import re

import torch
from torch import Tensor

from models.errors import FolderError

FLOATS = (torch.float32, torch.float16, torch.bfloat16, torch.float64)  # without float8, which needs scales
COLUMNS = "attention.relative_attention_columns.weight"  # of Prunella's MPNet folders: numbers of columns
BUFFER = re.compile(r"(^|\.)(position_ids|token_type_ids)$")  # 0, 1, 2, … and zeros: computed, not learned


def as_fp32(tensors: dict[str, Tensor], source: str) -> dict[str, Tensor]:
    """Return the tensors in fp32, without integer buffers such as position_ids.

    Args:
        tensors: by their names.
        source: the folder or file, for messages.

    Raises:
        FolderError: a tensor holds integers, is quantized, or has values that are NaN or infinite in fp32.
    """
    tensors = {name: t for name, t in tensors.items() if t.dtype in FLOATS or not BUFFER.search(name)}
    other = sorted(
        name for name, tensor in tensors.items() if tensor.dtype not in FLOATS and not name.endswith(COLUMNS)
    )
    if other:
        kind = str(tensors[other[0]].dtype).removeprefix("torch.")
        raise FolderError(
            f"{source} holds quantized weights: {other[0]} is {kind} (in all {len(other)} tensors), wanted fp32, "
            "fp16 or bf16: save the model dequantized (transformers: model.dequantize(), then save_pretrained), or "
            "take the original model; Prunella quantizes it itself"
        )
    tensors = {name: tensor.float() for name, tensor in tensors.items()}
    if broken := sorted(name for name, tensor in tensors.items() if not torch.isfinite(tensor).all()):
        values = tensors[broken[0]]
        count = int((~torch.isfinite(values)).sum())
        raise FolderError(
            f"{source} holds values that are NaN or infinite: {count} of {values.numel()} in {broken[0]} (in all "
            f"{len(broken)} tensors): the training diverged, or a conversion to fp16 overflowed; take an earlier "
            "checkpoint, or train again with a lower learning rate"
        )
    return tensors
