"""Latency of engines: interleaved, after warm-up, each engine in its own process."""
