"""Vocabulary: drop tokens that the texts of the domain do not use."""
