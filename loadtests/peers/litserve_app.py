"""LitServe with its dynamic batching."""

import sys
from typing import Any

import litserve

from loadtests.peers.model import PeerModel


class Classifier(litserve.LitAPI):  # type: ignore[misc]
    """The five steps of LitServe's API."""

    def setup(self, device: str) -> None:  # noqa: ARG002
        """Open the model."""
        self.model = PeerModel()

    def decode_request(self, request: dict[str, Any]) -> str:
        """Return the text."""
        return str(request["texts"][0])

    def batch(self, inputs: list[str]) -> list[str]:
        """Return the batch."""
        return list(inputs)

    def predict(self, inputs: list[str]) -> list[list[dict[str, Any]]]:
        """Answer a batch."""
        return self.model.answer(inputs)

    def unbatch(self, output: list[Any]) -> list[Any]:
        """Return the answers one by one."""
        return output

    def encode_response(self, output: Any) -> Any:
        """Return the answer."""
        return output


if __name__ == "__main__":
    api = Classifier(max_batch_size=8, batch_timeout=0.0, api_path="/v1/classify")
    litserve.LitServer(api, accelerator="cpu").run(
        port=int(sys.argv[1]), host="127.0.0.1", generate_client_file=False
    )
