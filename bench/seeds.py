"""`python -m bench.seeds DATA --before FOLDER… --after FOLDER…`: two series of models → their paired difference.

The folders are given in the order of their seeds; `prunella finetune --seeds` names them. One seed is one draw, and
so is each row, and the interval holds the chance of both: Student's t over the seeds, whose few degrees of freedom
make it wide where two or three seeds disagree, and Tango's score interval over the rows, of a mean pair of models,
which has a width when no row differs. Their distances from the mean are added in squares, as those of independent
estimates (Zou and Donner 2008, the method of variance estimates recovery). A bootstrap of two or three seeds draws
the same one again and again, and is far too short.
"""

from pathlib import Path
from typing import Annotated

import numpy as np
import typer
from numpy.typing import NDArray

from bench.accuracy import right
from bench.evaluate import answer, read_task
from bench.paired import paired_interval
from models.console import show
from models.data.texts import read_texts
from models.errors import InputError
from models.record import Record


class SeedsDifference(Record):
    """Accuracy after minus before, in points (1.0 is a hundredth); of several labels a row all must be right."""

    rows: int
    seeds: int
    before: tuple[float, ...]  # accuracy by seed, 0 to 1
    after: tuple[float, ...]
    points: tuple[float, ...]  # by seed
    mean_points: float
    interval: tuple[float, float]  # 95 %
    is_real: bool  # zero lies outside the interval


def compare_seeds(before: NDArray[np.bool_], after: NDArray[np.bool_]) -> SeedsDifference:
    """Return the paired difference of whether rows are answered right, both (seeds, rows).

    Raises:
        InputError: the shapes differ, or there are fewer than two seeds.
    """
    if before.shape != after.shape or len(before) < 2:
        raise InputError(
            f"found {len(before)} models before and {len(after)} after: wanted as many, in pairs, two or more"
        )
    seeds, rows = before.shape
    moved = after.astype(np.int8) - before.astype(np.int8)  # 1: won, -1: lost
    by_seed = moved.mean(axis=1) * 100
    low, high = _interval(by_seed, float((moved < 0).mean() * rows), float((moved > 0).mean() * rows), rows)
    return SeedsDifference(
        rows=rows,
        seeds=seeds,
        before=tuple(before.mean(axis=1).tolist()),
        after=tuple(after.mean(axis=1).tolist()),
        points=tuple(by_seed.tolist()),
        mean_points=float(by_seed.mean()),
        interval=(low, high),
        is_real=bool(low > 0 or high < 0),
    )


def _interval(by_seed: NDArray[np.float64], lost: float, won: float, rows: int) -> tuple[float, float]:
    """Return the 95 % interval of the mean of points by seed; `lost` and `won`: rows of a mean pair of models."""
    from scipy.stats import t

    middle, seeds = float(by_seed.mean()), len(by_seed)
    half = float(t.ppf(0.975, seeds - 1) * by_seed.std(ddof=1) / seeds**0.5)
    worst, best = (-100 * bound for bound in reversed(paired_interval(lost, won, rows)))  # after minus before
    low, high = middle - float(np.hypot(half, middle - worst)), middle + float(np.hypot(half, best - middle))
    return max(-100.0, low), min(100.0, high)


def main(
    data: Annotated[str, typer.Argument(help="labelled rows")],
    before: Annotated[list[Path], typer.Option(help="a model, once for each seed")],
    after: Annotated[list[Path], typer.Option(help="a model, once for each seed, in the same order")],
) -> None:
    """Say how much better the second series answers, and whether that is more than chance."""
    texts = read_texts(data, kind=read_task(before[0]).kind)
    if texts.kind == "regression":
        raise InputError("a regression has no right and wrong rows: wanted models that give labels")
    was, now = (
        np.stack([right(*answer(path, read_task(path), texts)) for path in paths]) for paths in (before, after)
    )
    found = compare_seeds(was, now)
    show({"verb": "seeds", "data": data, **found.model_dump(mode="json")})


if __name__ == "__main__":
    typer.run(main)
