"""ACTIVATIONS: the element-wise functions of FFNs and heads, by our names."""

from collections.abc import Callable
from functools import partial

import torch
import torch.nn.functional as functional
from torch import Tensor

ACTIVATIONS: dict[str, Callable[[Tensor], Tensor]] = {
    "tanh": torch.tanh,
    "relu": functional.relu,
    "gelu": functional.gelu,
    "gelu_tanh": partial(functional.gelu, approximate="tanh"),  # Hendrycks and Gimpel 2016: 0.5 x (1 + tanh(…))
}
