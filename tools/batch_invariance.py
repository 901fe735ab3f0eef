"""`python -m tools.batch_invariance BUNDLE DATA`: how much the logits of a text depend on the batch that it is in.

Texts are answered one at a time, then in random batches, in random order and with random additional padding.
"""

import json
import sys
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any

import numpy as np
import typer

if TYPE_CHECKING:
    from service.model.engine import Engine

LARGEST = 32  # texts in a batch
MORE = 24  # largest additional padding, in tokens


def main(
    bundle: Path,
    data: str,
    rows: Annotated[int, typer.Option(min=1, help="rows to draw from the data")] = 64,
    batches: Annotated[int, typer.Option(min=1, help="batches of random size and order")] = 40,
) -> None:
    """Compare the logits of each CPU variant for single texts with those in batches."""
    from models.data.texts import read_texts
    from service.model.bundle import Bundle
    from service.model.engine import Engine
    from service.model.session import RuntimeSettings

    opened, texts = Bundle.open(bundle), read_texts(data)
    chosen = texts.take(np.random.default_rng(0).permutation(len(texts))[:rows])
    result: dict[str, Any] = {"bundle": opened.id, "rows": len(chosen), "batches": batches}
    for name, variant in opened.info.variants.items():
        if variant.device == "cpu":
            engine = Engine.open(opened, RuntimeSettings(device="cpu", variant=name))
            result[name] = {"recipe": variant.recipe, "max_difference": largest_move(engine, chosen.rows, batches)}
    sys.stdout.write(json.dumps(result) + "\n")


def largest_move(engine: "Engine", rows: list[Any], batches: int, seed: int = 0) -> float:
    """Return the largest |Δlogit| between a text alone and the same text in one of many random batches."""
    from models.tokenizer import TokenBatch

    encoded, draw = engine.encode(rows), np.random.default_rng(seed)
    alone = np.concatenate([engine.run(engine.tokenizer.pad([e])) for e in encoded])
    largest = 0.0
    for _ in range(batches):
        chosen = draw.integers(0, len(encoded), draw.integers(1, LARGEST + 1))
        batch = engine.tokenizer.pad([encoded[i] for i in chosen])
        room = engine.bundle.architecture.positions - batch.ids.shape[1]
        padding = ((0, 0), (0, int(draw.integers(0, min(MORE, room) + 1))))
        padded = TokenBatch(*(np.pad(a, padding) for a in (batch.ids, batch.mask, batch.types)))
        largest = max(largest, float(np.abs(engine.run(padded) - alone[chosen]).max()))
    return largest


if __name__ == "__main__":
    typer.run(main)
