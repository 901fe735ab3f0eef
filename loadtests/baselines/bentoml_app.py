"""BentoML with adaptive batching, as in its documentation, with default settings otherwise."""

from typing import Any

import bentoml

from loadtests.baselines.model import BaselineModel


@bentoml.service(name="peer", workers=1)
class Classifier:
    """A service with one batchable API."""

    def __init__(self) -> None:
        self.model = BaselineModel()

    @bentoml.api(batchable=True, max_batch_size=8, max_latency_ms=10_000, route="/v1/classify")  # type: ignore[untyped-decorator]
    def classify(self, texts: list[str]) -> list[list[dict[str, Any]]]:
        """Return labels and scores of a batch of texts."""
        return self.model.answer(texts)
