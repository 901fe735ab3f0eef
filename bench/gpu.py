"""`python -m bench.gpu BUNDLE DATA`: a bundle on a GPU: what it answers there, and how fast, beside other ways.

What is timed starts at token ids and ends at logits in the processor's memory, padding and copies included.
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
    from models.tokens import Encoded, TokenBatch
    from service.bundle import Bundle
    from service.engine import Engine

Answer = Callable[[Sequence["Encoded"]], NDArray[np.float32]]
TOGETHER = 64  # texts of a batch where answers are compared
OURS, FP32, PROCESSOR, TORCH = "gpu_fp16", "gpu_fp32", "cpu", "pytorch_fp16"
ROUNDS = 21
MOST_ON_PROCESSOR = 32  # texts at once that the processor is timed with: more take it minutes


def main(
    bundle: Path,
    data: str,
    classifier: Annotated[Path | None, typer.Option(help="the same model's folder, for PyTorch's row")] = None,
    batch: Annotated[str, typer.Option(help="texts at once")] = "1,8,32,128,512",
    device: Annotated[str, typer.Option(help="cuda, cuda:1, tensorrt; cpu to try the command")] = "cuda",
) -> None:
    """Open every form of the bundle on the device, compare answers row by row, and time them in turn."""
    from models.data.texts import read_texts
    from service.bundle import Bundle
    from service.engine import Engine
    from service.runtime import RuntimeSettings

    opened, texts = Bundle.open(bundle), read_texts(data)
    variant = opened.info.default.get("cuda") if device == "cpu" else None
    ours = Engine.open(opened, RuntimeSettings(device=device, require_device=True, variant=variant))
    ours.self_check()
    answers = forms(opened, ours, classifier, device)
    encoded = ours.encode(texts.rows)
    first = ours.tokenizer.pad(encoded[:1])
    told: dict[str, Any] = {"bundle": opened.id, "device": ours.choice.got, "variant": ours.variant_name}
    told["providers"] = ours.session.get_providers()
    told["nodes_by_provider"] = dict(placed(opened.onnx_path(ours.variant_name), device, first))
    told["rows"], told["mean_tokens"] = len(encoded), round(float(np.mean([len(e.ids) for e in encoded])), 1)
    told["answers"] = agreement(answers, encoded, texts.targets(opened.task) if texts.labels is not None else None)
    told["timings"] = [timed(answers, encoded, int(size)) for size in batch.split(",")]
    sys.stdout.write(json.dumps(told) + "\n")


def forms(bundle: "Bundle", ours: "Engine", classifier: Path | None, device: str) -> dict[str, Answer]:
    """Return what answers, by name: ours, the fp32 graph on the same device, the processor's form, PyTorch's."""
    from service.engine import Engine, run_session
    from service.runtime import RuntimeSettings, open_session

    session = open_session(bundle.onnx_path("cpu-fp32"), device=device)
    processor = Engine.open(bundle, RuntimeSettings(device="cpu"))

    def in_fp32(rows: Sequence["Encoded"]) -> NDArray[np.float32]:
        return run_session(session, ours.tokenizer.pad(rows))

    found: dict[str, Answer] = {OURS: ours.infer, FP32: in_fp32, PROCESSOR: processor.infer}
    return found if classifier is None else {**found, TORCH: torch_half(classifier, ours, device)}


def torch_half(folder: Path, ours: "Engine", device: str) -> Answer:
    """Return how our module answers in PyTorch, eager, in fp16 with torch's fused attention; processors: fp32."""
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
    """Return how many nodes each provider runs, by ONNX Runtime's profiler: those on the processor cost copies."""
    from bench.operators import kernel_events
    from service.runtime import PROVIDERS

    wanted = dict.fromkeys([PROVIDERS[device.partition(":")[0]], PROVIDERS["cpu"]])
    events = kernel_events(path, [batch], providers=list(wanted))
    return Counter(event["args"].get("provider", "unknown") for event in events)


def agreement(
    answers: dict[str, Answer], encoded: Sequence["Encoded"], truth: NDArray[Any] | None
) -> dict[str, dict[str, float]]:
    """Return, by name, how far answers in batches are from the fp32 graph's and from the same form's of a text alone.

    Single-label tasks: flips are rows whose highest logit is another.
    """
    sized = sorted(range(len(encoded)), key=lambda i: len(encoded[i].ids))
    found: dict[str, NDArray[np.float32]] = {}
    told: dict[str, dict[str, float]] = {}
    for name, answer in answers.items():
        parts = [answer([encoded[i] for i in sized[at : at + TOGETHER]]) for at in range(0, len(sized), TOGETHER)]
        found[name] = np.concatenate(parts)[np.argsort(sized)]
        alone = np.concatenate([answer([one]) for one in encoded[:TOGETHER]])
        told[name] = {"alone_in_batch": float(np.abs(found[name][:TOGETHER] - alone).max())}
        if truth is not None and truth.ndim == 1:
            told[name]["accuracy"] = float((found[name].argmax(1) == truth).mean())
    for name, logits in found.items():
        told[name]["max_difference"] = float(np.abs(logits - found[FP32]).max())
        told[name]["flips"] = int((logits.argmax(1) != found[FP32].argmax(1)).sum())
    return told


def timed(answers: dict[str, Answer], encoded: Sequence["Encoded"], size: int) -> dict[str, Any]:
    """Return, by name, median and quartiles of milliseconds for `size` texts, and texts a second, taken in turn."""
    from bench.timing import interleave

    chosen = np.random.default_rng(0).integers(0, len(encoded), (8, size))  # eight batches of texts drawn at random
    batches = [[encoded[i] for i in rows] for rows in chosen]
    calls = {
        name: (lambda answer=answer: [answer(rows) for rows in batches])
        for name, answer in answers.items()
        if name != PROCESSOR or size <= MOST_ON_PROCESSOR
    }
    told: dict[str, Any] = {"batch": size}
    for name, seconds in interleave(calls, ROUNDS, within=20.0).items():
        low, middle, high = np.percentile(np.array(seconds) / len(batches), [25, 50, 75])
        told[name] = {"ms": middle * 1e3, "quartiles_ms": [low * 1e3, high * 1e3], "texts_per_second": size / middle}
    return told


if __name__ == "__main__":
    typer.run(main)
