"""Fine-tuning: trains a classifier from an encoder and labelled texts."""
