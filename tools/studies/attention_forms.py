"""`python -m tools.studies.attention_forms`: the time of MPNet's attention in several forms of ONNX nodes.

Models of MPNet-base's width with random weights, whole or with half of their heads, are written in each form and
timed in turn. All forms give the same answers.
"""

import json
import statistics
import sys
import tempfile
from dataclasses import dataclass
from pathlib import Path
from typing import Annotated

import numpy as np
import onnxruntime as ort
import torch
import typer
from onnx import TensorProto

from bench.measure.latency.timing import interleave, machine_card
from compress.quantization.calibration import calibrate
from compress.quantization.quantize import int8_variant
from export import writer
from export.graph_builder import FUSED
from export.graph_precision import Kind, Precision
from export.layers import Layers, Matrix
from export.mpnet_layers import MPNetLayers
from models.architecture import Architecture, LayerShape, RelativeBias
from models.classifier import Classifier
from models.encoders.mpnet_encoder import distance_classes
from models.tokenizer import TokenBatch
from service.model.engine import run_session
from service.model.session import open_session

POSITIONS, VOCABULARY = 512, 64
LARGEST_DIFFERENCE = 1e-3  # of two forms' logits


@dataclass(frozen=True, slots=True)
class SplitLayers(MPNetLayers):
    """The QKV product and MultiHeadAttention, in fp32 too."""

    def _self_attention(self, hidden: str, matrix: Matrix, index: int, kind: Kind) -> str:
        name, heads = f"layer{index}.attention", self.shape.layers[index].heads
        whole = self.product(hidden, matrix, f"{name}.qkv", kind)
        states = self.graph.split(whole, [f"{name}.{part}" for part in ("query", "key", "value")])
        inputs = [*states, "", "mask", *self.score_bias(index)]
        return self.graph.node("MultiHeadAttention", inputs, name, FUSED, num_heads=heads)


@dataclass(frozen=True, slots=True)
class PlainLayers(MPNetLayers):
    """The QKV product, MatMul, Softmax and MatMul."""

    def prepare(self) -> None:
        """Add the bias of padding, too."""
        MPNetLayers.prepare(self)
        graph = self.graph
        graph.weight("plain.axes", np.array([1, 2], dtype=np.int64))
        real = graph.node("Cast", ["attention_mask"], "plain.real", to=TensorProto.FLOAT)
        padding = graph.node("Sub", [real, graph.weight("plain.one", np.float32(1))], "plain.padding")
        scaled = graph.node("Mul", [padding, graph.weight("plain.large", np.float32(1e9))], "plain.scaled")
        graph.node("Unsqueeze", [scaled, "plain.axes"], "plain.mask")
        graph.weight("plain.scale", np.float32(self.shape.head_size**-0.5))
        graph.weight("plain.joined", np.array([0, 0, -1], dtype=np.int64))

    def _self_attention(self, hidden: str, matrix: Matrix, index: int, kind: Kind) -> str:
        name, heads, graph = f"layer{index}.attention", self.shape.layers[index].heads, self.graph
        sizes = graph.weight(f"{name}.sizes", np.array([0, 0, heads, self.shape.head_size], dtype=np.int64))
        whole = self.product(hidden, matrix, f"{name}.qkv", kind)
        states = []
        for part, order in zip(
            graph.split(whole, [f"{name}.{part}" for part in ("query", "key", "value")]),
            ([0, 2, 1, 3], [0, 2, 3, 1], [0, 2, 1, 3]), strict=True,
        ):  # fmt: skip
            states.append(
                graph.node(
                    "Transpose", [graph.node("Reshape", [part, sizes], f"{part}.heads")], f"{part}.turned", perm=order
                )
            )
        query, key, value = states
        scaled = graph.node("Mul", [query, "plain.scale"], f"{name}.scaled")
        scores = graph.node("MatMul", [scaled, key], f"{name}.products")
        for what, added in (("near", *self.score_bias(index)), ("real", "plain.mask")):
            scores = graph.node("Add", [scores, added], f"{name}.{what}")
        weights = graph.node("Softmax", [scores], f"{name}.weights", axis=-1)
        mixed = graph.node("MatMul", [weights, value], f"{name}.values")
        turned = graph.node("Transpose", [mixed], f"{name}.mixed", perm=[0, 2, 1, 3])
        return graph.node("Reshape", [turned, "plain.joined"], name)


@dataclass(frozen=True, slots=True)
class GatheredLayers(MPNetLayers):
    """The form in use, but each layer gathers its tokens² biases by their class of distance."""

    def prepare(self) -> None:
        """Add the class of each query and key, (tokens, tokens)."""
        MPNetLayers.prepare(self)
        graph = self.graph
        classes = distance_classes(self.shape.positions).numpy()
        graph.weight("gathered.classes", classes)
        for name, value in (("from", 0), ("step", 1), ("middle", self.shape.positions - 1)):
            graph.weight(f"gathered.{name}", np.int64(value))
        for name, axis in (("rows", 1), ("columns", 0)):
            graph.weight(f"gathered.{name}.axis", np.array([axis], dtype=np.int64))
        length = graph.node("Squeeze", ["length"], "gathered.length")
        places = graph.node("Range", ["gathered.from", length, "gathered.step"], "gathered.places")
        rows, columns = (
            graph.node("Unsqueeze", [places, f"gathered.{n}.axis"], f"gathered.{n}") for n in ("rows", "columns")
        )
        distance = graph.node("Sub", [columns, rows], "gathered.distance")
        index = graph.node("Add", [distance, "gathered.middle"], "gathered.index")
        graph.node("Gather", ["gathered.classes", index], "gathered.matrix", axis=0)

    def score_bias(self, index: int) -> tuple[str, ...]:
        """Return the name of the bias of the heads of layer `index`."""
        if self.shape.first_only(index):
            return MPNetLayers.score_bias(self, index)
        table = self.state["encoder.relative.weight"]
        columns = self.state.get(f"encoder.layers.{index}.attention.columns.weight")
        kept = table if columns is None else table[:, columns]
        name = self.graph.weight(f"layer{index}.table", np.ascontiguousarray(kept.T)[None])
        return (self.graph.node("Gather", [name, "gathered.matrix"], f"layer{index}.bias", axis=2),)


FORMS: dict[str, type[Layers]] = {
    "in use": MPNetLayers, "QKV product, MultiHeadAttention": SplitLayers, "MatMul, Softmax": PlainLayers,
    "bias gathered": GatheredLayers,
}  # fmt: skip


def main(
    layers: int = 6, rounds: int = 15, within: Annotated[float, typer.Option(help="seconds for each line")] = 20.0
) -> None:
    """Print the median milliseconds by heads, precision, batch, tokens and form."""
    lines: list[dict[str, object]] = []
    for heads in (12, 6):
        shape = Architecture(
            family="mpnet", vocabulary=VOCABULARY, positions=POSITIONS, token_types=0, width=768, head_size=64,
            layers=(LayerShape(heads=heads, ffn=3072 * heads // 12),) * layers, relative=RelativeBias(heads=12),
        )  # fmt: skip
        torch.manual_seed(0)
        model = Classifier(shape, 2).eval()
        for kind in ("fp32", "int8"):
            lines += _time(model, kind, heads, rounds, within)
    result = {"layers": layers, "milliseconds": lines, "machine": machine_card()}
    sys.stdout.write(json.dumps(result) + "\n")


def _time(model: Classifier, kind: Kind, heads: int, rounds: int, within: float) -> list[dict[str, object]]:
    calibration = [_batch(4, 64)]
    scales = calibrate(model, calibration, smooth=False) if kind == "int8" else None
    lines: list[dict[str, object]] = []
    with tempfile.TemporaryDirectory() as scratch:
        sessions: dict[str, ort.InferenceSession] = {}
        for name, form in FORMS.items():
            path, before = Path(scratch) / f"{len(sessions)}.onnx", writer.LAYERS["mpnet"]
            writer.LAYERS["mpnet"] = form
            try:
                if kind == "fp32":
                    writer.to_onnx(model, path, False)
                else:
                    writer.write_int8(model, path, False, scales, Precision.all_int8(model.architecture))
            finally:
                writer.LAYERS["mpnet"] = before
            sessions[name] = open_session(path, 1, variant=int8_variant() if kind == "int8" else None)
        for rows, tokens in ((1, 16), (1, 64), (16, 64), (1, 256)):
            batch = _batch(rows, tokens)
            answers = [run_session(session, batch) for session in sessions.values()]
            assert max(np.abs(one - answers[0]).max() for one in answers) < LARGEST_DIFFERENCE, "forms disagree"
            calls = {name: lambda s=session, b=batch: run_session(s, b) for name, session in sessions.items()}
            seconds = interleave(calls, rounds, within=within)
            times = {name: round(1e3 * statistics.median(some), 3) for name, some in seconds.items()}
            lines.append({"heads": heads, "precision": kind, "rows": rows, "tokens": tokens, **times})
    return lines


def _batch(rows: int, tokens: int) -> TokenBatch:
    ids = np.random.default_rng(tokens).integers(5, VOCABULARY, (rows, tokens))
    return TokenBatch(ids, np.ones_like(ids), np.zeros_like(ids))


if __name__ == "__main__":
    typer.run(main)
