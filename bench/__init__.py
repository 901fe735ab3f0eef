"""What it cost and what it gained. Everything is timed with `bench.timing` and judged with `bench.judging`.

Nothing is imported here: each engine's process imports this package, and what it loads counts as that engine's.
"""
