"""Tiny bundles, made: fine-tuned for one epoch and converted.

`python tests/bundles.py SOURCE TARGET` makes the empty model of a bundle: what a server costs without one.
"""

import shutil
import sys
from pathlib import Path
from typing import Literal

import numpy as np
from tiny import make_tiny_checkpoint, tiny_texts

from compress.make_bundle import BundleConfig, BundleTexts, make_bundle
from models import architecture
from models.architecture import Architecture
from models.finetuning.finetune import FinetuneConfig, Splits, finetune
from models.store.folder import MANIFEST, Manifest, record_files
from models.task import Task
from models.tokenizer import Tokenizer
from models.train.loop import TrainingConfig
from service.model.bundle import FILE, GOLDEN, Bundle, BundleInfo, Golden
from service.model.engine import Engine
from service.model.session import RuntimeSettings


def make_tiny_bundle(store: Path, pair: bool = False, recipe: Literal["static", "dynamic"] = "static") -> Path:
    """Return the folder of a bundle (int8 and fp32) under `store`; static int8 is what `compress` makes."""
    encoder = store / "encoder"
    make_tiny_checkpoint(encoder)
    texts = tiny_texts(pair=pair)
    config = FinetuneConfig(max_tokens=32, training=TrainingConfig(epochs=1))
    classifier = finetune(str(encoder), Splits(texts, texts), config, store)
    bundle = BundleConfig(recipe=recipe, max_loss=100)
    return make_bundle(classifier.folder, BundleTexts.of(texts), bundle, store).folder.path


def copy_with_note(bundle: Path, target: Path, note: str) -> str:
    """Copy a bundle with one file more, so that it answers the same and has another id, which is returned."""
    shutil.copytree(bundle, target)
    (target / "note.txt").write_text(note, encoding="utf-8")
    manifest = Manifest.read(target / MANIFEST).model_copy(update={"files": record_files(target)})
    manifest.model_copy(update={"id": manifest.content_id()}).write(target / MANIFEST)
    return manifest.content_id()


def copy_with_other_golden_logits(bundle: Path, target: Path) -> Path:
    """Copy a bundle so that it is whole, and its stored logits are 1 away from what its model answers."""
    shutil.copytree(bundle, target)
    golden = Golden.read(target / GOLDEN)
    moved = {name: tuple(tuple(x + 1 for x in row) for row in rows) for name, rows in golden.logits.items()}
    Golden(rows=golden.rows, logits=moved).write(target / GOLDEN)
    return sign(target)


def make_empty_model(source: Path, target: Path) -> Path:
    """Copy a bundle so that its default graph takes the same inputs and answers zeros, in three operators."""
    from onnx import TensorProto, helper

    labels = len(Task.read(source / "task.json").labels)
    zeros = helper.make_tensor("zeros", TensorProto.FLOAT, [1, labels], np.zeros(labels, np.float32))
    nodes = [
        helper.make_node("Cast", ["input_ids"], ["floats"], to=TensorProto.FLOAT),
        helper.make_node("ReduceMin", ["floats"], ["least"], axes=[1], keepdims=1),
        helper.make_node("MatMul", ["least", "zeros"], ["logits"]),
    ]
    return _with_graph(source, target, nodes, [zeros])


def make_fixed_model(source: Path, target: Path, task: Task) -> Path:
    """Copy a bundle so that it has another task and answers every text the same on every processor.

    A row of logits is the sum of those of its tokens, which are multiples of 1/64.
    """
    changed = target.with_name(target.name + "-task")
    shutil.copytree(source, changed)
    task.write(changed / "task.json")
    shape = Architecture.read(changed / architecture.FILE)
    shape.model_copy(update={"positions": 512}).write(changed / architecture.FILE)  # the graph has no positions
    known = Tokenizer.open(source, task.max_tokens).vocabulary
    return make_failing_model(changed, target, known, nan=None)


def make_failing_model(source: Path, target: Path, known: int, nan: int | None) -> Path:
    """Copy a bundle so that its default graph adds up a row of logits for each token.

    It fails, as an ONNX graph does, on ids from `known` on; token `nan` makes the answer NaN.
    """
    from onnx import TensorProto, helper

    labels = len(Task.read(source / "task.json").labels)
    table = (np.random.default_rng(0).integers(-64, 64, (known, labels)) / 64).astype(np.float32)  # sums are exact
    if nan is not None:
        table[nan] = np.nan
    weights = helper.make_tensor("table", TensorProto.FLOAT, table.shape, table)
    axes = helper.make_tensor("axes", TensorProto.INT64, [1], [1])
    nodes = [
        helper.make_node("Gather", ["table", "input_ids"], ["rows"]),
        helper.make_node("Cast", ["attention_mask"], ["mask"], to=TensorProto.FLOAT),
        helper.make_node("Unsqueeze", ["mask", "last"], ["column"]),
        helper.make_node("Mul", ["rows", "column"], ["real"]),
        helper.make_node("ReduceSum", ["real", "axes"], ["logits"], keepdims=0),
    ]
    last = helper.make_tensor("last", TensorProto.INT64, [1], [2])
    return _with_graph(source, target, nodes, [weights, axes, last])


def _with_graph(source: Path, target: Path, nodes: list, weights: list) -> Path:
    """Copy a bundle with another default graph, which answers its golden texts as they are stored."""
    import onnx
    from onnx import TensorProto, helper

    shutil.copytree(source, target)
    info = BundleInfo.read(target / FILE)
    path = target / info.variants[info.default["cpu"]].file
    labels = len(Task.read(target / "task.json").labels)
    logits = helper.make_tensor_value_info("logits", TensorProto.FLOAT, ["rows", labels])
    graph = helper.make_graph(nodes, "made", list(onnx.load(path).graph.input), [logits], weights)
    onnx.save(helper.make_model(graph, opset_imports=[helper.make_opsetid("", 17)], ir_version=8), path)
    sign(target)
    engine = Engine.open(Bundle.open(target), RuntimeSettings(device="cpu"))
    golden = Golden.read(target / GOLDEN)
    found = tuple(tuple(row) for row in engine.logits(golden.rows).tolist())
    Golden(rows=golden.rows, logits=dict.fromkeys(golden.logits, found)).write(target / GOLDEN)
    return sign(target)


def sign(bundle: Path) -> Path:
    """Write the manifest of a bundle whose files were changed."""
    manifest = Manifest.read(bundle / MANIFEST)
    manifest.model_copy(update={"files": record_files(bundle)}).write(bundle / MANIFEST)
    return bundle


if __name__ == "__main__":
    sys.path.insert(0, str(Path(__file__).resolve().parent.parent))
    print(make_empty_model(Path(sys.argv[1]), Path(sys.argv[2])))  # noqa: T201
