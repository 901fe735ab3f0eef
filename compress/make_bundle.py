"""make_bundle(): export a classifier folder to the bundle that is served, and compare every graph with the model."""

import json
import shutil
from pathlib import Path
from typing import Any

from bench.measure.accuracy.task_metric import paired_loss
from compress.guards import check_reported_loss, name_collapsed, refuse_uninformative
from compress.inputs.validate_texts import check_texts
from compress.quantization.calibration_texts import BundleTexts
from compress.quantization.quantize import QuantizationContext, QuantizeConfig, int8_variant
from compress.quantization.recipes import RecipeChoice, choose_recipe
from compress.quantization.saturation import Saturation, saturation
from compress.search.latency_meter import timing_environment
from export.agreement import Agreement, Logits, check_agreement
from export.external_data import move_weights_out
from export.fused_operators import check_fused, check_half
from export.graph_precision import Precision
from export.writer import to_onnx, write_fp16
from models import architecture, task
from models import tokenizer as tokenizer_file
from models.checkpoint import read_architecture
from models.compatibility import check_fit
from models.errors import PrunellaError
from models.families import FAMILIES
from models.messages import say
from models.store.folder import REPORT, ModelFolder
from models.store.stage import Stage, StageResult, run_stage
from models.task import Task
from service.model import bundle as bundle_file
from service.model.bundle import WEIGHTS, BundleInfo, Golden, Variant

VERSION = 6
AGREEMENT = "agreement.json"  # file with the comparisons of the graphs
# Limits of |Δlogit| for logits of usual size; they grow with the logits (`QuantizationContext.magnitude`, `.spread`).
FP32_LIMIT = 1e-4  # torch and ONNX fp32 differ by rounding only
FP16_LIMIT = 0.05  # about ten times the difference of fp16
INT8_LIMIT = 4.0  # far above a working int8 graph (2.1 in one of 512 pairs): only broken graphs exceed it
GOLDEN_ROWS = 8
SATURATION_ROWS = 32


class BundleConfig(QuantizeConfig):
    """Settings of a bundle: the model in fp32, in int8 by a recipe, and optionally in fp16 for GPUs."""

    gpu: bool = False  # whether the bundle has an fp16 graph
    timed: bool = False  # whether a recipe that was requested by name is timed too


def make_bundle(
    source: ModelFolder, texts: BundleTexts, config: BundleConfig, store: Path, any_text: bool = False
) -> StageResult:
    """Return the bundle of a classifier folder.

    Args:
        source: a folder with weights.
        texts: rows like those that will be served; the first ones that choose become the golden rows.
        config: recipe and limits.
        store: folder of finished stages.
        any_text: whether texts are accepted of which the tokenizer knows almost no token.

    Raises:
        InputError: the texts are not of the model's form or language, its family cannot be exported, or its
            tokenizer returns ids that the model does not have.
        CheckError: the logits of a graph differ too much from the model's, or its loss is larger than allowed.
    """
    settings = {
        **config.model_dump(mode="json", exclude_none=True),
        **{name: rows.sha256 for name, rows in texts.named().items()},
    }  # fmt: skip
    if config.timed or config.recipe == "auto":  # latency depends on the machine, and so may the chosen recipe
        settings |= timing_environment()
    task_config, shape = Task.read(source.path / task.FILE), read_architecture(source.path)
    settings |= FAMILIES[shape.family].revision
    check_fit(source.path, shape, task_config)
    for name, rows in texts.named().items():
        check_texts(rows, task_config, source.path, name, any_text)

    def make(target: Path) -> None:
        try:
            _make(source.path, texts, config, target)
        except PrunellaError:
            shutil.rmtree(target)  # a refused bundle is not kept
            raise

    return run_stage(Stage("bundle", VERSION, settings), [source], store, make)


def fallback_sublayers(folder: Path) -> tuple[str, ...]:
    """Return what has more bits in a bundle than requested, because of its loss: `FallbackResult.names`."""
    return tuple(_read_agreement(folder).get("fallen_back", ()))


def int8_precision(folder: Path) -> Precision | None:
    """Return the precision of the sublayers in the int8 graph of a bundle; None: it has no int8 graph."""
    precision = _read_agreement(folder).get("precision")
    return None if precision is None else Precision.model_validate(precision)


def _read_agreement(folder: Path) -> dict[str, Any]:
    document: dict[str, Any] = json.loads((folder / AGREEMENT).read_text(encoding="utf-8"))
    return document


def _make(source: Path, texts: BundleTexts, config: BundleConfig, target: Path) -> None:
    context = QuantizationContext(source, texts, config.metric)
    shutil.copyfile(source / tokenizer_file.FILE, target / tokenizer_file.FILE)
    context.task.write(target / task.FILE)
    context.model.architecture.write(target / architecture.FILE)
    writer = _BundleWriter(context, target, config.max_loss)
    fp32 = writer.write_fp32()
    choice = choose_recipe(context, config, fp32, config.timed) if config.recipe != "fp32" else None
    if choice is not None and choice.chosen.recipe != "fp32":
        writer.add_int8(choice)
    if config.gpu:
        writer.write_gpu()
    writer.finish(choice)


class _BundleWriter:
    """Writes the ONNX files of a bundle one after the other, and collects the comparisons for agreement.json."""

    def __init__(self, context: QuantizationContext, target: Path, max_loss: float) -> None:
        self._context, self._target, self._max_loss = context, target, max_loss
        self._shape = context.model.architecture
        self._variants: dict[str, Variant] = {}
        self._agreements: dict[str, Any] = {}  # contents of agreement.json

    def write_fp32(self) -> Path:
        """Write the fp32 graph; its logits must be those of torch."""
        path = self._add("cpu-fp32", Variant(
            file="onnx/cpu-fp32.onnx", device="cpu", precision="fp32", recipe="fp32",
            golden_tolerance=1e-3 * self._context.magnitude,
        ))  # fmt: skip
        to_onnx(self._context.model, path, self._context.task.pair)
        check_fused(path, self._shape, Precision.all_fp32(self._shape), static=False)
        self._check("torch_fp32", path, "ONNX fp32", FP32_LIMIT)
        return path

    def add_int8(self, choice: RecipeChoice) -> None:
        """Add the chosen int8 graph, and warn if it would saturate on a processor without VNNI."""
        chosen, precision = choice.chosen, choice.chosen.fallback.precision
        assert chosen.recipe != "fp32"
        variant, spread = int8_variant(chosen.recipe, precision.weight_bits), self._context.spread
        tolerance = variant.golden_tolerance * spread
        path = self._add("cpu-int8", variant.model_copy(update={"golden_tolerance": tolerance}))
        chosen.path.rename(path)
        agreement = check_agreement(chosen.fallback.agreement, "ONNX int8", INT8_LIMIT * spread)
        self._agreements["fp32_int8"] = agreement.model_dump()
        self._agreements["precision"] = precision.model_dump()
        self._agreements["fallen_back"] = list(chosen.fallback.names)
        if choice.scales is not None:
            rows = self._context.calibration[:SATURATION_ROWS]
            products = saturation(self._context.model, rows, self._context.tokenizer, choice.scales, precision)
            self._agreements["without_vnni"] = {name: one.model_dump() for name, one in products.items()}
            _warn_of_saturation(products)

    def write_gpu(self) -> None:
        """Write the fp16 graph, and check it here: on a CPU, ONNX Runtime casts fp16 tensors and computes in fp32."""
        path = self._add("gpu-fp16", Variant(
            file="onnx/gpu-fp16.onnx", device="cuda", precision="fp16", recipe="fp16",
            golden_tolerance=FP16_LIMIT * self._context.magnitude,
        ))  # fmt: skip
        write_fp16(self._context.model, path, self._context.task.pair)
        check_half(path, self._shape)
        self._check("fp32_fp16", path, "ONNX fp16", FP16_LIMIT)

    def finish(self, choice: RecipeChoice | None) -> None:
        """Move the weights out of the graphs, and write golden rows, bundle.json, agreement.json and report.json."""
        for variant in self._variants.values():
            move_weights_out(self._target / variant.file)
        rows = self._context.choosing.texts.rows[:GOLDEN_ROWS]
        logits = {name: self._logits(v, GOLDEN_ROWS) for name, v in self._variants.items()}
        golden = {name: tuple(tuple(float(x) for x in row) for row in values) for name, values in logits.items()}
        Golden(rows=tuple(tuple(row) for row in rows), logits=golden).write(self._target / bundle_file.GOLDEN)
        default = {"cpu": "cpu-int8" if "cpu-int8" in self._variants else "cpu-fp32"}
        default |= {"cuda": "gpu-fp16"} if "gpu-fp16" in self._variants else {}
        info = BundleInfo(name="prunella", variants=self._variants, default=default)
        info.write(self._target / bundle_file.FILE)
        report = self._report(choice, info)
        if choice is not None:
            self._agreements["tried"] = [one.model_dump(exclude={"ms", "rejected"}) for one in choice.attempts]
        _write_json(self._target / AGREEMENT, self._agreements)
        _write_json(self._target / REPORT, report)

    def _report(self, choice: RecipeChoice | None, info: BundleInfo) -> dict[str, Any]:
        """Return the keys of a verb's last line; latencies are only here, because they do not identify a bundle."""
        default = info.variants[info.default["cpu"]]
        graph = self._target / default.file
        files = (graph, graph.with_suffix(WEIGHTS), self._target / tokenizer_file.FILE)
        size = sum(file.stat().st_size for file in files)
        report: dict[str, Any] = {
            "variants": sorted(info.variants),
            "bytes": size,
            "architecture": self._shape.summary(),
        }
        if choice is None:
            return report
        rows = self._context.reported
        logits = self._logits(default)
        agreement = self._context.agreement(rows, logits)
        report |= {
            "recipe": choice.chosen.recipe, "agreement": agreement.model_dump(), **self._context.roles.summary(),
            "embedding_bits": choice.chosen.fallback.precision.embedding_bits,
            "tried": [attempt.model_dump() for attempt in choice.attempts],
        }  # fmt: skip
        if rows.truth is not None:  # without labels there is only the expected loss, in "agreement"
            report |= self._loss(agreement, logits)
        milliseconds = {attempt.recipe: attempt.ms for attempt in choice.attempts if attempt.ms is not None}
        if milliseconds:
            ours = milliseconds[choice.chosen.recipe]
            report["p50_ms"] = {"ours": ours, **milliseconds}
            report["speedup"] = {name: ms / ours for name, ms in milliseconds.items()}
            report["reference"] = "fp32"
        return report

    def _loss(self, agreement: Agreement, logits: Logits) -> dict[str, Any]:
        """Return the loss on the labelled rows for reports, with its confidence interval.

        Raises:
            TargetError: the whole interval is above the allowed loss, or all rows get the same prediction.
        """
        context, rows, metric = self._context, self._context.reported, self._context.metric
        assert rows.truth is not None
        before, after = (context.task.decide(context.task.scores(one)) for one in (rows.fp32_logits, logits))
        loss = paired_loss(context.task.kind, rows.truth, before, after, metric)
        refuse_uninformative(context.task, rows.truth, before, after)
        check_reported_loss(loss, self._max_loss)
        collapsed = name_collapsed(context.task, rows.truth, before, after)
        return {
            metric: agreement.score, f"reference_{metric}": agreement.reference_score, "loss_is": metric,
            "loss_points": loss.loss_points, "loss_interval": loss.loss_interval, "rows": loss.rows,
            "loss_is_inside": loss.verdict(self._max_loss), "rows_to_be_sure": loss.rows_needed(self._max_loss),
            "collapsed_labels": [one.model_dump() for one in collapsed],
        }  # fmt: skip

    def _logits(self, variant: Variant, count: int | None = None) -> Logits:
        """Return the logits of a variant for the reported rows; with `count`, for the first rows that choose."""
        rows = self._context.reported if count is None else self._context.choosing
        return self._context.logits(self._target / variant.file, rows, count, variant.weight_bits)

    def _add(self, name: str, variant: Variant) -> Path:
        self._variants[name] = variant
        return self._target / variant.file

    def _check(self, name: str, path: Path, what: str, limit: float) -> None:
        rows = self._context.choosing
        agreement = self._context.agreement(rows, self._context.logits(path, rows))
        checked = check_agreement(agreement, what, limit * self._context.magnitude)
        self._agreements[name] = checked.model_dump()


def _warn_of_saturation(products: dict[str, Saturation]) -> None:
    unsafe = [name for name, one in products.items() if not one.is_safe]
    if unsafe:
        say(
            f"on processors without VNNI {len(unsafe)} of {len(products)} int8 products would saturate; there the "
            "service sets ONNX Runtime's precision key, which is exact and may be slower"
        )


def _write_json(path: Path, document: dict[str, Any]) -> None:
    path.write_text(json.dumps(document, indent=2) + "\n", encoding="utf-8")
