"""move_weights_out(): move the weights of an ONNX file into an external data file beside it.

ONNX Runtime copies weights that are stored in the ONNX file itself when it opens the file. An external data file is
mapped into memory and read on demand. docs/results/quantization.md has the time that this saves at the start.
"""

from pathlib import Path

import onnx

from service.model.bundle import WEIGHTS

SMALLEST = 1024  # bytes; smaller tensors stay in the ONNX file


def move_weights_out(path: Path) -> None:
    """Move the weights of the ONNX file at `path` into `<stem>.bin` beside it; both files are needed afterwards."""
    model = onnx.load(str(path))
    weights = path.with_suffix(WEIGHTS)
    weights.unlink(missing_ok=True)  # onnx appends to an existing file
    onnx.save(
        model, str(path), save_as_external_data=True, all_tensors_to_one_file=True, location=weights.name,
        size_threshold=SMALLEST,
    )  # fmt: skip
    # onnx makes the file readable for its owner only, and a server often runs as another user
    weights.chmod(path.stat().st_mode)
