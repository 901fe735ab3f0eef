"""Engines on ONNX Runtime: ours in a session as the service opens it, optimum's graphs in a default session."""

from collections.abc import Sequence
from pathlib import Path

import numpy as np
import onnxruntime as ort
from numpy.typing import NDArray

from bench.measure.engine_spec import EngineSpec, OpenEngine, token_lengths, tokenized
from models.errors import InputError
from models.tokenizer import Encoded, Tokenizer
from service.cascade.gate import gate_answers
from service.model.bundle import Bundle
from service.model.engine import Engine, run_session
from service.model.session import PROVIDERS, RuntimeSettings, open_session


def our_engine(spec: EngineSpec) -> OpenEngine:
    """Open a bundle."""
    bundle = Bundle.open(spec.folder)
    engine = Engine.open(bundle, RuntimeSettings(device="cpu", threads=spec.threads))
    size = bundle.served_bytes(engine.variant_name)
    return OpenEngine(tokenized(engine.tokenizer), engine.infer, size, batch_dependent=False, lengths=token_lengths)


def cascade_engine(spec: EngineSpec) -> OpenEngine:
    """Open a bundle with its gate: the texts of a batch that the gate does not answer are one batch of the model."""
    bundle = Bundle.open(spec.folder)
    engine, gate = Engine.open(bundle, RuntimeSettings(device="cpu", threads=spec.threads)), bundle.gate
    if gate is None:
        raise InputError(f"{spec.folder} has no gate: run `prunella cascade`")

    def answer(encoded: Sequence[Encoded]) -> NDArray[np.float32]:
        easy = gate_answers(gate, encoded)
        logits = np.empty((len(encoded), len(bundle.task.labels)), dtype=np.float32)
        for i, row in easy.items():
            logits[i] = row
        if len(easy) < len(encoded):
            hard = [i for i in range(len(encoded)) if i not in easy]
            logits[hard] = engine.infer([encoded[i] for i in hard])
        return logits

    size = bundle.served_bytes(engine.variant_name) + gate.table.nbytes
    return OpenEngine(tokenized(engine.tokenizer), answer, size, batch_dependent=False, lengths=token_lengths)


def stock_engine(spec: EngineSpec) -> OpenEngine:
    """Open one of optimum's graphs with ONNX Runtime's default options; a batch is padded to its longest text."""
    file = spec.folder / spec.file
    session = ort.InferenceSession(str(file), plain_options(spec.threads), providers=[PROVIDERS["cpu"]])
    dynamic = spec.name == "stock_int8"  # dynamic quantization: one activation scale for the whole batch
    return _graph(spec, file, session, batch_dependent=dynamic)


def graph_engine(spec: EngineSpec) -> OpenEngine:
    """Open a graph of the compression search with the session options of the service."""
    file = spec.folder / spec.file
    return _graph(spec, file, open_session(file, spec.threads), batch_dependent=False)


def _graph(spec: EngineSpec, file: Path, session: ort.InferenceSession, batch_dependent: bool) -> OpenEngine:
    tokenizer = Tokenizer.open(spec.folder, spec.task.max_tokens)

    def answer(encoded: Sequence[Encoded]) -> NDArray[np.float32]:
        return run_session(session, tokenizer.pad(encoded))

    size = file.stat().st_size + (spec.folder / "tokenizer.json").stat().st_size
    return OpenEngine(tokenized(tokenizer), answer, size, batch_dependent, lengths=token_lengths)


def plain_options(threads: int) -> ort.SessionOptions:
    """Return ONNX Runtime's default options with a number of threads, as programs usually open optimum's graphs.

    On processors without VNNI the service's options (service.model.session) set a key that makes products of
    signed 8-bit weights exact, and slower. optimum writes unsigned weights for these processors, and the key does not
    affect those (a test checks this), so that one row of the report stands for both settings of the key.
    """
    options = ort.SessionOptions()
    options.intra_op_num_threads = threads
    options.log_severity_level = 3
    return options
