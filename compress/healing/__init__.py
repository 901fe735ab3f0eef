"""Healing: the pruned model (student) is trained on the outputs of the full model (teacher), by distillation."""
