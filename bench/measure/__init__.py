"""Measurement: accuracy on the same rows, latency in the same run.

`bench.measure` is the only part of bench that `compress` may import.
"""
