"""Inference: requests wait here for the tokenizer and the model, and get their answers; one process, no HTTP."""
