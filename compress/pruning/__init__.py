"""Pruning: rank heads and neurons, remove them, and correct the remaining weights by least squares."""
