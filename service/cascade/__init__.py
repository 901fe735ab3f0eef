"""The cascade: a gate answers easy texts before the model, and its answers are checked while serving."""
