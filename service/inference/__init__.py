"""Inference: texts → token ids → queue → batches → logits, in one process and without HTTP."""
