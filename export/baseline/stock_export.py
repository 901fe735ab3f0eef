"""stock_export(): the full model as ONNX in fp32 and dynamic int8, without our own graphs: the baseline of reports.

optimum exports it, with its default settings; where optimum cannot, `export.baseline.torch_export` does, and says so.
"""

import shutil
from importlib.metadata import version
from pathlib import Path

from export.baseline.optimum_export import export_with_optimum, optimum_problem, quiet
from export.baseline.torch_export import export_with_torch
from models import tokenizer as tokenizer_file
from models.architecture import Architecture
from models.checkpoint import read_architecture
from models.errors import InputError
from models.messages import say
from models.processor import has_vnni
from models.store.folder import ModelFolder
from models.store.stage import Stage, StageResult, run_stage

VERSION = 2
FP32, INT8 = "model.onnx", "model_quantized.onnx"


def check_stock(source: ModelFolder) -> None:
    """Raise an error if optimum cannot export the model; called before any long work.

    Raises:
        InputError: the model was pruned to a shape that transformers cannot load.
    """
    shape: Architecture = read_architecture(source.path)
    if not shape.is_uniform():
        raise InputError(
            f"{source.path} is pruned already ({shape.summary()}), and optimum exports only models that transformers "
            "can load: give the classifier that it was pruned from"
        )


def stock_export(source: ModelFolder, store: Path) -> StageResult:
    """Export `source` in fp32 and in dynamic int8 for this CPU, and return the stage's folder.

    The setting `exporter` of its manifest names what made it ("optimum-onnx 0.1.0", "torch 2.13.0").

    Raises:
        InputError: the model was pruned to a shape that transformers cannot load.
    """
    check_stock(source)
    recipe = "avx512_vnni" if has_vnni() else "avx2"
    problem = optimum_problem(read_architecture(source.path))
    if problem is not None:
        say(f"the baseline is exported by torch, not by optimum: {problem}")
    name = "optimum-onnx" if problem is None else "torch"
    settings = {"exporter": f"{name} {version(name)}", "recipe": recipe}

    def make(target: Path) -> None:
        if problem is None:
            export_with_optimum(source.path, target, recipe)
        else:
            with quiet():
                export_with_torch(source.path, target / FP32, target / INT8, signed=has_vnni())
        shutil.copyfile(source.path / tokenizer_file.FILE, target / tokenizer_file.FILE)

    return run_stage(Stage("stock", VERSION, settings), [source], store, make)


def exporter(source: ModelFolder) -> str:
    """Return what `stock_export` exports `source` with: "optimum" or "torch"."""
    return "torch" if optimum_problem(read_architecture(source.path)) else "optimum"
