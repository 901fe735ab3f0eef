"""make_bundle(): a classifier folder → the folder that is served, every conversion checked with numbers."""

import json
import shutil
from pathlib import Path
from typing import Literal

import numpy as np

from compress.calibrate import TextBatches, calibrate
from compress.quantize import weight_bits
from export import precision as precision_file
from export.agreement import check_agreement
from export.graph import check_fused
from export.onnx import to_onnx, write_int8
from export.precision import Precision
from models import architecture, task, tokens
from models.architecture import Architecture
from models.checkpoint import load_checkpoint
from models.data.texts import Texts
from models.folder import ModelFolder
from models.stage import Made, Stage, run_stage
from models.task import Task
from models.tokens import Row, Tokenizer
from models.train.predict import predict
from service import bundle as bundle_file
from service.bundle import BundleInfo, Golden, Variant
from service.engine import run_session
from service.runtime import open_session

VERSION = 2
FP32_LIMIT = 1e-4  # |Δlogit| torch against ONNX fp32: rounding only
INT8_LIMIT = 2.0  # far above what a working int8 graph shows: it catches broken ones; accuracy is judged by `bench`
GOLDEN_ROWS = 8
CALIBRATION_ROWS = 256


def make_bundle(source: ModelFolder, texts: Texts, recipe: str, store: Path) -> Made:
    """Return the bundle of a classifier folder.

    Args:
        source: a folder with weights.
        texts: rows on which the forms of the model are compared; the first few become the golden rows.
        recipe: `static` or `dynamic` (int8 and fp32), or `fp32` only.
        store: where stages are kept.
    """
    rows = texts.rows[:64]
    bits = weight_bits()
    settings = {"recipe": recipe, "rows": texts.sha256, "weight_bits": bits if recipe != "fp32" else 32}

    def make(target: Path) -> None:
        asked = Task.read(source.path / task.FILE)
        model = load_checkpoint(source.path)
        tokenizer = Tokenizer.open(source.path, asked.max_tokens)
        shutil.copyfile(source.path / tokens.FILE, target / tokens.FILE)
        asked.write(target / task.FILE)
        model.architecture.write(target / architecture.FILE)
        fp32 = target / "onnx" / "cpu-fp32.onnx"
        to_onnx(model, fp32, asked.pair)
        wanted = predict(model, tokenizer.encode(rows), tokenizer)
        variants = {
            "cpu-fp32": Variant(
                file="onnx/cpu-fp32.onnx", device="cpu", precision="fp32", recipe="fp32", golden_tolerance=1e-3
            )
        }
        agreements = {"torch_fp32": check_agreement(wanted, _answers(fp32, rows, tokenizer), "ONNX fp32", FP32_LIMIT)}
        check_fused(fp32, model.architecture, Precision.all_fp32(model.architecture), static=False)
        if recipe != "fp32":
            int8 = target / "onnx" / "cpu-int8.onnx"
            precision = _chosen(source.path, model.architecture, bits)
            encoded = tokenizer.encode(texts.rows[:CALIBRATION_ROWS])
            scales = calibrate(model, TextBatches(encoded, tokenizer), bits=bits) if recipe == "static" else None
            write_int8(model, int8, asked.pair, scales, precision)
            check_fused(int8, model.architecture, precision, recipe == "static")
            agreements["fp32_int8"] = check_agreement(
                wanted, _answers(int8, rows, tokenizer), "ONNX int8", INT8_LIMIT
            )
            variants["cpu-int8"] = Variant(
                file="onnx/cpu-int8.onnx", device="cpu", precision="int8", recipe=recipe,
                weight_bits=bits, golden_tolerance=0.25,
            )  # fmt: skip
        _write_golden(target, rows[:GOLDEN_ROWS], variants, tokenizer)
        default = "cpu-int8" if "cpu-int8" in variants else "cpu-fp32"
        info = BundleInfo(name="prunella", variants=variants, default={"cpu": default})
        info.write(target / bundle_file.FILE)
        told = {name: agreement.model_dump() for name, agreement in agreements.items()}
        (target / "agreement.json").write_text(json.dumps(told, indent=2) + "\n", encoding="utf-8")

    return run_stage(Stage("bundle", VERSION, settings), [source], store, make)


def _chosen(folder: Path, shape: Architecture, bits: Literal[7, 8]) -> Precision:
    """Return the precision that a search left beside the weights, or int8 everywhere."""
    path = folder / precision_file.FILE
    return Precision.read(path) if path.is_file() else Precision.all_int8(shape, bits)


def _write_golden(target: Path, rows: list[Row], variants: dict[str, Variant], tokenizer: Tokenizer) -> None:
    logits = {}
    for name, variant in variants.items():
        answers = _answers(target / variant.file, rows, tokenizer)
        logits[name] = tuple(tuple(float(x) for x in row) for row in answers)
    Golden(rows=tuple(tuple(row) for row in rows), logits=logits).write(target / bundle_file.GOLDEN)


def _answers(path: Path, rows: list[Row], tokenizer: Tokenizer) -> np.ndarray:
    session = open_session(path)
    return np.concatenate([run_session(session, tokenizer.batch([row])) for row in rows])
