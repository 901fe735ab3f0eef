"""The model: architecture, encoder, classification head, checkpoint, task and tokenizer.

Subpackages: `families` and `encoders` (supported encoders), `data` (texts and labels), `train`, `finetuning` and
`pretraining`, and `store` (finished folders on disk).

Importing this package does not import torch. The service, which is installed without torch, uses `task`, `tokenizer`,
`store`, `schema` and `errors`.
"""

import os

# ONNX Runtime's official builds report usage to Microsoft unless this is set before they are loaded
os.environ.setdefault("ORT_DISABLE_TELEMETRY", "1")
