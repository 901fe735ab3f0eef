"""choose_recipe(): quantize a model by each requested recipe, and take the fastest within the allowed loss."""

from dataclasses import dataclass
from functools import partial
from pathlib import Path
from typing import Literal

import numpy as np

from bench.measure.latency.timing import time_texts, typical_seconds
from compress.quantization.fp32_fallback import FallbackResult
from compress.quantization.quantize import (
    Int8Recipe,
    QuantizationContext,
    QuantizeConfig,
    Recipe,
    RecipeCandidate,
    int8_variant,
    quantize,
)
from export.agreement import LOSS_NAMES
from export.graph_precision import Precision, Scales
from models.errors import TargetError
from models.messages import say
from models.schema import Record
from service.model.engine import run_session
from service.model.session import open_session

ROUNDS = 9
TIMED_TEXTS = 24
RECIPES: dict[Recipe, tuple[Int8Recipe, ...]] = {
    "auto": ("static", "dynamic"), "static": ("static",), "dynamic": ("dynamic",), "fp32": (),
}  # fmt: skip
# Dynamic int8 must be faster than static by this factor: it runs the rows of a batch one by one, and on a shared
# machine smaller differences are noise (static and dynamic: 2.05 and 2.00 ms, 4.15 and 4.01). Fp32 must be faster by
# it too, because it is four times as large.
MARGIN = 1.1


class Attempt(Record):
    """Loss and latency of one recipe, and why it was rejected."""

    recipe: Literal["static", "dynamic", "fp32"]
    ms: float | None  # per text, batch size 1, one thread: geometric mean over texts of the median over rounds
    loss_points: float  # on the rows that choose
    flips: int
    kept_fp32: tuple[str, ...]  # names of sublayers
    rejected: str | None  # the reason; None: this recipe was chosen


@dataclass(frozen=True, slots=True)
class RecipeChoice:
    """The chosen recipe, its activation scales if it is static, and all recipes that were tried."""

    chosen: RecipeCandidate
    scales: Scales | None
    attempts: tuple[Attempt, ...]


def choose_recipe(
    context: QuantizationContext, config: QuantizeConfig, fp32: Path, timed: bool = True
) -> RecipeChoice:  # fmt: skip
    """Return the requested recipe, or for `auto` the best of all.

    Args:
        context: the model and its texts.
        config: the recipe and the allowed loss.
        fp32: the fp32 graph; int8 graphs are written next to it.
        timed: whether a recipe that was requested by name is timed too; the recipes of `auto` always are.

    Raises:
        TargetError: the loss of the requested recipe is larger than allowed.
    """
    candidates: dict[str, RecipeCandidate] = {"fp32": _fp32_candidate(context, fp32)}
    scales: dict[str, Scales | None] = {}
    for name in RECIPES[config.recipe]:
        path = fp32.with_name(f"cpu-int8-{name}.onnx")
        candidates[name], scales[name] = quantize(context, name, config, path)
    seconds = time_recipes(context, candidates) if timed or config.recipe == "auto" else {}
    chosen = _choose(candidates, seconds, config)
    attempts = tuple(
        _attempt(candidate, seconds, config.max_loss, chosen)
        for candidate in candidates.values()
        if candidate.recipe != "fp32" or seconds
    )
    _print_choice(chosen, attempts, config)
    for candidate in candidates.values():
        if candidate.recipe not in ("fp32", chosen.recipe):
            candidate.path.unlink()
    return RecipeChoice(chosen, scales.get(chosen.recipe), attempts)


def time_recipes(
    context: QuantizationContext, candidates: dict[str, RecipeCandidate], rounds: int = ROUNDS
) -> dict[str, float]:
    """Return typical seconds per text of each candidate, at batch size 1, on texts of evenly spaced length ranks."""
    encoded = context.choosing.encoded
    order = np.argsort([len(e.ids) for e in encoded], kind="stable")
    ranks = np.linspace(0, len(order) - 1, min(TIMED_TEXTS, len(order))).round().astype(int)
    batches = [context.tokenizer.pad([encoded[int(order[rank])]]) for rank in ranks]
    sessions = {name: open_session(c.path, variant=int8_variant(bits=c.bits)) for name, c in candidates.items()}
    calls = {name: [partial(run_session, session, one) for one in batches] for name, session in sessions.items()}
    return {name: typical_seconds(seconds) for name, seconds in time_texts(calls, rounds).items()}


def _fp32_candidate(context: QuantizationContext, fp32: Path) -> RecipeCandidate:
    agreement = context.agreement(context.choosing, context.logits(fp32, context.choosing))
    all_fp32 = Precision.all_fp32(context.model.architecture)
    return RecipeCandidate("fp32", fp32, FallbackResult(all_fp32, agreement))


def _choose(
    candidates: dict[str, RecipeCandidate], seconds: dict[str, float], config: QuantizeConfig
) -> RecipeCandidate:  # fmt: skip
    if config.recipe == "fp32":
        return candidates["fp32"]
    allowed = [c for c in candidates.values() if c.recipe != "fp32" and c.loss <= config.max_loss]
    if config.recipe != "auto":
        if not allowed:
            rejected = candidates[config.recipe]
            loss_name = LOSS_NAMES[rejected.fallback.agreement.loss_is]
            raise TargetError(
                f"{config.recipe} int8 loses {rejected.loss:.2f} points of {loss_name}, {config.max_loss:g} are "
                "allowed, and no more sublayers can be moved back to fp32: allow a larger --max-loss, give other "
                "--calibration texts, or take --recipe fp32"
            )
        return allowed[0]
    best: RecipeCandidate | None = None
    for candidate in (*allowed, candidates["fp32"]):  # static comes first, so it is chosen within the margin
        if best is None or seconds[best.recipe] > seconds[candidate.recipe] * MARGIN:
            best = candidate
    assert best is not None
    return best


def _attempt(
    candidate: RecipeCandidate, seconds: dict[str, float], max_loss: float, chosen: RecipeCandidate
) -> Attempt:  # fmt: skip
    agreement, ms = candidate.fallback.agreement, seconds.get(candidate.recipe)
    rejected = None
    if candidate is not chosen:
        if ms:
            best = seconds[chosen.recipe]
            reason = f"takes {best * 1e3:.2f}" if ms >= best else f"is within {MARGIN - 1:.0%} with {best * 1e3:.2f}"
            rejected = f"{ms * 1e3:.2f} ms a text, {chosen.recipe} {reason}"
        if candidate.loss > max_loss:
            rejected = f"loses {candidate.loss:.2f} points, {max_loss:g} are allowed"
    return Attempt(
        recipe=candidate.recipe, ms=ms * 1e3 if ms else None, loss_points=candidate.loss, flips=agreement.flips,
        kept_fp32=tuple(s.name for s in candidate.fallback.fp32_sublayers), rejected=rejected,
    )  # fmt: skip


def _print_choice(chosen: RecipeCandidate, attempts: tuple[Attempt, ...], config: QuantizeConfig) -> None:
    """Print each recipe with its loss and why it was rejected, and warn if `auto` chose dynamic int8 or fp32."""
    loss_name = LOSS_NAMES[chosen.fallback.agreement.loss_is]
    for attempt in attempts:
        outcome = f"rejected: {attempt.rejected}" if attempt.rejected else "chosen"
        say(f"{attempt.recipe}: {attempt.loss_points:.2f} points of {loss_name} lost, {outcome}")
    if config.recipe == "auto" and chosen.recipe == "dynamic":
        say("WARNING: dynamic int8 was fastest; its scales depend on the batch, so texts are run one by one")
    if config.recipe == "auto" and chosen.recipe == "fp32":
        say("WARNING: int8 is not used: no recipe is within the allowed loss and faster than fp32")
