"""Task: kind and labels of a classification or regression, and how logits become scores and answers."""

from typing import Annotated, Any, Literal, Self

import numpy as np
from numpy.typing import NDArray
from pydantic import Field, SerializerFunctionWrapHandler, model_serializer, model_validator

from models.schema import Record

FILE = "task.json"
Kind = Literal["single", "multi", "regression"]
EVEN = 0.5  # default threshold of a multi-label task
Combine = Literal["mean", "max"]
MOST_WINDOWS = 64
Share = Annotated[float, Field(ge=0, le=1, allow_inf_nan=False)]
Decision = NDArray[np.int64] | NDArray[np.bool_] | NDArray[np.float32]


class Task(Record):
    """Kind, labels and input format of a task.

    `single`: one label of several (softmax). `multi`: any number of labels (sigmoid). `regression`: one number.
    """

    kind: Kind = "single"
    labels: tuple[str, ...] = Field(description="label names, in the order of the logits")
    pair: bool = Field(False, description="whether each row is a pair of texts")
    max_tokens: int = Field(128, ge=4, description="maximum input length in tokens; longer texts are truncated")
    thresholds: tuple[Share, ...] | None = Field(
        None, description="multi: lowest score at which a label is predicted, one per label; None: 0.5 for all"
    )

    activation: Literal["sigmoid"] | None = Field(
        None, description="regression: function of the output that gives the score, such as a cross-encoder's"
    )

    windows: int | None = Field(
        None, ge=2, le=MOST_WINDOWS,
        description="most overlapping windows of a text that is longer than max_tokens; None: it is truncated",
    )  # fmt: skip
    windows_combine: Combine | None = Field(
        None, description="how the scores of the windows of a text are combined; None: mean"
    )

    @model_validator(mode="after")
    def _windows_fit(self) -> Self:
        if self.windows is not None and self.pair:
            raise ValueError("windows are for single texts, and the rows of this task are pairs")
        return self

    @model_validator(mode="after")
    def _labels_fit(self) -> Self:
        if len(set(self.labels)) != len(self.labels):
            raise ValueError("two labels have the same name")
        if self.kind == "single" and len(self.labels) < 2:
            raise ValueError(f"a single-label task needs two labels or more, found {len(self.labels)}")
        if self.kind == "regression" and len(self.labels) != 1:
            raise ValueError(f"a regression has one output, found {len(self.labels)} labels")
        if self.activation is not None and self.kind != "regression":
            raise ValueError(f"an activation is for a task with one number, and this one is {self.kind}")
        if not self.labels:
            raise ValueError("a multi-label task needs one label or more, found none")
        return self

    @model_validator(mode="after")
    def _thresholds_fit(self) -> Self:
        if self.thresholds is None:
            return self
        if self.kind != "multi":
            raise ValueError(f"thresholds are for multi-label tasks, and this one is {self.kind}")
        if len(self.thresholds) != len(self.labels):
            raise ValueError(f"{len(self.thresholds)} thresholds for {len(self.labels)} labels: wanted one each")
        return self

    @model_serializer(mode="wrap")
    def _dump(self, handler: SerializerFunctionWrapHandler) -> dict[str, Any]:
        fields: dict[str, Any] = handler(self)
        # the ids of folders depend on this dump: without these fields it must stay as it was before they existed
        for name in ("thresholds", "activation", "windows", "windows_combine"):
            if getattr(self, name) is None:
                fields.pop(name, None)
        return fields

    @property
    def function(self) -> Literal["softmax", "sigmoid", "none"]:
        """Function of the logits that gives the scores."""
        match self.kind:
            case "single":
                return "softmax"
            case "multi":
                return "sigmoid"
            case "regression":
                return self.activation or "none"

    def scores(self, logits: NDArray[np.float32]) -> NDArray[np.float32]:
        """Return scores of the same shape (rows, labels): probabilities; for a regression usually the logits."""
        if self.function == "none":
            return logits
        if self.function == "sigmoid":
            return sigmoid(logits)
        shifted = np.exp(logits - logits.max(axis=-1, keepdims=True))
        return np.asarray(shifted / shifted.sum(axis=-1, keepdims=True), dtype=np.float32)

    def decide(self, scores: NDArray[np.float32]) -> Decision:
        """Return the predictions for the output (rows, labels) of `scores()`.

        `single`: index of the best label (rows,), the first one of equals. `multi`: whether each label is predicted
        (rows, labels), which is when its score is at or above its threshold. `regression`: the numbers (rows,).
        """
        if self.kind == "regression":
            return scores[..., 0]
        if self.kind == "multi":
            return scores >= np.asarray(self.thresholds or EVEN, dtype=scores.dtype)
        return np.asarray(scores.argmax(axis=-1), dtype=np.int64)


def sigmoid(logits: NDArray[np.float32]) -> NDArray[np.float32]:
    """Return 1 / (1 + e^-x) without overflow for large positive or negative x."""
    return np.asarray(0.5 * (1.0 + np.tanh(0.5 * logits)), dtype=np.float32)
