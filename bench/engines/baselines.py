"""Other inference engines that run the unpruned classifier: OpenVINO and CTranslate2 (the extra `peers`)."""

import numpy as np
from numpy.typing import NDArray

from bench.measure.engine_spec import EngineSpec, OpenEngine, token_lengths, tokenized
from models.tokenizer import Encoded, Tokenizer


def openvino_engine(spec: EngineSpec) -> OpenEngine:
    """Open NNCF's int8 graph; its quantization scales are static, so answers do not depend on the batch."""
    import openvino

    settings = {"INFERENCE_NUM_THREADS": spec.threads, "NUM_STREAMS": 1, "PERFORMANCE_HINT": "LATENCY"}
    model = openvino.Core().compile_model(spec.folder / spec.file, "CPU", settings)
    names = [i.any_name for i in model.inputs]
    tokenizer = Tokenizer.open(spec.folder, spec.task.max_tokens)

    def answer(encoded: list[Encoded]) -> NDArray[np.float32]:
        batch = tokenizer.pad(encoded)
        arrays = {"input_ids": batch.ids, "attention_mask": batch.mask, "token_type_ids": batch.types}
        return np.asarray(model({name: arrays[name] for name in names})[0])

    graph = spec.folder / spec.file
    files = (graph, graph.with_suffix(".bin"), spec.folder / "tokenizer.json")
    size = sum(path.stat().st_size for path in files)
    return OpenEngine(tokenized(tokenizer), answer, size, batch_dependent=False, lengths=token_lengths)


def ctranslate2_engine(spec: EngineSpec) -> OpenEngine:
    """Open CTranslate2's int8 encoder, which pads batches itself and quantizes activations row by row."""
    import ctranslate2

    encoder = ctranslate2.Encoder(
        str(spec.folder / "model"), compute_type="int8", intra_threads=spec.threads, inter_threads=1
    )
    head = np.load(spec.folder / spec.file, allow_pickle=False)
    weight, bias = head["weight"], head["bias"]
    tokenizer = Tokenizer.open(spec.folder, spec.task.max_tokens)

    def answer(encoded: list[Encoded]) -> NDArray[np.float32]:
        pair = {"token_type_ids": [e.types for e in encoded]} if spec.task.pair else {}
        pooled = np.asarray(encoder.forward_batch([e.ids for e in encoded], **pair).pooler_output)
        return np.asarray(pooled @ weight.T + bias)

    size = sum(p.stat().st_size for p in spec.folder.rglob("*") if p.is_file())
    return OpenEngine(tokenized(tokenizer), answer, size, batch_dependent=False, lengths=token_lengths)
