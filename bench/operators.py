"""operator_times(): where the time goes inside a graph, by ONNX Runtime's own profiler."""

import json
import tempfile
from collections import Counter
from collections.abc import Sequence
from pathlib import Path

import onnxruntime as ort

from models.tokens import TokenBatch
from service.engine import run_session
from service.runtime import session_options


def operator_times(path: Path, batches: Sequence[TokenBatch]) -> dict[str, float]:
    """Return milliseconds a batch by operator, one thread, the largest first. Profiling itself costs some of it."""
    with tempfile.TemporaryDirectory() as scratch:
        options = session_options()
        session = ort.InferenceSession(str(path), options, providers=["CPUExecutionProvider"])
        for batch in batches[:4]:  # warm-up, outside the profile
            run_session(session, batch)
        options.enable_profiling = True
        options.profile_file_prefix = str(Path(scratch) / "profile")
        profiled = ort.InferenceSession(str(path), options, providers=["CPUExecutionProvider"])
        for batch in batches:
            run_session(profiled, batch)
        events = json.loads(Path(profiled.end_profiling()).read_text(encoding="utf-8"))
    spent: Counter[str] = Counter()
    for event in events:
        if event.get("cat") == "Node" and event["name"].endswith("_kernel_time"):
            spent[event["args"]["op_name"]] += event["dur"]
    return {name: microseconds / 1e3 / len(batches) for name, microseconds in spent.most_common()}
