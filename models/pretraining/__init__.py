"""Pretraining: trains an encoder on plain texts with masked language modelling."""
