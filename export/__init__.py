"""Export of a classifier to ONNX, checks of the exported graph, and exports for the baseline engines."""
