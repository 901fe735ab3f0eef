"""Task: what is asked of the model, and what its logits mean."""

from typing import Literal, Self

import numpy as np
from numpy.typing import NDArray
from pydantic import Field, model_validator

from models.errors import InputError
from models.record import Record

FILE = "task.json"
Kind = Literal["single", "multi", "regression"]


class Task(Record):
    """Labels, and how a text becomes an answer.

    `single`: one label of several (softmax). `multi`: any number of labels (sigmoid). `regression`: one number.
    """

    kind: Kind = "single"
    labels: tuple[str, ...] = Field(description="label names, in the order of the logits")
    pair: bool = Field(False, description="whether a row is two texts")
    max_tokens: int = Field(128, ge=4, description="longest input in tokens; longer texts are cut")

    @model_validator(mode="after")
    def _labels_fit(self) -> Self:
        if len(set(self.labels)) != len(self.labels):
            raise ValueError("two labels have the same name")
        if self.kind == "single" and len(self.labels) < 2:
            raise ValueError(f"a single-label task needs two labels or more, found {len(self.labels)}")
        if self.kind == "regression" and len(self.labels) != 1:
            raise ValueError(f"a regression has one output, found {len(self.labels)} labels")
        return self

    def label_index(self, label: str) -> int:
        """Return the position of `label` among the logits.

        Raises:
            InputError: the task does not know the label.
        """
        try:
            return self.labels.index(label)
        except ValueError:
            raise InputError(f"label {label!r} is unknown: this model knows {', '.join(self.labels)}") from None

    def scores(self, logits: NDArray[np.float32]) -> NDArray[np.float32]:
        """Return scores of the same shape (rows, labels): probabilities, or the number itself for a regression."""
        if self.kind == "regression":
            return logits
        if self.kind == "multi":
            return sigmoid(logits)
        shifted = np.exp(logits - logits.max(axis=-1, keepdims=True))
        return np.asarray(shifted / shifted.sum(axis=-1, keepdims=True), dtype=np.float32)


def sigmoid(logits: NDArray[np.float32]) -> NDArray[np.float32]:
    """Return 1 / (1 + e^-x) without overflow at either end."""
    return np.asarray(0.5 * (1.0 + np.tanh(0.5 * logits)), dtype=np.float32)
