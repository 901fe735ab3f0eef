"""Training: the loop shared by pretraining, fine-tuning and distillation; optimizer, precision and snapshots."""
