"""Dropout on processors: one random byte an element, eight of them from one draw.

torch's own makes one draw an element, in one thread: 13 % of a training step of MiniLM (docs/log.md).
"""

import torch
from torch import Tensor, nn


class Dropout(nn.Dropout):
    """nn.Dropout with its rate rounded to 1/256; the same seed of torch gives the same elements.

    GPUs use torch's, and so do rates that round to 0 or 1: a byte cannot tell them from those.
    """

    def forward(self, hidden: Tensor) -> Tensor:
        """Return `hidden` with elements set to zero, and the others scaled so that the mean stays."""
        dropped = round(self.p * 256)
        if not self.training or hidden.device.type != "cpu" or not 0 < dropped < 256:
            return super().forward(hidden)
        draws = torch.empty((hidden.numel() + 7) // 8, dtype=torch.int64).random_(-(2**63), None)
        kept = draws.view(torch.uint8)[: hidden.numel()].view(hidden.shape) >= dropped
        return hidden * (kept.to(hidden.dtype) * (256 / (256 - dropped)))
