"""MLServer with its adaptive batching, over the Open Inference Protocol."""

import json
import os
import sys
import tempfile
from pathlib import Path

from mlserver import MLModel
from mlserver.codecs import StringCodec
from mlserver.types import InferenceRequest, InferenceResponse

from loadtests.baselines.model import BaselineModel
from loadtests.payloads import MODEL


class Classifier(MLModel):  # type: ignore[misc]
    """The model, run in the server's own process: with one core a separate process would be slower."""

    async def load(self) -> bool:
        """Load the model."""
        self._model = BaselineModel()
        return True

    async def predict(self, payload: InferenceRequest) -> InferenceResponse:
        """Return the best label and its score for each text of a batch."""
        predictions = self._model.answer(StringCodec.decode_input(payload.inputs[0]))
        best = [json.dumps(labels[0]) for labels in predictions]
        return InferenceResponse(model_name=self.name, outputs=[StringCodec.encode_output("label", best)])


def main() -> None:
    """Write MLServer's settings into a folder, and replace this process with `mlserver start`."""
    folder = Path(tempfile.mkdtemp(prefix="mlserver-peer-"))
    server = {
        "parallel_workers": 0,
        "host": "127.0.0.1",
        "http_port": int(sys.argv[1]),
        "grpc_port": int(sys.argv[1]) + 1,
    }
    server |= {"metrics_port": int(sys.argv[1]) + 2, "debug": False}
    model = {
        "name": MODEL, "implementation": "loadtests.baselines.mlserver_app.Classifier",
        "max_batch_size": 8, "max_batch_time": 0.001,
    }  # fmt: skip
    (folder / "settings.json").write_text(json.dumps(server), encoding="utf-8")
    (folder / "model-settings.json").write_text(json.dumps(model), encoding="utf-8")
    os.execve(sys.executable, [sys.executable, "-m", "mlserver.cli.main", "start", str(folder)], dict(os.environ))


if __name__ == "__main__":
    main()
