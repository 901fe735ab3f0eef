"""Texts and labels, and where they come from."""
