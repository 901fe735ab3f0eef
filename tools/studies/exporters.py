"""Compare the two exporters of the baseline: optimum, and torch with ONNX Runtime's optimizer; answers and times.

    python -m tools.studies.exporters FOLDER DATA.jsonl

FOLDER is a classifier. Both graphs answer the same texts, one at a time and in turn, in sessions with default
options and one thread. The last line is JSON: the largest difference of a logit, and the median ratio of the times.
"""

import argparse
import json
import sys
import tempfile
import time
from collections.abc import Callable
from pathlib import Path

import numpy as np
import onnxruntime as ort
from numpy.typing import NDArray

from bench.engines.onnx import plain_options
from export.baseline.optimum_export import export_with_optimum
from export.baseline.torch_export import export_with_torch
from models.data.texts import read_texts
from models.processor import cpu_name, has_vnni
from models.tokenizer import Tokenizer
from service.model.engine import run_session

TEXTS, ROUNDS = 64, 15
Answer = Callable[[int], NDArray[np.float32]]


def main() -> None:
    """Export twice, time in turn, print."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("folder", type=Path)
    parser.add_argument("data", type=Path)
    arguments = parser.parse_args()
    tokenizer = Tokenizer.open(arguments.folder, 128)
    batches = [tokenizer.batch([row]) for row in read_texts(arguments.data).rows[:TEXTS]]
    recipe = "avx512_vnni" if has_vnni() else "avx2"
    result: dict[str, object] = {"processor": cpu_name(), "texts": len(batches), "rounds": ROUNDS}
    with tempfile.TemporaryDirectory() as scratch:
        optimum, by_torch = Path(scratch) / "optimum", Path(scratch) / "torch"
        by_torch.mkdir()
        export_with_optimum(arguments.folder, optimum, recipe)
        fp32, int8 = by_torch / "model.onnx", by_torch / "model_quantized.onnx"
        export_with_torch(arguments.folder, fp32, int8, signed=has_vnni())
        for name in ("model.onnx", "model_quantized.onnx"):
            sessions = [ort.InferenceSession(str(f / name), plain_options(1)) for f in (optimum, by_torch)]
            first, second = ([run_session(session, batch) for batch in batches] for session in sessions)
            seconds = np.zeros((ROUNDS, 2, len(batches)))
            for row in seconds:
                for index, batch in enumerate(batches):
                    for which, session in enumerate(sessions):
                        start = time.perf_counter()
                        run_session(session, batch)
                        row[which, index] = time.perf_counter() - start
            rounds = seconds.sum(axis=2)
            result[name] = {
                "largest_difference": float(np.abs(np.array(first) - np.array(second)).max()),
                "optimum_ms": round(float(np.median(rounds[:, 0]) / len(batches) * 1e3), 3),
                "torch_over_optimum": round(float(np.median(rounds[:, 1] / rounds[:, 0])), 3),
                "ratios": [round(float(x), 3) for x in np.quantile(rounds[:, 1] / rounds[:, 0], [0.1, 0.9])],
            }
    sys.stdout.write(json.dumps(result) + "\n")


if __name__ == "__main__":
    main()
