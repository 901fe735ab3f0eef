"""move_weights_out(): an ONNX file → the same graph, with its weights in a file beside it that is mapped into memory.

ONNX Runtime copies weights out of the graph's own file when it opens it; a file beside it is mapped, and read as it
is needed. What that saves at the start is in docs/results/quantization.md.
"""

from pathlib import Path

import onnx

from service.bundle import WEIGHTS

SMALLEST = 1024  # bytes: smaller tensors stay in the graph


def move_weights_out(path: Path) -> None:
    """Move the weights of the graph at `path` into `<stem>.bin` beside it; the two files belong together."""
    model = onnx.load(str(path))
    beside = path.with_suffix(WEIGHTS)
    beside.unlink(missing_ok=True)  # it would be appended to
    onnx.save(
        model, str(path), save_as_external_data=True, all_tensors_to_one_file=True, location=beside.name,
        size_threshold=SMALLEST,
    )  # fmt: skip
    beside.chmod(path.stat().st_mode)  # onnx lets nobody else read it, and a server is often somebody else
