"""How a model learns: one loop, and what pretraining and fine-tuning give it."""
