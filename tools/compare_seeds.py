"""`python -m tools.compare_seeds DATA --before FOLDER… --after FOLDER…`: paired difference of two series of models.

The folders are given in the order of their seeds; `prunella finetune --seeds` prints them. Seeds and rows are both
random samples, and the interval includes the variation of both: Student's t over the seeds, whose few degrees of
freedom make it wide where two or three seeds disagree, and Tango's score interval over the rows for an average pair
of models, which has a width even when no row differs. The distances of their bounds from the mean are added in
squares, as for independent estimates (Zou and Donner 2008, the method of variance estimates recovery). A bootstrap
over two or three seeds would draw the same seed again and again, and its interval would be far too short.
"""

from pathlib import Path
from typing import Annotated

import numpy as np
import typer
from numpy.typing import NDArray

from bench.measure.accuracy.difference import right
from bench.measure.accuracy.evaluate import answer, read_task
from bench.measure.accuracy.paired_interval import paired_interval
from models.data.texts import read_texts
from models.errors import InputError
from models.schema import Record
from prunella.cli.output import show


class SeedsDifference(Record):
    """Accuracy after minus before, in points (1.0 is a hundredth). A multi-label row is right if all labels are."""

    rows: int
    seeds: int
    before: tuple[float, ...]  # accuracy by seed, 0 to 1
    after: tuple[float, ...]
    points: tuple[float, ...]  # by seed
    mean_points: float
    interval: tuple[float, float]  # 95 %
    is_real: bool  # zero lies outside the interval


def compare_seeds(before: NDArray[np.bool_], after: NDArray[np.bool_]) -> SeedsDifference:
    """Return the paired difference of two matrices that say which rows were answered right, (seeds, rows).

    Raises:
        InputError: The shapes differ, or there are fewer than two seeds.
    """
    if before.shape != after.shape or len(before) < 2:
        raise InputError(f"there are {len(before)} models before and {len(after)} after: wanted two or more pairs")
    seeds, rows = before.shape
    change = after.astype(np.int8) - before.astype(np.int8)  # 1: won, -1: lost
    by_seed = change.mean(axis=1) * 100
    low, high = _interval(by_seed, float((change < 0).mean() * rows), float((change > 0).mean() * rows), rows)
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
    """Return the 95 % interval of the mean of points by seed; `lost` and `won`: rows of an average pair of models."""
    from scipy.stats import t

    mean, seeds = float(by_seed.mean()), len(by_seed)
    half = float(t.ppf(0.975, seeds - 1) * by_seed.std(ddof=1) / seeds**0.5)
    worst, best = (-100 * bound for bound in reversed(paired_interval(lost, won, rows)))  # after minus before
    low, high = mean - float(np.hypot(half, mean - worst)), mean + float(np.hypot(half, best - mean))
    return max(-100.0, low), min(100.0, high)


def main(
    data: Annotated[str, typer.Argument(help="labelled rows")],
    before: Annotated[list[Path], typer.Option(help="a model; give the option once for each seed")],
    after: Annotated[list[Path], typer.Option(help="a model; give the option once for each seed, in the same order")],
) -> None:
    """Compare the accuracies of two series of models, and test whether they differ by more than chance."""
    texts = read_texts(data, kind=read_task(before[0]).kind)
    if texts.kind == "regression":
        raise InputError("the models are regressions, which have no accuracy: wanted models that give labels")
    right_before, right_after = (
        np.stack([right(*answer(path, read_task(path), texts)) for path in paths]) for paths in (before, after)
    )
    difference = compare_seeds(right_before, right_after)
    show({"verb": "seeds", "data": data, **difference.model_dump(mode="json")})


if __name__ == "__main__":
    typer.run(main)
