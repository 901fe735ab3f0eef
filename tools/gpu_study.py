"""`python -m tools.gpu_study BUNDLE DATA`: accuracy and speed of a bundle on a GPU, compared with other runtimes.

The time starts at token ids and ends at logits in the CPU's memory, padding and copies included.
"""

import json
import sys
from collections import Counter
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any

import numpy as np
import typer
from numpy.typing import NDArray

if TYPE_CHECKING:
    from models.tokenizer import Encoded, TokenBatch
    from service.model.bundle import Bundle
    from service.model.engine import Engine

Answer = Callable[[Sequence["Encoded"]], NDArray[np.float32]]
BATCH = 64  # texts of a batch when answers are compared
OURS, FP32, PROCESSOR, TORCH = "gpu_fp16", "gpu_fp32", "cpu", "pytorch_fp16"
ROUNDS = 21
MOST_ON_PROCESSOR = 32  # largest batch that is timed on the CPU: larger ones take minutes


def main(
    bundle: Path,
    data: str,
    classifier: Annotated[
        Path | None, typer.Option(help="classifier folder of the same model, to compare with PyTorch")
    ] = None,
    batch: Annotated[str, typer.Option(help="batch sizes")] = "1,8,32,128,512",
    device: Annotated[str, typer.Option(help="cuda, cuda:1, tensorrt; cpu to test the command")] = "cuda",
) -> None:
    """Open the variants of the bundle, compare their answers row by row, and time them in turn."""
    from models.data.texts import read_texts
    from service.model.bundle import Bundle
    from service.model.engine import Engine
    from service.model.session import RuntimeSettings

    opened, texts = Bundle.open(bundle), read_texts(data)
    variant = opened.info.default.get("cuda") if device == "cpu" else None
    ours = Engine.open(opened, RuntimeSettings(device=device, require_device=True, variant=variant))
    ours.self_check()
    answers = forms(opened, ours, classifier, device)
    encoded = ours.encode(texts.rows)
    first = ours.tokenizer.pad(encoded[:1])
    result: dict[str, Any] = {"bundle": opened.id, "device": ours.choice.got, "variant": ours.variant_name}
    result["providers"] = ours.session.get_providers()
    result["nodes_by_provider"] = dict(placed(opened.onnx_path(ours.variant_name), device, first))
    result["rows"], result["mean_tokens"] = len(encoded), round(float(np.mean([len(e.ids) for e in encoded])), 1)
    result["answers"] = agreement(answers, encoded, texts.targets(opened.task) if texts.labels is not None else None)
    result["timings"] = [timed(answers, encoded, int(size)) for size in batch.split(",")]
    sys.stdout.write(json.dumps(result) + "\n")


def forms(bundle: "Bundle", ours: "Engine", classifier: Path | None, device: str) -> dict[str, Answer]:
    """Return the models to compare, by name: ours, its fp32 graph on the same device, the CPU variant, PyTorch."""
    from service.model.engine import Engine, run_session
    from service.model.session import RuntimeSettings, open_session

    session = open_session(bundle.onnx_path("cpu-fp32"), device=device)
    processor = Engine.open(bundle, RuntimeSettings(device="cpu"))

    def in_fp32(rows: Sequence["Encoded"]) -> NDArray[np.float32]:
        return run_session(session, ours.tokenizer.pad(rows))

    models: dict[str, Answer] = {OURS: ours.infer, FP32: in_fp32, PROCESSOR: processor.infer}
    return models if classifier is None else {**models, TORCH: torch_half(classifier, ours, device)}


def torch_half(folder: Path, ours: "Engine", device: str) -> Answer:
    """Return our PyTorch model, eager, in fp16 with torch's fused attention; in fp32 on a CPU."""
    import torch

    from models.checkpoint import load_checkpoint
    from models.classifier import TensorBatch

    model = load_checkpoint(folder).eval().to(device)
    model = model if device == "cpu" else model.half()

    def answer(rows: Sequence["Encoded"]) -> NDArray[np.float32]:
        with torch.inference_mode():
            return np.asarray(model(TensorBatch(ours.tokenizer.pad(rows), device))[0].float().cpu().numpy())

    return answer


def placed(path: Path, device: str, batch: "TokenBatch") -> Counter[str]:
    """Count the nodes of each execution provider with ONNX Runtime's profiler; nodes on the CPU need copies."""
    from bench.measure.latency.operator_profile import kernel_events
    from service.model.session import PROVIDERS

    providers = dict.fromkeys([PROVIDERS[device.partition(":")[0]], PROVIDERS["cpu"]])
    events = kernel_events(path, [batch], providers=list(providers))
    return Counter(event["args"].get("provider", "unknown") for event in events)


def agreement(
    answers: dict[str, Answer], encoded: Sequence["Encoded"], truth: NDArray[Any] | None
) -> dict[str, dict[str, float]]:
    """Compare the logits of each model in batches with those of the fp32 graph, and with those of single texts.

    For single-label tasks, flips are rows whose highest logit is that of another label.
    """
    by_length = sorted(range(len(encoded)), key=lambda i: len(encoded[i].ids))
    logits: dict[str, NDArray[np.float32]] = {}
    result: dict[str, dict[str, float]] = {}
    for name, answer in answers.items():
        parts = [answer([encoded[i] for i in by_length[at : at + BATCH]]) for at in range(0, len(encoded), BATCH)]
        logits[name] = np.concatenate(parts)[np.argsort(by_length)]
        single = np.concatenate([answer([text]) for text in encoded[:BATCH]])
        result[name] = {"alone_in_batch": float(np.abs(logits[name][:BATCH] - single).max())}
        if truth is not None and truth.ndim == 1:
            result[name]["accuracy"] = float((logits[name].argmax(1) == truth).mean())
    for name, values in logits.items():
        result[name]["max_difference"] = float(np.abs(values - logits[FP32]).max())
        result[name]["flips"] = int((values.argmax(1) != logits[FP32].argmax(1)).sum())
    return result


def timed(answers: dict[str, Answer], encoded: Sequence["Encoded"], size: int) -> dict[str, Any]:
    """Time batches of `size` texts; return median and quartiles in milliseconds, and texts per second, by name."""
    from bench.measure.latency.timing import interleave

    chosen = np.random.default_rng(0).integers(0, len(encoded), (8, size))  # eight batches of texts drawn at random
    batches = [[encoded[i] for i in rows] for rows in chosen]
    calls = {
        name: (lambda answer=answer: [answer(rows) for rows in batches])
        for name, answer in answers.items()
        if name != PROCESSOR or size <= MOST_ON_PROCESSOR
    }
    result: dict[str, Any] = {"batch": size}
    for name, seconds in interleave(calls, ROUNDS, within=20.0, threads=0).items():
        low, median, high = np.percentile(np.array(seconds) / len(batches), [25, 50, 75])
        result[name] = {
            "ms": median * 1e3,
            "quartiles_ms": [low * 1e3, high * 1e3],
            "texts_per_second": size / median,
        }
    return result


if __name__ == "__main__":
    typer.run(main)
