"""divergence(): how much the logits of one model differ from those of another, one number per text."""

import torch.nn.functional as functional
from torch import Tensor

from models.task import Kind


def divergence(kind: Kind, logits: Tensor, reference: Tensor, temperature: float = 1.0) -> Tensor:
    """Return the divergence of `logits` from `reference`, both (batch, labels), as (batch,).

    `single`: KL divergence of the softmax at the given temperature, times temperature² (Hinton et al. 2015). `multi`:
    the same for the sigmoid of each label, summed over the labels. `regression`: the squared error, in the squared
    unit of the predictions; divide both arguments by the standard deviation of the reference where the scale
    matters. The temperature is not used for a regression.
    """
    if kind == "regression":
        return (logits - reference).pow(2).sum(-1)
    logits, reference = logits / temperature, reference / temperature
    if kind == "multi":
        probabilities = reference.sigmoid()
        cross_entropy = functional.binary_cross_entropy_with_logits(logits, probabilities, reduction="none")
        entropy = functional.binary_cross_entropy_with_logits(reference, probabilities, reduction="none")
        return (cross_entropy - entropy).sum(-1) * temperature**2
    terms = functional.kl_div(
        functional.log_softmax(logits, -1), functional.log_softmax(reference, -1), reduction="none", log_target=True
    )
    return terms.sum(-1) * temperature**2
