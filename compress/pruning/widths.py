"""widths(): the numbers of heads and neurons that a sublayer may keep."""

from models.architecture import Architecture

SHARES = (1 / 16, 1 / 8, 3 / 16, 1 / 4, 5 / 16, 3 / 8, 1 / 2, 5 / 8, 3 / 4, 7 / 8)  # of the neurons


def widths(shape: Architecture) -> tuple[list[int], list[int]]:
    """Return the numbers of heads and of neurons to choose from; neurons come in multiples of 32."""
    heads = max(layer.heads for layer in shape.layers)
    ffn = max(layer.ffn for layer in shape.layers)
    neurons = {0, ffn} | {max(32, round(ffn * share / 32) * 32) for share in SHARES}
    return list(range(heads + 1)), sorted(n for n in neurons if n <= ffn)
