"""Stock BentoML with adaptive batching, as its documentation shows; nothing is switched off."""

from typing import Any

import bentoml

from loadtests.peers.model import PeerModel


@bentoml.service(name="peer", workers=1)
class Classifier:
    """One batchable API."""

    def __init__(self) -> None:
        self.model = PeerModel()

    @bentoml.api(batchable=True, max_batch_size=8, max_latency_ms=10_000, route="/v1/classify")  # type: ignore[untyped-decorator]
    def classify(self, texts: list[str]) -> list[list[dict[str, Any]]]:
        """Answer a batch."""
        return self.model.answer(texts)
