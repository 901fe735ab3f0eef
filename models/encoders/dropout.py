"""Dropout for CPUs: one random byte per element, so that one random 64-bit number serves eight elements.

torch's own dropout draws one random number per element, in one thread: 13 % of a training step of MiniLM
(docs/log.md).
"""

import torch
from torch import Tensor, nn


class Dropout(nn.Dropout):
    """nn.Dropout with a rate rounded to 1/256; the same torch seed drops the same elements.

    On GPUs, and for rates that round to 0 or 1, torch's own dropout is used: a byte cannot represent such a rate.
    """

    def forward(self, hidden: Tensor) -> Tensor:
        """Return `hidden` with random elements set to zero, and the others scaled to preserve the expected value."""
        threshold = round(self.p * 256)
        if not self.training or hidden.device.type != "cpu" or not 0 < threshold < 256:
            return super().forward(hidden)
        numbers = torch.empty((hidden.numel() + 7) // 8, dtype=torch.int64).random_(-(2**63), None)
        keep = numbers.view(torch.uint8)[: hidden.numel()].view(hidden.shape) >= threshold
        return hidden * (keep.to(hidden.dtype) * (256 / (256 - threshold)))
