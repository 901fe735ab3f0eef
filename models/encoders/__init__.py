"""Encoder modules, which compute hidden states from token ids: BERT-like encoders, ModernBERT and DeBERTa."""
