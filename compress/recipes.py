"""choose_recipe(): int8 by every recipe that was asked for, judged and timed in turn; the fastest inside the loss."""

import sys
from collections.abc import Sequence
from dataclasses import dataclass
from functools import partial
from pathlib import Path
from typing import Literal

import numpy as np

from bench.timing import time_texts, typical_seconds
from compress.quantize import Candidate, Int8Recipe, QuantizeConfig, Recipe, Subject, int8_variant, quantize
from compress.sensitivity import Fallen
from export.agreement import LOSS_NAMES
from export.precision import Precision, Scales
from models.errors import TargetError
from models.record import Record
from service.engine import run_session
from service.runtime import open_session

ROUNDS = 9
TIMED_TEXTS = 24
RECIPES: dict[Recipe, tuple[Int8Recipe, ...]] = {
    "auto": ("static", "dynamic"), "static": ("static",), "dynamic": ("dynamic",), "fp32": (),
}  # fmt: skip
# Dynamic int8 must be faster by this factor: it answers batches row by row, and on a shared machine less is noise
# (static and dynamic: 2.05 and 2.00 ms, 4.15 and 4.01). So must fp32: it takes four times the space.
MARGIN = 1.1


class Tried(Record):
    """What was found of one recipe."""

    recipe: Literal["static", "dynamic", "fp32"]
    ms: float | None  # a text alone, one thread: geometric mean over the texts of the median over the rounds
    loss_points: float  # on the rows that choose
    flips: int
    kept_fp32: tuple[str, ...]  # sublayers
    rejected: str | None  # why; None: taken


@dataclass(frozen=True, slots=True)
class Choice:
    """The recipe that is taken, its activation scales if they are fixed, and all that were tried."""

    taken: Candidate
    scales: Scales | None
    tried: tuple[Tried, ...]


def choose_recipe(subject: Subject, config: QuantizeConfig, fp32: Path, timed: bool = True) -> Choice:
    """Return the recipe that was asked for, or the best of all.

    Args:
        subject: the model and its texts.
        config: what was asked for.
        fp32: the graph in fp32; int8 graphs are written beside it.
        timed: whether a recipe that was asked for by name is timed too; `auto` always is.

    Raises:
        TargetError: no recipe that was asked for is inside the loss.
    """
    names = RECIPES[config.recipe]
    found: dict[str, Candidate] = {"fp32": _unchanged(subject, fp32)}
    scales: dict[str, Scales | None] = {}
    for name in names:
        found[name], scales[name] = quantize(subject, name, config, fp32.with_name(f"cpu-int8-{name}.onnx"))
    seconds = time_recipes(subject, found) if timed or config.recipe == "auto" else {}
    taken = _pick(found, seconds, config)
    tried = tuple(_tried(c, seconds, config.max_loss, taken) for c in found.values() if c.recipe != "fp32" or seconds)
    _tell(taken, tried, config)
    for candidate in found.values():
        if candidate.recipe not in ("fp32", taken.recipe):
            candidate.path.unlink()
    return Choice(taken, scales.get(taken.recipe), tried)


def time_recipes(subject: Subject, found: dict[str, Candidate], rounds: int = ROUNDS) -> dict[str, float]:
    """Return typical seconds a text of each candidate, on texts at even steps of the length, one at a time."""
    encoded = subject.choosing.encoded
    order = np.argsort([len(e.ids) for e in encoded], kind="stable")
    places = np.linspace(0, len(order) - 1, min(TIMED_TEXTS, len(order))).round().astype(int)
    batches = [subject.tokenizer.pad([encoded[int(order[place])]]) for place in places]
    sessions = {name: open_session(c.path, variant=int8_variant(bits=c.bits)) for name, c in found.items()}
    calls = {name: [partial(run_session, session, one) for one in batches] for name, session in sessions.items()}
    return {name: typical_seconds(seconds) for name, seconds in time_texts(calls, rounds).items()}


def _unchanged(subject: Subject, fp32: Path) -> Candidate:
    agreement = subject.agreement(subject.choosing, subject.answers(fp32, subject.choosing))
    return Candidate("fp32", fp32, Fallen(Precision.all_fp32(subject.model.architecture), agreement))


def _pick(found: dict[str, Candidate], seconds: dict[str, float], config: QuantizeConfig) -> Candidate:
    if config.recipe == "fp32":
        return found["fp32"]
    inside = [c for c in found.values() if c.recipe != "fp32" and c.loss <= config.max_loss]
    if config.recipe != "auto":
        if not inside:
            lost = found[config.recipe]
            raise TargetError(
                f"{config.recipe} int8 loses {lost.loss:.2f} points of {LOSS_NAMES[lost.fallen.agreement.loss_is]}, "
                f"{config.max_loss:g} are allowed, and no sublayer is left to put back into fp32: allow a larger "
                "--max-loss, give other --calibration texts, or take --recipe fp32"
            )
        return inside[0]
    best: Candidate | None = None
    for candidate in (*inside, found["fp32"]):  # static first, so that it wins ties
        if best is None or seconds[best.recipe] > seconds[candidate.recipe] * MARGIN:
            best = candidate
    assert best is not None
    return best


def _tried(candidate: Candidate, seconds: dict[str, float], max_loss: float, taken: Candidate) -> Tried:
    agreement, ms = candidate.fallen.agreement, seconds.get(candidate.recipe)
    rejected = None
    if candidate is not taken:
        if ms:
            best = seconds[taken.recipe]
            told = f"takes {best * 1e3:.2f}" if ms >= best else f"is within {MARGIN - 1:.0%} with {best * 1e3:.2f}"
            rejected = f"{ms * 1e3:.2f} ms a text, {taken.recipe} {told}"
        if candidate.loss > max_loss:
            rejected = f"loses {candidate.loss:.2f} points, {max_loss:g} are allowed"
    return Tried(
        recipe=candidate.recipe, ms=ms * 1e3 if ms else None, loss_points=candidate.loss, flips=agreement.flips,
        kept_fp32=tuple(s.name for s in candidate.fallen.kept), rejected=rejected,
    )  # fmt: skip


def _tell(taken: Candidate, tried: Sequence[Tried], config: QuantizeConfig) -> None:
    """Say what was rejected and why, and warn of a choice that nobody asked for."""
    name = LOSS_NAMES[taken.fallen.agreement.loss_is]
    for one in tried:
        told = f"rejected: {one.rejected}" if one.rejected else "taken"
        sys.stderr.write(f"prunella: {one.recipe}: {one.loss_points:.2f} points of {name} lost, {told}\n")
    if config.recipe == "auto" and taken.recipe == "dynamic":
        sys.stderr.write(
            "prunella: WARNING: dynamic int8 was fastest; a batch shares a scale, so texts are answered one by one\n"
        )
    if config.recipe == "auto" and taken.recipe == "fp32":
        sys.stderr.write("prunella: WARNING: int8 is not used: no recipe is inside the loss and faster than fp32\n")
