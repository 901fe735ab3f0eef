"""Tiny bundles, made: fine-tuned for one epoch and converted.

`python tests/bundles.py SOURCE TARGET` makes the empty model of a bundle: what a server costs without one.
"""

import shutil
import sys
from pathlib import Path

import numpy as np
from tiny import make_tiny_checkpoint, tiny_texts

from compress.bundle import BundleConfig, BundleTexts, make_bundle
from models.folder import MANIFEST, Manifest, record_files
from models.task import Task
from models.train.finetune import FinetuneConfig, Splits, finetune
from models.train.loop import TrainingConfig
from service.bundle import FILE, GOLDEN, BundleInfo, Golden


def make_tiny_bundle(store: Path, pair: bool = False) -> Path:
    """Return the folder of a `dynamic` bundle (int8 and fp32) under `store`."""
    encoder = store / "encoder"
    make_tiny_checkpoint(encoder)
    texts = tiny_texts(pair=pair)
    config = FinetuneConfig(max_tokens=32, training=TrainingConfig(epochs=1))
    classifier = finetune(str(encoder), Splits(texts, texts), config, store)
    bundle = BundleConfig(recipe="dynamic", max_loss=100)
    return make_bundle(classifier.folder, BundleTexts.of(texts), bundle, store).folder.path


def copy_with_other_golden_logits(bundle: Path, target: Path) -> Path:
    """Copy a bundle so that it is whole, and its stored logits are 1 away from what its model answers."""
    shutil.copytree(bundle, target)
    golden = Golden.read(target / GOLDEN)
    moved = {name: tuple(tuple(x + 1 for x in row) for row in rows) for name, rows in golden.logits.items()}
    Golden(rows=golden.rows, logits=moved).write(target / GOLDEN)
    manifest = Manifest.read(target / MANIFEST)
    manifest.model_copy(update={"files": record_files(target)}).write(target / MANIFEST)
    return target


def make_empty_model(source: Path, target: Path) -> Path:
    """Copy a bundle so that its default graph takes the same inputs and answers zeros, in three operators."""
    import onnx
    from onnx import TensorProto, helper

    shutil.copytree(source, target)
    info = BundleInfo.read(target / FILE)
    path = target / info.variants[info.default["cpu"]].file
    inputs = list(onnx.load(path).graph.input)
    labels = len(Task.read(target / "task.json").labels)
    zeros = helper.make_tensor("zeros", TensorProto.FLOAT, [1, labels], np.zeros(labels, np.float32))
    nodes = [
        helper.make_node("Cast", [inputs[0].name], ["floats"], to=TensorProto.FLOAT),
        helper.make_node("ReduceMin", ["floats"], ["least"], axes=[1], keepdims=1),
        helper.make_node("MatMul", ["least", "zeros"], ["logits"]),
    ]
    logits = helper.make_tensor_value_info("logits", TensorProto.FLOAT, ["rows", labels])
    graph = helper.make_graph(nodes, "empty", inputs, [logits], [zeros])
    onnx.save(helper.make_model(graph, opset_imports=[helper.make_opsetid("", 17)], ir_version=8), path)
    golden = Golden.read(target / GOLDEN)
    nothing = tuple((0.0,) * labels for _ in golden.rows)
    Golden(rows=golden.rows, logits=dict.fromkeys(golden.logits, nothing)).write(target / GOLDEN)
    manifest = Manifest.read(target / MANIFEST)
    manifest.model_copy(update={"files": record_files(target)}).write(target / MANIFEST)
    return target


if __name__ == "__main__":
    sys.path.insert(0, str(Path(__file__).resolve().parent.parent))
    print(make_empty_model(Path(sys.argv[1]), Path(sys.argv[2])))  # noqa: T201
