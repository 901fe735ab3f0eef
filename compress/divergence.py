"""divergence(): how far one model's answers are from another's, by kind of task, one number a text."""

import torch.nn.functional as functional
from torch import Tensor

from models.task import Kind


def divergence(kind: Kind, found: Tensor, wanted: Tensor, temperature: float = 1.0) -> Tensor:
    """Return the divergence of logits `found` from `wanted`, both (batch, labels) → (batch,).

    `single`: Kullback-Leibler of the softened softmax, times temperature² (Hinton et al. 2015). `multi`: the same of
    each label's sigmoid, summed. `regression`: the squared error, in the square of the answers' unit: divide both by
    the spread of the wanted ones where the size matters; a temperature means nothing there.
    """
    if kind == "regression":
        return (found - wanted).pow(2).sum(-1)
    found, wanted = found / temperature, wanted / temperature
    if kind == "multi":
        share = wanted.sigmoid()
        cross = functional.binary_cross_entropy_with_logits(found, share, reduction="none")
        least = functional.binary_cross_entropy_with_logits(wanted, share, reduction="none")
        return (cross - least).sum(-1) * temperature**2
    terms = functional.kl_div(
        functional.log_softmax(found, -1), functional.log_softmax(wanted, -1), reduction="none", log_target=True
    )
    return terms.sum(-1) * temperature**2
