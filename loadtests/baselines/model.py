"""The model of every baseline server: tokenizer and ONNX session, one thread, batches padded to the longest text."""

import json
import os
from pathlib import Path
from typing import Any

import numpy as np
import onnxruntime as ort
import tokenizers
from numpy.typing import NDArray


class BaselineModel:
    """A bundle's default graph for a CPU.

    Without `folder` the path of the bundle is read from the environment variable PEER_BUNDLE.
    """

    def __init__(self, folder: Path | None = None) -> None:
        folder = folder or Path(os.environ["PEER_BUNDLE"])
        info = json.loads((folder / "bundle.json").read_text(encoding="utf-8"))
        task = json.loads((folder / "task.json").read_text(encoding="utf-8"))
        self.labels: list[str] = task["labels"]
        self._tokenizer = tokenizers.Tokenizer.from_file(str(folder / "tokenizer.json"))
        self._tokenizer.enable_truncation(task["max_tokens"])
        self._tokenizer.enable_padding()
        options = ort.SessionOptions()
        options.intra_op_num_threads = options.inter_op_num_threads = 1
        file = info["variants"][info["default"]["cpu"]]["file"]
        self._session = ort.InferenceSession(str(folder / file), options, providers=["CPUExecutionProvider"])
        self._names = [node.name for node in self._session.get_inputs()]

    def feed(self, texts: list[str]) -> dict[str, NDArray[np.int64]]:
        """Return the session's inputs for a batch of texts."""
        encoded = self._tokenizer.encode_batch(texts)
        arrays = {
            "input_ids": np.array([e.ids for e in encoded], dtype=np.int64),
            "attention_mask": np.array([e.attention_mask for e in encoded], dtype=np.int64),
            "token_type_ids": np.array([e.type_ids for e in encoded], dtype=np.int64),
        }
        return {name: arrays[name] for name in self._names}

    def run(self, feed: dict[str, NDArray[np.int64]]) -> NDArray[np.float32]:
        """Return logits (texts, labels)."""
        return np.asarray(self._session.run(["logits"], feed)[0])

    def answer(self, texts: list[str]) -> list[list[dict[str, Any]]]:
        """Return labels and scores of each text, sorted by score, best first."""
        logits = self.run(self.feed(texts))
        exponentials = np.exp(logits - logits.max(-1, keepdims=True))
        scores = exponentials / exponentials.sum(-1, keepdims=True)
        ranked = []
        for row in scores.tolist():
            order = sorted(range(len(row)), key=row.__getitem__, reverse=True)
            ranked.append([{"label": self.labels[i], "score": row[i]} for i in order])
        return ranked
