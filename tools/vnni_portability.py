"""`python -m tools.vnni_portability BUNDLE DATA`: int8 answers of this CPU and of an emulated one without VNNI.

The same ONNX file is run here and under an emulator of an older CPU (Debian's qemu-user 7.2 or later has AVX2), and
labels and logits are compared row by row. It runs twice in the emulator: with ONNX Runtime's precision key, which the
service sets where VNNI is missing, and without the key, where products of 8-bit weights saturate without an error.
"""

import json
import shlex
import subprocess
import sys
import tempfile
from pathlib import Path
from typing import Annotated, Any

import numpy as np
import typer

EMULATOR = "qemu-x86_64 -cpu Haswell"


def main(
    bundle: Path,
    data: str,
    rows: Annotated[
        int, typer.Option(min=1, help="rows to draw from the data; an emulator takes about a second for each")
    ] = 200,
    emulator: Annotated[str, typer.Option(help="command that runs a program on an emulated CPU")] = EMULATOR,
) -> None:
    """Compare the bundle's int8 answers on this CPU with those on the emulated one."""
    from models.data.texts import read_texts
    from service.model.bundle import Bundle

    opened, texts = Bundle.open(bundle), read_texts(data)
    chosen = texts.take(np.random.default_rng(0).permutation(len(texts))[:rows])
    tokenizer = opened.tokenizer()
    encoded = [(e.ids, e.types) for e in tokenizer.encode(chosen.rows)]
    path = opened.onnx_path("cpu-int8")
    bits = opened.info.variants["cpu-int8"].weight_bits
    with tempfile.TemporaryDirectory() as scratch:
        tokens = Path(scratch) / "tokens.json"
        tokens.write_text(json.dumps(encoded), encoding="utf-8")
        here = answer(path, tokens, precise=bits == 8, emulator=())
        there = {
            name: answer(path, tokens, precise, shlex.split(emulator))
            for name, precise in (("with_key", True), ("without_key", False))
        }
    result: dict[str, Any] = {"bundle": opened.id, "weight_bits": bits, "rows": len(chosen), "emulator": emulator}
    result |= {name: compare(here, logits) for name, logits in there.items()}
    sys.stdout.write(json.dumps(result) + "\n")


def answer(path: Path, tokens: Path, precise: bool, emulator: tuple[str, ...] | list[str]) -> np.ndarray:
    """Return the logits (rows, labels) of the graph, from a new process; `precise` sets the precision key."""
    target = tokens.with_suffix(".npy")
    code = "import sys; from tools.vnni_portability import work; work(*sys.argv[1:])"
    command = [*emulator, sys.executable, "-c", code, str(path), str(tokens), str(target), "precise" * precise]
    subprocess.run(command, check=True)
    return np.asarray(np.load(target))


def work(path: str, tokens: str, target: str, precise: str) -> None:
    """Compute logits in the process that may be emulated.

    The CPU is not detected here, because the detection reports the real CPU even in the emulator.
    """
    import onnxruntime as ort

    options = ort.SessionOptions()
    options.intra_op_num_threads = options.inter_op_num_threads = 1
    if precise:
        options.add_session_config_entry("session.x64quantprecision", "1")
    session = ort.InferenceSession(path, options, providers=["CPUExecutionProvider"])
    names = [node.name for node in session.get_inputs()]
    logits = []
    for ids, types in json.loads(Path(tokens).read_text(encoding="utf-8")):
        arrays = {"input_ids": [ids], "attention_mask": [[1] * len(ids)], "token_type_ids": [types]}
        feed = {name: np.array(arrays[name], dtype=np.int64) for name in names}
        logits.append(np.asarray(session.run(["logits"], feed)[0])[0])
    np.save(target, np.stack(logits))


def compare(here: np.ndarray, there: np.ndarray) -> dict[str, float]:
    """Return the share of equal labels and the largest and mean |Δlogit|."""
    difference = np.abs(here - there)
    return {
        "equal_labels": float((here.argmax(1) == there.argmax(1)).mean()),
        "max_difference": float(difference.max()), "mean_difference": float(difference.mean()),
    }  # fmt: skip


if __name__ == "__main__":
    typer.run(main)
