"""Retrieval of further training texts from a large corpus: the lines that are most like the training texts."""
