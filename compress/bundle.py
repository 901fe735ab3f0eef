"""make_bundle(): a classifier folder → the folder that is served, every conversion checked with numbers."""

import json
import shutil
import sys
from pathlib import Path
from typing import Any

from bench.judging import judge_loss
from compress.bundle_texts import BundleTexts
from compress.clock import times_belong_to
from compress.guards import check_reported_loss, name_collapsed, refuse_uninformative
from compress.quantize import QuantizeConfig, Subject, int8_variant
from compress.recipes import Choice, choose_recipe
from compress.saturation import Saturation, saturation
from compress.suited import check_texts
from export.agreement import Agreement, Logits, check_agreement
from export.external import move_weights_out
from export.graph import check_fused, check_half
from export.onnx import to_onnx, write_fp16
from export.precision import Precision
from models import architecture, task, tokens
from models.checkpoint import read_architecture
from models.errors import PrunellaError
from models.fit import check_fit
from models.folder import REPORT, ModelFolder
from models.stage import Made, Stage, run_stage
from models.task import Task
from service import bundle as bundle_file
from service.bundle import WEIGHTS, BundleInfo, Golden, Variant

VERSION = 5
AGREEMENT = "agreement.json"  # what was found of each form of the model
# limits of |Δlogit|; those of a regression grow with its numbers
FP32_LIMIT = 1e-4  # torch against ONNX fp32: rounding only
FP16_LIMIT = 0.05  # about ten times what fp16 shows
INT8_LIMIT = 4.0  # far above what a working int8 graph shows (2.1 in one of 512 pairs): it catches broken ones
GOLDEN_ROWS = 8
SATURATION_ROWS = 32


class BundleConfig(QuantizeConfig):
    """What a bundle holds: the model in fp32, in int8 by a recipe, and in fp16 for GPUs where that is asked for."""

    gpu: bool = False
    timed: bool = False


def make_bundle(
    source: ModelFolder, texts: BundleTexts, config: BundleConfig, store: Path, any_text: bool = False
) -> Made:
    """Return the bundle of a classifier folder.

    Args:
        source: a folder with weights.
        texts: rows like those that will be served; the first few that choose become the golden rows.
        config: recipe and limits.
        store: where stages are kept.
        any_text: whether texts are taken of which the tokenizer knows hardly a token.

    Raises:
        InputError: the texts are not of the model's kind or language, its family has no graph, or its tokenizer makes
            tokens that it does not know.
        CheckError: a form of the model answers otherwise than it should, or loses more than is allowed.
    """
    settings = {
        **config.model_dump(mode="json", exclude_none=True),
        **{name: rows.sha256 for name, rows in texts.named().items()},
    }  # fmt: skip
    if config.timed or config.recipe == "auto":  # another machine has other times, and may choose another recipe
        settings |= times_belong_to()
    asked = Task.read(source.path / task.FILE)
    check_fit(source.path, read_architecture(source.path), asked)
    for name, rows in texts.named().items():
        check_texts(rows, asked, source.path, name, any_text)

    def make(target: Path) -> None:
        try:
            _make(source.path, texts, config, target)
        except PrunellaError:
            shutil.rmtree(target)  # what was refused is not kept
            raise

    return run_stage(Stage("bundle", VERSION, settings), [source], store, make)


def fallen_back(folder: Path) -> tuple[str, ...]:
    """Return what in a bundle is rounded less than was wanted, or its loss would be outside: `Fallen.names`."""
    return tuple(_told(folder).get("fallen_back", ()))


def taken_precision(folder: Path) -> Precision | None:
    """Return how the int8 graph of a bundle is computed; None: it has none."""
    told = _told(folder).get("precision")
    return None if told is None else Precision.model_validate(told)


def _told(folder: Path) -> dict[str, Any]:
    told: dict[str, Any] = json.loads((folder / AGREEMENT).read_text(encoding="utf-8"))
    return told


def _make(source: Path, texts: BundleTexts, config: BundleConfig, target: Path) -> None:
    subject = Subject(source, texts, config.metric)
    shutil.copyfile(source / tokens.FILE, target / tokens.FILE)
    subject.task.write(target / task.FILE)
    subject.model.architecture.write(target / architecture.FILE)
    forms = _Forms(subject, target, config.max_loss)
    fp32 = forms.write_fp32()
    choice = choose_recipe(subject, config, fp32, config.timed) if config.recipe != "fp32" else None
    if choice is not None and choice.taken.recipe != "fp32":
        forms.take_int8(choice)
    if config.gpu:
        forms.write_gpu()
    forms.finish(choice)


class _Forms:
    """The ONNX files of a bundle as they come, with what was found of each."""

    def __init__(self, subject: Subject, target: Path, max_loss: float) -> None:
        self._subject, self._target, self._max_loss = subject, target, max_loss
        self._shape = subject.model.architecture
        self._variants: dict[str, Variant] = {}
        self._told: dict[str, Any] = {}

    def write_fp32(self) -> Path:
        """Write the graph in fp32; it must answer as torch does."""
        path = self._add("cpu-fp32", Variant(
            file="onnx/cpu-fp32.onnx", device="cpu", precision="fp32", recipe="fp32",
            golden_tolerance=1e-3 * self._subject.magnitude,
        ))  # fmt: skip
        to_onnx(self._subject.model, path, self._subject.task.pair)
        check_fused(path, self._shape, Precision.all_fp32(self._shape), static=False)
        self._check("torch_fp32", path, "ONNX fp32", FP32_LIMIT)
        return path

    def take_int8(self, choice: Choice) -> None:
        """Take the int8 graph that was chosen, and say where it would saturate on a processor without VNNI."""
        taken, precision = choice.taken, choice.taken.fallen.precision
        assert taken.recipe != "fp32"
        variant, spread = int8_variant(taken.recipe, precision.weight_bits), self._subject.spread
        tolerance = variant.golden_tolerance * spread
        path = self._add("cpu-int8", variant.model_copy(update={"golden_tolerance": tolerance}))
        taken.path.rename(path)
        agreement = check_agreement(taken.fallen.agreement, "ONNX int8", INT8_LIMIT * spread)
        self._told["fp32_int8"] = agreement.model_dump()
        self._told["precision"] = precision.model_dump()
        self._told["fallen_back"] = list(taken.fallen.names)
        if choice.scales is not None:
            rows = self._subject.calibration[:SATURATION_ROWS]
            found = saturation(self._subject.model, rows, self._subject.tokenizer, choice.scales, precision)
            self._told["without_vnni"] = {name: one.model_dump() for name, one in found.items()}
            _warn(found)

    def write_gpu(self) -> None:
        """Write the fp16 graph, and run it here: ONNX Runtime computes it in fp32 between its fp16 tensors."""
        path = self._add("gpu-fp16", Variant(
            file="onnx/gpu-fp16.onnx", device="cuda", precision="fp16", recipe="fp16",
            golden_tolerance=FP16_LIMIT * self._subject.magnitude,
        ))  # fmt: skip
        write_fp16(self._subject.model, path, self._subject.task.pair)
        check_half(path, self._shape)
        self._check("fp32_fp16", path, "ONNX fp16", FP16_LIMIT)

    def finish(self, choice: Choice | None) -> None:
        """Move the weights out of the graphs, and write golden rows, bundle.json and what was found."""
        for variant in self._variants.values():
            move_weights_out(self._target / variant.file)
        rows = self._subject.choosing.texts.rows[:GOLDEN_ROWS]
        logits = {name: self._answers(v, GOLDEN_ROWS) for name, v in self._variants.items()}
        golden = {name: tuple(tuple(float(x) for x in row) for row in found) for name, found in logits.items()}
        Golden(rows=tuple(tuple(row) for row in rows), logits=golden).write(self._target / bundle_file.GOLDEN)
        default = {"cpu": "cpu-int8" if "cpu-int8" in self._variants else "cpu-fp32"}
        default |= {"cuda": "gpu-fp16"} if "gpu-fp16" in self._variants else {}
        info = BundleInfo(name="prunella", variants=self._variants, default=default)
        info.write(self._target / bundle_file.FILE)
        report = self._report(choice, info)
        if choice is not None:
            self._told["tried"] = [one.model_dump(exclude={"ms", "rejected"}) for one in choice.tried]
        _write_json(self._target / AGREEMENT, self._told)
        _write_json(self._target / REPORT, report)

    def _report(self, choice: Choice | None, info: BundleInfo) -> dict[str, Any]:
        """Return the keys of a verb's last line; times are no part of a bundle's identity, so they stand here."""
        default = info.variants[info.default["cpu"]]
        graph = self._target / default.file
        files = (graph, graph.with_suffix(WEIGHTS), self._target / tokens.FILE)
        size = sum(file.stat().st_size for file in files)
        told: dict[str, Any] = {
            "variants": sorted(info.variants),
            "bytes": size,
            "architecture": self._shape.summary(),
        }
        if choice is None:
            return told
        reported = self._subject.reported
        answers = self._answers(default)
        agreement = self._subject.agreement(reported, answers)
        told |= {
            "recipe": choice.taken.recipe, "agreement": agreement.model_dump(), **self._subject.roles.summary(),
            "embedding_bits": choice.taken.fallen.precision.embedding_bits,
            "tried": [t.model_dump() for t in choice.tried],
        }  # fmt: skip
        if reported.truth is not None:  # other losses were not found on labels
            told |= self._loss(agreement, answers)
        milliseconds = {t.recipe: t.ms for t in choice.tried if t.ms is not None}
        if milliseconds:
            ours = milliseconds[choice.taken.recipe]
            told["p50_ms"] = {"ours": ours, **milliseconds}
            told["speedup"] = {name: ms / ours for name, ms in milliseconds.items()}
            told["reference"] = "fp32"
        return told

    def _loss(self, agreement: Agreement, answers: Logits) -> dict[str, Any]:
        """Return what is lost on the labelled rows that are reported, with its interval.

        Raises:
            TargetError: the whole interval is outside what is allowed, or all rows get one answer.
        """
        subject, reported, metric = self._subject, self._subject.reported, self._subject.metric
        assert reported.truth is not None
        was, now = (subject.task.decide(subject.task.scores(logits)) for logits in (reported.wanted, answers))
        lost = judge_loss(subject.task.kind, reported.truth, was, now, metric)
        refuse_uninformative(subject.task, reported.truth, was, now)
        check_reported_loss(lost, self._max_loss)
        collapsed = name_collapsed(subject.task, reported.truth, was, now)
        return {
            metric: agreement.score, f"reference_{metric}": agreement.reference_score, "loss_is": metric,
            "loss_points": lost.loss_points, "loss_interval": lost.loss_interval, "rows": lost.rows,
            "loss_is_inside": lost.verdict(self._max_loss), "rows_to_be_sure": lost.rows_needed(self._max_loss),
            "collapsed_labels": [one.model_dump() for one in collapsed],
        }  # fmt: skip

    def _answers(self, variant: Variant, count: int | None = None) -> Logits:
        """Return what a variant answers to the rows that are reported; or to the first `count` that choose."""
        rows = self._subject.reported if count is None else self._subject.choosing
        return self._subject.answers(self._target / variant.file, rows, count, variant.weight_bits)

    def _add(self, name: str, variant: Variant) -> Path:
        self._variants[name] = variant
        return self._target / variant.file

    def _check(self, name: str, path: Path, what: str, limit: float) -> None:
        rows = self._subject.choosing
        agreement = self._subject.agreement(rows, self._subject.answers(path, rows))
        self._told[name] = check_agreement(agreement, what, limit * self._subject.magnitude).model_dump()


def _warn(found: dict[str, Saturation]) -> None:
    unsafe = [name for name, one in found.items() if not one.is_safe]
    if unsafe:
        sys.stderr.write(
            f"prunella: on processors without VNNI {len(unsafe)} of {len(found)} int8 products would saturate; the "
            "service sets ONNX Runtime's precision key there, which is right and may be slower\n"
        )


def _write_json(path: Path, told: dict[str, Any]) -> None:
    path.write_text(json.dumps(told, indent=2) + "\n", encoding="utf-8")
