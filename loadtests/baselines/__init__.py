"""Baseline servers for load tests: the same ONNX file and tokenizer, served with other frameworks.

Each server is one file that follows the documentation of its framework, and answers POST /v1/classify with
{"texts": ["…"]}. Start one with `python -m loadtests.baselines NAME --bundle FOLDER --port N`. MLServer speaks the
Open Inference Protocol instead, and its dependencies conflict with those of the other frameworks: install it in a
separate environment, with mlserver, onnxruntime and tokenizers.
"""
