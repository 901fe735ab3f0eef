"""`python -m tools.studies.deberta`: time forms of DeBERTa's graph, and optimum's export, on a random model.

The model has the shape of DeBERTa-v3-base, but few tokens in its vocabulary: a lookup takes no time. All graphs
answer one text on one thread, in turn, and their largest difference from transformers is printed with their times.
"""

import json
import sys
import tempfile
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any

import numpy as np
import typer
from numpy.typing import NDArray
from onnx import TensorProto

from bench.measure.latency.timing import interleave
from export import writer
from export.deberta_layers import DebertaLayers
from export.graph_builder import FUSED
from models.processor import cpu_name

if TYPE_CHECKING:
    from models.tokenizer import TokenBatch

Floats = NDArray[np.float32]
VOCABULARY, HEAD_SIZE = 1000, 64
SECONDS = 40.0  # for each length


class WholeTableLayers(DebertaLayers):
    """Tokens are multiplied with all positions, as in transformers, not only with those of their text's length."""

    def prepare(self) -> None:
        """Add indices that count from the first position of the table."""
        DebertaLayers.prepare(self)
        begin = self.graph.node("Cast", ["places.begin"], "whole.begin", to=TensorProto.INT32)
        for heads in sorted({layer.heads for layer in self.shape.layers[:-1]}):
            for part in ("c2p", "p2c"):
                self.graph.node("Add", [f"index.{heads}.{part}", begin], f"whole.{heads}.{part}")

    def _scores(self, states: str, table: str, index: str, name: str) -> str:
        product = self.graph.node("FusedMatMul", [states, table], f"{name}.products", FUSED, transB=1)
        return self.graph.node("GatherElements", [product, f"whole.{index}"], f"{name}.scores", axis=3)


class SkewedLayers(DebertaLayers):
    """The scores are found by a reshape that skews the products (Huang et al. 2018), not by an index.

    A row is multiplied with a position for each of 2n distances. Column c of row i is the distance n - 1 - c, so the
    score of query i and key j is in column n - 1 - i + j, element (n - 1) + i · (2n - 1) + j of the flat matrix. For
    p2c, rows are keys, and distances ascend.
    """

    def prepare(self) -> None:
        """Add the rows of the table for 2n distances, and the bounds that skew a matrix."""
        graph, rows = self.graph, self._rows()
        for name, values in (("one", [1]), ("two", [2]), ("axis2", [2]), ("axis3", [3]), ("same", [0, 0])):
            graph.weight(f"skew.{name}", np.array(values, dtype=np.int64))
        graph.weight("skew.most", np.array([self.shape.positions], dtype=np.int64))
        graph.weight("skew.flat", np.array([0, 0, -1], dtype=np.int64))
        begin = graph.node("Sub", ["skew.most", "length"], "skew.begin")
        columns = graph.node("Mul", ["length", "skew.two"], "skew.columns")
        end = graph.node("Add", [begin, columns], "skew.end")
        for part, ordered in (("c2p", rows[::-1]), ("p2c", rows)):
            padded = graph.weight(f"skew.{part}.all", np.append(ordered, ordered[-1]))
            graph.node("Slice", [padded, begin, end, "zero"], f"skew.{part}")
        width = graph.node("Sub", [columns, "skew.one"], "skew.width")
        first = graph.node("Sub", ["length", "skew.one"], "skew.first")
        graph.node("Add", [first, graph.node("Mul", ["length", width], "skew.size")], "skew.last")
        graph.node("Concat", ["skew.same", "length", width], "skew.shape", axis=0)

    def _scores(self, states: str, table: str, index: str, name: str) -> str:
        graph = self.graph
        used = graph.node("Gather", [table, f"skew.{index.rpartition('.')[2]}"], f"{name}.used", axis=1)
        product = graph.node("FusedMatMul", [states, used], f"{name}.products", FUSED, transB=1)
        flat = graph.node("Reshape", [product, "skew.flat"], f"{name}.flat")
        cut = graph.node("Slice", [flat, "skew.first", "skew.last", "skew.axis2"], f"{name}.cut")
        skewed = graph.node("Reshape", [cut, "skew.shape"], f"{name}.skewed")
        return graph.node("Slice", [skewed, "zero", "length", "skew.axis3"], f"{name}.scores")


FORMS: dict[str, type[DebertaLayers]] = {
    "ours": DebertaLayers, "whole table": WholeTableLayers, "skewed": SkewedLayers
}  # fmt: skip


def main(
    layers: Annotated[int, typer.Option(min=1)] = 12,
    width: Annotated[int, typer.Option(min=HEAD_SIZE, help=f"a multiple of {HEAD_SIZE}")] = 768,
    tokens: Annotated[list[int], typer.Option(help="lengths of a text")] = [16, 64, 256],  # noqa: B006
    rounds: Annotated[int, typer.Option(min=1)] = 40,
) -> None:
    """Print milliseconds for each graph and length, and the largest difference of each graph's logits.

    On a busy machine the fastest rounds are less disturbed than the medians.
    """
    from service.model.engine import run_session
    from service.model.session import open_session

    with tempfile.TemporaryDirectory() as scratch:
        theirs, graphs = make_graphs(Path(scratch), layers, width)
        sessions = {name: open_session(path) for name, path in graphs.items()}
        result: dict[str, Any] = {"processor": cpu_name(), "median_ms": {}, "fastest_ms": {}}
        result["difference"] = dict.fromkeys(sessions, 0.0)
        for length in tokens:
            batch = _batch(length)
            wanted = theirs(batch)
            for name, session in sessions.items():
                moved = float(np.abs(run_session(session, batch) - wanted).max())
                result["difference"][name] = max(result["difference"][name], moved)
            calls = {name: lambda s=session, b=batch: run_session(s, b) for name, session in sessions.items()}
            seconds = interleave(calls, rounds, within=SECONDS)
            for key, statistic in (("median_ms", np.median), ("fastest_ms", np.min)):
                result[key][length] = {n: round(1e3 * float(statistic(times)), 2) for n, times in seconds.items()}
    sys.stdout.write(json.dumps(result) + "\n")


def make_graphs(folder: Path, layers: int, width: int) -> tuple[Any, dict[str, Path]]:
    """Write a random model as the graphs to compare; return its answers in transformers, and the files by name."""
    import torch
    from optimum.exporters.onnx import onnx_export_from_model
    from optimum.onnxruntime import ORTQuantizer
    from optimum.onnxruntime.configuration import AutoQuantizationConfig
    from transformers import DebertaV2Config, DebertaV2ForSequenceClassification

    from compress.quantization.calibration import calibrate
    from export.baseline.optimum_export import quiet
    from models.checkpoint import load_checkpoint

    torch.manual_seed(0)
    config = DebertaV2Config(
        vocab_size=VOCABULARY, hidden_size=width, num_hidden_layers=layers, num_attention_heads=width // HEAD_SIZE,
        intermediate_size=4 * width, relative_attention=True, position_buckets=256, norm_rel_ebd="layer_norm",
        share_att_key=True, pos_att_type="p2c|c2p", position_biased_input=False,
    )  # fmt: skip
    model = DebertaV2ForSequenceClassification(config).eval()
    model.save_pretrained(folder / "model")
    ours, graphs = load_checkpoint(folder / "model"), {}
    for name, form in FORMS.items():
        graphs[name] = folder / f"{name}.onnx"
        writer.LAYERS["deberta-v2"] = form
        writer.to_onnx(ours, graphs[name], pair=False)
    writer.LAYERS["deberta-v2"] = DebertaLayers
    graphs["ours int8"] = folder / "int8.onnx"
    scales = calibrate(ours, [_batch(length) for length in (16, 48, 64)])
    writer.write_int8(ours, graphs["ours int8"], False, scales)
    with quiet():
        onnx_export_from_model(model, folder / "optimum", task="text-classification")
        settings = AutoQuantizationConfig.avx2(is_static=False, per_channel=False)
        ORTQuantizer.from_pretrained(folder / "optimum", "model.onnx").quantize(settings, save_dir=folder / "optimum")
    graphs |= {"optimum": folder / "optimum/model.onnx", "optimum int8": folder / "optimum/model_quantized.onnx"}

    def answer(batch: "TokenBatch") -> Floats:
        with torch.inference_mode():
            logits = model(torch.from_numpy(batch.ids), attention_mask=torch.from_numpy(batch.mask)).logits
        return np.asarray(logits.numpy(), dtype=np.float32)

    return answer, graphs


def _batch(length: int) -> "TokenBatch":
    from models.tokenizer import TokenBatch

    ids = np.random.default_rng(length).integers(5, VOCABULARY, (1, length))
    return TokenBatch(ids, np.ones_like(ids), np.zeros_like(ids))


if __name__ == "__main__":
    typer.run(main)
