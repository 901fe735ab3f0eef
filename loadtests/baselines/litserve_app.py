"""LitServe with its dynamic batching."""

import sys
from typing import Any

import litserve

from loadtests.baselines.model import BaselineModel


class Classifier(litserve.LitAPI):  # type: ignore[misc]
    """The steps of a request in LitServe."""

    def setup(self, device: str) -> None:  # noqa: ARG002
        """Load the model."""
        self.model = BaselineModel()

    def decode_request(self, request: dict[str, Any]) -> str:
        """Return the text of a request."""
        return str(request["texts"][0])

    def batch(self, inputs: list[str]) -> list[str]:
        """Combine the texts of several requests."""
        return list(inputs)

    def predict(self, inputs: list[str]) -> list[list[dict[str, Any]]]:
        """Return labels and scores of a batch of texts."""
        return self.model.answer(inputs)

    def unbatch(self, output: list[Any]) -> list[Any]:
        """Split the output into one item per request."""
        return output

    def encode_response(self, output: Any) -> Any:
        """Return the response body."""
        return output


if __name__ == "__main__":
    api = Classifier(max_batch_size=8, batch_timeout=0.0, api_path="/v1/classify")
    litserve.LitServer(api, accelerator="cpu").run(
        port=int(sys.argv[1]), host="127.0.0.1", generate_client_file=False
    )
