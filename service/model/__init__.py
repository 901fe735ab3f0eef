"""Model: a bundle, opened and asked: texts → token ids → batch → logits. It knows no queue and no request."""
