"""The verb `prunella compress`."""

import math
from dataclasses import replace
from functools import cache
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any, Literal

import typer

from compress.quantize_command import AnyText, MetricName
from models.console import STORE, MaxTokens, Out, Store, finish, need
from models.distributed import by_main
from models.errors import InputError

if TYPE_CHECKING:
    from compress.config import CompressConfig
    from compress.target import Target

MODES: dict[str, dict[str, Any] | None] = {  # of healing; None: nothing is trained
    "instant": None,
    "standard": {"epochs": 10, "minutes": 40.0},
    "max": {"epochs": 40, "minutes": None, "metric": "distance", "patience": 5},  # as long as it helps
}
FAMILY_MINUTES = 120.0  # of healing, in all: with what comes before a family takes two hours and a half at most


def compress(
    model: Annotated[Path, typer.Argument(help="a classifier folder, or a fine-tuned Hugging Face folder")],
    train: Annotated[str, typer.Option(help="texts to learn from: CSV, TSV, JSONL, Parquet; labels are not needed")],
    validation: Annotated[
        str | None,
        typer.Option(
            help="labelled rows as they are served, that no model learned from: one half chooses, the loss is "
            "reported on the other; without it a tenth of --train"
        ),
    ] = None,
    test: Annotated[
        str | None, typer.Option(help="labelled rows on which the loss is reported; then all of --validation choose")
    ] = None,
    texts: Annotated[str | None, typer.Option(help="more texts to learn from; the full model labels them")] = None,
    speedup: Annotated[float | None, typer.Option(help="over the unpruned fp32 model on ONNX Runtime")] = None,
    latency_ms: Annotated[float | None, typer.Option(help="milliseconds a text, instead")] = None,
    size_mb: Annotated[float | None, typer.Option(help="megabytes with the tokenizer, instead")] = None,
    family: Annotated[
        str | None, typer.Option(help="several speed-ups from one run, such as 1.5,2,3,4,6,8,12")
    ] = None,
    max_loss: Annotated[float, typer.Option(help="points of --metric that may be lost, int8's share included")] = 1.0,
    metric: MetricName = None,
    mode: Annotated[str, typer.Option(help="instant (no training), standard (within the hour) or max")] = "standard",
    epochs: Annotated[int | None, typer.Option(help="of healing, instead of the mode's")] = None,
    minutes: Annotated[float | None, typer.Option(help="most minutes of healing, for each point")] = None,
    learning_rate: Annotated[float | None, typer.Option(help="of healing; default: 1e-4")] = None,
    augment: Annotated[int | None, typer.Option(help="so many variants for each text, as long as served")] = None,
    tolerance: Annotated[float, typer.Option(help="share by which a measured figure may miss its target")] = 0.05,
    batch: Annotated[int, typer.Option(min=1, help="texts answered at once where speed is measured")] = 1,
    threads: Annotated[int, typer.Option(min=1, help="threads of ONNX Runtime where speed is measured")] = 1,
    max_tokens: MaxTokens = None,
    trim_vocabulary: Annotated[
        bool | None, typer.Option(help="drop tokens that the texts do not use; default: only with --size-mb")
    ] = None,
    embedding_bits: Annotated[
        Literal["auto", "8", "4"], typer.Option(help="of the token table; auto: 4 where --size-mb would cut with 8")
    ] = "auto",
    hidden_width: Annotated[
        str | None,
        typer.Option(help="a narrower hidden state: a multiple of 32, or (--mode instant) auto, the best of some"),
    ] = None,
    weak_teacher: Annotated[bool, typer.Option(help="go on with a model no better than guessing")] = False,
    any_text: AnyText = False,
    remeasure: Annotated[
        bool,
        typer.Option(help="measure latency again and choose again; default: what the store holds for this machine"),
    ] = False,
    seed: int = 0,
    store: Store = STORE,
    out: Out = None,
) -> None:
    """Prune to a target, heal by distillation, quantize: gives the bundle that is served, and says what it lost.

    Exit code 1 when no shape reaches the target within --tolerance, none that does stays inside --max-loss, or the
    answers of the smaller model ignore the text; and, with the bundle delivered, when its final measurement misses
    the target. Of a family, targets out of reach are named, and the others made.
    """
    need("torch", "train")
    from bench.judging import choose_metric
    from compress.family import Judge, Point, check_targets, judged, pick, reach, summary, write_family
    from compress.inputs import Files, read_inputs
    from compress.narrow import narrowed
    from compress.pipeline import compress_to, prepare
    from compress.remeasure import forget_times
    from compress.source import check_inputs, source_kind
    from models.checkpoint import read_architecture
    from models.folder import identity
    from models.stage import Made
    from service.cores import usable_cores

    targets = read_targets(speedup, latency_ms, size_mb, family)
    if not max_loss >= 0:  # nor a number that is none
        raise InputError(f"--max-loss is {max_loss:g}: wanted 0 or more points")
    if threads > (cores := usable_cores()):
        raise InputError(f"--threads is {threads}, and {cores} cores are there: measure where it will be served")
    healing = {"epochs": epochs, "minutes": minutes, "learning_rate": learning_rate, "augment": augment}
    settings = {
        "tolerance": tolerance, "vocabulary": read_trim(trim_vocabulary, size_mb is not None),
        "hidden_width": read_width(hidden_width), "max_loss": max_loss,
        "metric": choose_metric(source_kind(model), metric),
        "load": {"batch": batch, "threads": threads}, "seed": seed,
        "embedding_bits": None if embedding_bits == "auto" else int(embedding_bits),
    }  # fmt: skip
    config = make_config(mode, healing, settings, len(targets))
    inputs = read_inputs(model, Files(train, validation, test, texts), store, max_tokens, seed)
    if isinstance(config.hidden_width, int):
        narrowed(read_architecture(inputs.source.path), config.hidden_width)  # refuses what cannot be
    by_main(lambda: check_inputs(inputs, weak_teacher, any_text))
    by_main(lambda: forget_times(store, inputs.source) if remeasure else None)
    ready = prepare(inputs, config, store)
    judge = cache(lambda: Judge(ready, config.metric))  # opened where it is used: in the main process

    def make(target: "Target") -> tuple[Made, Point]:
        return judged(
            lambda held: compress_to(target, replace(ready, held=held), config, store),
            lambda made: by_main(lambda: judge().point(made.folder, target, tolerance), Point),
        )

    made, unreached = reach(targets, make)
    points = [point for _, point in made]

    def deliver() -> None:
        report = store / f"family-{identity([p.id for p in points], 'family', 1, {'max_loss': max_loss})}"
        write_family(points, None, max_loss, report, inputs.summary())
        picked = pick(points, max_loss)
        write_family(points, picked, max_loss, report, inputs.summary())
        more: dict[str, Any] = {}
        if family:
            more = {"family": [summary(p, max_loss) | {"folder": p.folder} for p in points], "unreached": unreached}
        finish("compress", made[points.index(picked)][0], out, report=str(report), **more)
        check_targets(points, picked, tolerance)

    by_main(deliver)


def read_trim(asked: bool | None, for_size: bool) -> str:
    """Return what becomes of the vocabulary: it stays whole unless the user says so, or asks for a size."""
    if asked is None:
        return "trim_if_possible" if for_size else "whole"
    return "trim" if asked else "whole"


def read_width(told: str | None) -> int | str | None:
    """Return the width that --hidden-width asks for.

    Raises:
        InputError: it is neither a number nor `auto`.
    """
    if told in (None, "auto"):
        return told
    try:
        return int(told)
    except ValueError:
        raise InputError(f"--hidden-width is {told!r}: wanted a multiple of 32, or auto") from None


def read_targets(
    speedup: float | None, latency_ms: float | None, size_mb: float | None, family: str | None
) -> "list[Target]":
    """Return the targets in the flags; 4x where none is given.

    Raises:
        InputError: two contradict each other, or one is no target.
    """
    from compress.target import Target

    given = {"--speedup": speedup, "--latency-ms": latency_ms, "--size-mb": size_mb, "--family": family}
    named = [flag for flag, value in given.items() if value is not None]
    if len(named) > 1:
        raise InputError(f"{' and '.join(named)} are given: wanted one target")
    if family is not None:
        try:
            values = [float(part) for part in family.split(",")]
        except ValueError:
            raise InputError(f"--family is {family!r}: wanted speed-ups with commas between, such as 2,4,8") from None
    else:
        values = [speedup if speedup is not None else 4.0]
    if latency_ms is not None or size_mb is not None:
        kind: Literal["latency_ms", "size_mb"] = "size_mb" if latency_ms is None else "latency_ms"
        value = size_mb if latency_ms is None else latency_ms
        assert value is not None
        if not 0 < value < math.inf:
            raise InputError(f"{named[0]} is {value:g}: wanted more than 0")
        return [Target(kind=kind, value=value)]
    for value in values:
        if not 1 < value < math.inf:
            raise InputError(f"a speed-up of {value:g} was asked for: wanted more than 1")
    return [Target(kind="speedup", value=value) for value in sorted(values)]


def make_config(
    mode: str, healing: dict[str, float | None], settings: dict[str, Any], points: int = 1
) -> "CompressConfig":
    """Return the configuration of a mode.

    Args:
        mode: one of MODES.
        healing: `epochs`, `minutes`, `learning_rate` and `augment`; None: the mode's own.
        settings: further fields of the configuration.
        points: of the family: they share FAMILY_MINUTES, where a mode has a limit and none was given.
    """
    from compress.config import CompressConfig
    from compress.distill import DistillConfig

    if mode not in MODES:
        raise InputError(f"--mode is {mode!r}: there are {', '.join(MODES)}")
    told, given = MODES[mode], {name: value for name, value in healing.items() if value is not None}
    if told is None:
        if given:
            flags = ", ".join(f"--{name.replace('_', '-')}" for name in given)
            raise InputError(f"--mode instant trains nothing: leave out {flags}")
        return CompressConfig(heal=None, **settings)
    settings = settings | {"augment": given.pop("augment", 0)}
    if told["minutes"]:
        told = told | {"minutes": min(told["minutes"], FAMILY_MINUTES / points)}
    training = {**DistillConfig().training.model_dump(), "seed": settings["seed"], **told, **given}
    heal = {"minutes": training.pop("minutes"), "training": training}
    return CompressConfig(heal=DistillConfig.model_validate(heal), **settings)
