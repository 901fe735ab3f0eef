"""kernel_events() and operator_times(): operators of a graph and their times, from ONNX Runtime's profiler."""

import json
import tempfile
from collections import Counter
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import onnxruntime as ort

from models.tokenizer import TokenBatch
from service.model.engine import run_session
from service.model.session import PROVIDERS, session_options


def kernel_events(
    path: Path, batches: Sequence[TokenBatch], weight_bits: int = 8, providers: Sequence[str] = (PROVIDERS["cpu"],)
) -> list[dict[str, Any]]:
    """Run the batches in a new single-threaded session and return the profiler's event of each kernel, in order."""
    with tempfile.TemporaryDirectory() as scratch:
        options = session_options(weight_bits=weight_bits)
        options.enable_profiling = True
        options.profile_file_prefix = str(Path(scratch) / "profile")
        session = ort.InferenceSession(str(path), options, providers=list(providers))
        for batch in batches:
            run_session(session, batch)
        events = json.loads(Path(session.end_profiling()).read_text(encoding="utf-8"))
    return [event for event in events if event.get("cat") == "Node" and event["name"].endswith("_kernel_time")]


def operator_times(path: Path, batches: Sequence[TokenBatch]) -> dict[str, float]:
    """Return milliseconds per batch by operator, one thread, the largest first; with the profiler's overhead."""
    session = ort.InferenceSession(str(path), session_options(), providers=[PROVIDERS["cpu"]])
    for batch in batches[:4]:  # warm-up, outside the profile
        run_session(session, batch)
    times: Counter[str] = Counter()
    for event in kernel_events(path, batches):
        times[event["args"]["op_name"]] += event["dur"]
    return {name: microseconds / 1e3 / len(batches) for name, microseconds in times.most_common()}
