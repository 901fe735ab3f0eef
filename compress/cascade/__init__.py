"""Cascade: learn the gate that answers easy texts before the student, and find its threshold with a bound."""
