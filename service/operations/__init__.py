"""Operations: model changes, shadow traffic, metrics, logs and traces."""
