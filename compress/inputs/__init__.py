"""Inputs of a compression: the source classifier, training texts and labelled rows, checked before any long work."""
