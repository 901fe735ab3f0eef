"""Servers to compare with: the same ONNX file and tokenizer behind what people would write with other frameworks.

Each is one file, answers POST /v1/classify with {"texts": ["…"]} as its framework's documentation shows, and is
started by `python -m loadtests.peers NAME --bundle FOLDER --port N`. MLServer speaks the Open Inference Protocol, and
does not go with the other frameworks' versions: give it an environment with mlserver, onnxruntime and tokenizers.
"""
