"""Other engines that answer the unpruned classifier: OpenVINO, CTranslate2, compiled PyTorch (the extra `peers`)."""

import numpy as np
from numpy.typing import NDArray

from bench.engines import EngineSpec, OpenEngine, tokenized
from export import peers
from models.tokens import Encoded, Tokenizer


def openvino_engine(spec: EngineSpec) -> OpenEngine:
    """Open NNCF's int8 graph; static scales, so batch mates do not matter."""
    import openvino

    settings = {"INFERENCE_NUM_THREADS": spec.threads, "NUM_STREAMS": 1, "PERFORMANCE_HINT": "LATENCY"}
    model = openvino.Core().compile_model(spec.folder / peers.OPENVINO, "CPU", settings)
    names = [i.any_name for i in model.inputs]
    tokenizer = Tokenizer.open(spec.folder, spec.task.max_tokens)

    def answer(encoded: list[Encoded]) -> NDArray[np.float32]:
        batch = tokenizer.pad(encoded)
        arrays = {"input_ids": batch.ids, "attention_mask": batch.mask, "token_type_ids": batch.types}
        return np.asarray(model({name: arrays[name] for name in names})[0])

    files = ("openvino.xml", "openvino.bin", "tokenizer.json")
    size = sum((spec.folder / name).stat().st_size for name in files)
    return OpenEngine(tokenized(tokenizer), answer, size, mates_matter=False)


def ctranslate2_engine(spec: EngineSpec) -> OpenEngine:
    """Open CTranslate2's int8 encoder; it pads by itself, and quantizes activations row by row."""
    import ctranslate2

    encoder = ctranslate2.Encoder(
        str(spec.folder / "model"), compute_type="int8", intra_threads=spec.threads, inter_threads=1
    )
    head = np.load(spec.folder / peers.HEAD, allow_pickle=False)
    weight, bias = head["weight"], head["bias"]
    tokenizer = Tokenizer.open(spec.folder, spec.task.max_tokens)

    def answer(encoded: list[Encoded]) -> NDArray[np.float32]:
        pair = {"token_type_ids": [e.types for e in encoded]} if spec.task.pair else {}
        pooled = np.asarray(encoder.forward_batch([e.ids for e in encoded], **pair).pooler_output)
        return np.asarray(pooled @ weight.T + bias)

    size = sum(p.stat().st_size for p in spec.folder.rglob("*") if p.is_file())
    return OpenEngine(tokenized(tokenizer), answer, size, mates_matter=False)


def torch_compile_engine(spec: EngineSpec) -> OpenEngine:
    """Open transformers' model through torch.compile with dynamic shapes; needs a C++ compiler."""
    import torch
    from transformers import AutoModelForSequenceClassification

    torch.set_num_threads(spec.threads)
    model = AutoModelForSequenceClassification.from_pretrained(spec.folder).eval()
    compiled = torch.compile(model, dynamic=True)
    tokenizer = Tokenizer.open(spec.folder, spec.task.max_tokens)

    def answer(encoded: list[Encoded]) -> NDArray[np.float32]:
        batch = tokenizer.pad(encoded)
        arrays = [torch.from_numpy(a) for a in (batch.ids, batch.mask, batch.types)]
        with torch.inference_mode():
            logits = compiled(  # type: ignore[no-untyped-call]
                input_ids=arrays[0], attention_mask=arrays[1], token_type_ids=arrays[2]
            ).logits
        return np.asarray(logits.numpy())

    first = [Encoded([1] * n, [0] * n) for n in (8, 12)]
    for example in (first[:1], first):  # compiles for batch 1, then for any
        answer(example)
    size = sum((spec.folder / name).stat().st_size for name in ("model.safetensors", "tokenizer.json"))
    return OpenEngine(tokenized(tokenizer), answer, size, mates_matter=False)
