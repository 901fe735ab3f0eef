"""Engines on ONNX Runtime: ours in the session that the service opens, and optimum's graphs in a plain one."""

from collections.abc import Sequence
from pathlib import Path

import numpy as np
import onnxruntime as ort
from numpy.typing import NDArray

from bench.engines import EngineSpec, OpenEngine, token_lengths, tokenized
from models.tokens import Encoded, Tokenizer
from service.bundle import Bundle
from service.engine import Engine, run_session
from service.runtime import PROVIDERS, RuntimeSettings, open_session


def our_engine(spec: EngineSpec) -> OpenEngine:
    """Open a bundle."""
    bundle = Bundle.open(spec.folder)
    engine = Engine.open(bundle, RuntimeSettings(device="cpu", threads=spec.threads))
    size = bundle.served_bytes(engine.variant_name)
    return OpenEngine(tokenized(engine.tokenizer), engine.infer, size, mates_matter=False, lengths=token_lengths)


def stock_engine(spec: EngineSpec) -> OpenEngine:
    """Open a graph of optimum's with ONNX Runtime's own options; a run is padded to its longest text."""
    file = spec.folder / spec.file
    session = ort.InferenceSession(str(file), plain_options(spec.threads), providers=[PROVIDERS["cpu"]])
    return _graph(spec, file, session, mates_matter=spec.name == "stock_int8")  # one scale for all that is in a run


def graph_engine(spec: EngineSpec) -> OpenEngine:
    """Open a graph that a search made, in the session that will serve it."""
    file = spec.folder / spec.file
    return _graph(spec, file, open_session(file, spec.threads), mates_matter=False)


def _graph(spec: EngineSpec, file: Path, session: ort.InferenceSession, mates_matter: bool) -> OpenEngine:
    tokenizer = Tokenizer.open(spec.folder, spec.task.max_tokens)

    def answer(encoded: Sequence[Encoded]) -> NDArray[np.float32]:
        return run_session(session, tokenizer.pad(encoded))

    size = file.stat().st_size + (spec.folder / "tokenizer.json").stat().st_size
    return OpenEngine(tokenized(tokenizer), answer, size, mates_matter, lengths=token_lengths)


def plain_options(threads: int) -> ort.SessionOptions:
    """Return ONNX Runtime's defaults with a number of threads, as programs open optimum's graphs.

    The service's own options have a key that makes signed 8-bit weights exact, and slower, on processors without VNNI
    (service.runtime). optimum writes unsigned weights for these, which the key does not touch (a test looks), so that
    one row shows both forms.
    """
    options = ort.SessionOptions()
    options.intra_op_num_threads = threads
    options.log_severity_level = 3
    return options
