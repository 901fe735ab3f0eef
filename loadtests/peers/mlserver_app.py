"""MLServer with its adaptive batching, over the Open Inference Protocol."""

import json
import os
import sys
import tempfile
from pathlib import Path

from mlserver import MLModel
from mlserver.codecs import StringCodec
from mlserver.types import InferenceRequest, InferenceResponse

from loadtests.payloads import MODEL
from loadtests.peers.model import PeerModel


class Classifier(MLModel):  # type: ignore[misc]
    """One model, in the server's own process: a process of its own costs it time on one core."""

    async def load(self) -> bool:
        """Open the model."""
        self._peer = PeerModel()
        return True

    async def predict(self, payload: InferenceRequest) -> InferenceResponse:
        """Answer a batch: the best label and its score for each text."""
        best = [row[0] for row in self._peer.answer(StringCodec.decode_input(payload.inputs[0]))]
        told = [json.dumps(one) for one in best]
        return InferenceResponse(model_name=self.name, outputs=[StringCodec.encode_output("label", told)])


def main() -> None:
    """Write its settings into a folder, and become `mlserver start`."""
    folder = Path(tempfile.mkdtemp(prefix="mlserver-peer-"))
    server = {
        "parallel_workers": 0,
        "host": "127.0.0.1",
        "http_port": int(sys.argv[1]),
        "grpc_port": int(sys.argv[1]) + 1,
    }
    server |= {"metrics_port": int(sys.argv[1]) + 2, "debug": False}
    model = {
        "name": MODEL, "implementation": "loadtests.peers.mlserver_app.Classifier",
        "max_batch_size": 8, "max_batch_time": 0.001,
    }  # fmt: skip
    (folder / "settings.json").write_text(json.dumps(server), encoding="utf-8")
    (folder / "model-settings.json").write_text(json.dumps(model), encoding="utf-8")
    os.execve(sys.executable, [sys.executable, "-m", "mlserver.cli.main", "start", str(folder)], dict(os.environ))


if __name__ == "__main__":
    main()
