"""The model: architecture, encoder, classification head, checkpoint, task and tokenizer.

Subpackages: `families` and `encoders` (supported encoders), `data` (texts and labels), `train`, `finetuning` and
`pretraining`, and `store` (finished folders on disk).

Importing this package does not import torch. The service, which is installed without torch, uses `task`, `tokenizer`,
`store`, `schema` and `errors`.
"""
