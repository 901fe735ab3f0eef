"""Compares a compressed model with other engines: accuracy and latency on the same rows.

All latencies are measured with `bench.measure.latency.timing`, all accuracies with
`bench.measure.accuracy.task_metric`. This package imports nothing here, because every engine process imports it, and
the modules that it loads count as the memory of that engine.
"""
