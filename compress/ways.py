"""The ways to a smaller model: cut the large one, or distil it into a small encoder and cut that.

outcome_of() compresses in one way; choose_way() compares the bundles of several ways.
"""

from collections.abc import Callable, Sequence
from dataclasses import dataclass, field, replace
from functools import cache
from pathlib import Path
from typing import Any

from bench.measure.accuracy.task_metric import NAMES
from compress.candidate_report import summary
from compress.candidates import Candidate, CandidateEvaluator
from compress.config import CompressConfig
from compress.inputs.inputs import CompressionInputs
from compress.pipeline import compress_all, compress_to, compress_with_fp32_retry, prepare
from compress.search.search_to_target import Target
from models.data.builtin import MINILM
from models.distributed import by_main
from models.errors import DisagreementError, InputError, PrunellaError, TargetError
from models.messages import WARNING, say
from models.store.folder import ModelFolder
from models.store.stage import StageResult
from models.store.stage_seconds import StageSeconds
from models.teachers.open_teachers import OpenTeachers
from models.train.starting_point import resolve_encoder

AUTO = "auto"  # value of --student
CUT = "cut"  # name of the way without a student
SMALL = MINILM  # the student of AUTO


def ways_of(student: str | None) -> list[str]:
    """Return the ways to a smaller model: CUT, or the encoder to distil into."""
    if student is None:
        return [CUT]
    return [CUT, SMALL] if student == AUTO else [student]


@dataclass(frozen=True, slots=True)
class Compression:
    """What is compressed in one way, and to which targets."""

    targets: Sequence[Target]
    inputs: CompressionInputs
    config: CompressConfig
    store: Path
    teachers: OpenTeachers | None
    seconds: StageSeconds  # the time of each stage is added to it


@dataclass(frozen=True, slots=True)
class Outcome:
    """What one way gave: bundles by target, and why targets were not reached."""

    way: str  # CUT, or the name of the encoder that was distilled into
    results: Sequence[tuple[StageResult, Candidate]] = ()
    unreached: dict[str, str] = field(default_factory=dict)
    distilled: str | None = None  # folder of the small model before it is cut


def check_encoders(ways: Sequence[str], store: Path) -> None:
    """Find the encoders of all ways before any of them takes its time.

    Raises:
        InputError: one is missing, or its package is not installed.
    """
    for way in ways:
        if way != CUT:
            resolve_encoder(way, store)


def outcome_of(
    way: str, compression: Compression, alone: bool, check: Callable[[CompressionInputs], None]
) -> Outcome:
    """Compress to all targets in one way.

    Args:
        way: its name.
        compression: what is compressed; in a way other than CUT, its source is the small model.
        alone: whether there is no other way. If there is one, a way that reaches no target is part of the comparison,
            and so is a small model that has learned too little to be cut.
        check: raises InputError for a small model that cannot be cut; the large one was checked before.

    Raises:
        InputError: the only way is a small model that `check` refuses.
        TargetError: the only way reaches no target.
        DisagreementError: the only way has a single target, and two forms of the model answer differently.
    """
    distilled = None if way == CUT else str(compression.inputs.source.path)

    def failed(error: PrunellaError) -> Outcome:
        if alone:
            raise error
        say(f"{WARNING}'{way}' reaches no target: {error}")
        return Outcome(way, (), {target.describe(): str(error) for target in compression.targets}, distilled)

    if way != CUT:
        try:
            check(compression.inputs)
        except InputError as error:
            return failed(error)
    try:
        results, unreached = _compress_to_all(compression)
    except (TargetError, DisagreementError) as error:
        return failed(error)
    return Outcome(way, results, unreached, distilled)


def _compress_to_all(given: Compression) -> tuple[list[tuple[StageResult, Candidate]], dict[str, str]]:
    """Return each bundle with its evaluation, and the error message of each target that cannot be reached."""
    config, store = given.config, given.store
    context = prepare(given.inputs, config, store, given.teachers, given.seconds)
    evaluator = cache(lambda: CandidateEvaluator(context, config.metric))  # created in the main process only

    def evaluated(folder: ModelFolder, target: Target) -> Candidate:
        with given.seconds.of("evaluate"):
            return by_main(lambda: evaluator().evaluate(folder, target, config.tolerance), Candidate)

    def compress_one(target: Target) -> tuple[StageResult, Candidate]:
        return compress_with_fp32_retry(
            lambda keep_fp32: compress_to(target, replace(context, keep_fp32=keep_fp32), config, store),
            lambda result: evaluated(result.folder, target),
        )

    return compress_all(given.targets, compress_one)


def choose_way(
    outcomes: Sequence[Outcome], max_loss: float
) -> tuple[list[tuple[StageResult, Candidate]], dict[str, str], dict[str, Any]]:
    """Return the better bundle for each target, the unreached targets, and a report of the choice.

    Better is, in this order: within the tolerance of the target, within `max_loss` on the rows that choose, less loss
    on these rows, fewer bytes.

    Raises:
        TargetError: no way reaches any target.
    """
    chosen, entries = [], []
    unreached: dict[str, str] = {}
    targets = dict.fromkeys(c.target.describe() for o in outcomes for _, c in o.results)
    for target in targets:
        candidates = [(o, r, c) for o in outcomes for r, c in o.results if c.target.describe() == target]
        best, result, candidate = min(candidates, key=lambda one: _rank(one[2], max_loss))
        chosen.append((result, candidate))
        others = [_sentence(o.way, c) for o, _, c in candidates if o is not best]
        others += [f"{o.way}: {o.unreached[target]}" for o in outcomes if target in o.unreached]
        reason = "; ".join([_sentence(best.way, candidate), *others])
        if len(outcomes) > 1:
            say(f"--student auto takes '{best.way}' for {target}: {reason}")
        ways = [{"way": o.way, **_figures(c, max_loss)} for o, _, c in candidates]
        ways += [{"way": o.way, "failed": o.unreached[target]} for o in outcomes if target in o.unreached]
        entries.append({"target": target, "taken": best.way, "reason": reason, "ways": ways})
    for outcome in outcomes:
        unreached |= {name: text for name, text in outcome.unreached.items() if name not in targets}
    if not chosen:
        raise TargetError("; ".join(f"{o.way}: {text}" for o in outcomes for text in o.unreached.values()))
    distilled = {o.way: o.distilled for o in outcomes if o.distilled}
    return chosen, unreached, {"choices": entries, "distilled": distilled}


def _rank(candidate: Candidate, max_loss: float) -> tuple[bool, bool, float, int]:
    loss = candidate.selection_difference
    inside = loss.verdict(max_loss) in ("sure", "likely")
    return not candidate.met, not inside, loss.loss_points, candidate.measured.bytes


def _sentence(way: str, candidate: Candidate) -> str:
    loss = candidate.selection_difference
    return (
        f"{way}: {candidate.measured.speedup:.2f}x, {loss.loss_points:.2f} points of {NAMES[loss.metric]} lost on "
        f"the {loss.rows} rows that choose"
    )


def _figures(candidate: Candidate, max_loss: float) -> dict[str, Any]:
    keys = ("speedup", "speedup_interval", "loss_points", "loss_interval", "target_met", "bytes", "architecture")
    figures = {name: value for name, value in summary(candidate, max_loss).items() if name in keys}
    return figures | {
        "choosing_loss_points": candidate.selection_difference.loss_points, "folder": candidate.folder
    }  # fmt: skip
