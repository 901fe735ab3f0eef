"""`python -m bench.portability BUNDLE DATA`: the same int8 file on a processor without VNNI, emulated, row by row.

The file answers here and under an emulator of an older processor (Debian's qemu-user 7.2 or later has AVX2); labels
and logits are compared. It is asked twice there: with ONNX Runtime's precision key, as the service sets it where VNNI
is missing, and without, where products of 8-bit weights saturate in silence.
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
        int, typer.Option(min=1, help="drawn from the data; an emulator takes about a second for each")
    ] = 200,
    emulator: Annotated[str, typer.Option(help="command that runs a program on another processor")] = EMULATOR,
) -> None:
    """Compare the bundle's int8 answers here with those on the emulated processor."""
    from models.data.texts import read_texts
    from service.bundle import Bundle

    opened, texts = Bundle.open(bundle), read_texts(data)
    chosen = texts.take(np.random.default_rng(0).permutation(len(texts))[:rows])
    tokenizer = opened.tokenizer()
    encoded = [(e.ids, e.types) for e in tokenizer.encode(chosen.rows)]
    path = opened.onnx_path("cpu-int8")
    bits = opened.info.variants["cpu-int8"].weight_bits
    with tempfile.TemporaryDirectory() as scratch:
        tokens = Path(scratch) / "tokens.json"
        tokens.write_text(json.dumps(encoded), encoding="utf-8")
        here = answer(path, tokens, careful=bits == 8, emulator=())
        there = {
            name: answer(path, tokens, careful, shlex.split(emulator))
            for name, careful in (("with_key", True), ("without_key", False))
        }
    told: dict[str, Any] = {"bundle": opened.id, "weight_bits": bits, "rows": len(chosen), "emulator": emulator}
    told |= {name: compare(here, found) for name, found in there.items()}
    sys.stdout.write(json.dumps(told) + "\n")


def answer(path: Path, tokens: Path, careful: bool, emulator: tuple[str, ...] | list[str]) -> np.ndarray:
    """Return the logits (rows, labels) of the graph at `path` in a process of its own; `careful` sets the key."""
    target = tokens.with_suffix(".npy")
    code = "import sys; from bench.portability import work; work(*sys.argv[1:])"
    command = [*emulator, sys.executable, "-c", code, str(path), str(tokens), str(target), "careful" * careful]
    subprocess.run(command, check=True)
    return np.asarray(np.load(target))


def work(path: str, tokens: str, target: str, careful: str) -> None:
    """Answer, in the process that may be emulated: nothing is asked of the processor, which names the real one."""
    import onnxruntime as ort

    options = ort.SessionOptions()
    options.intra_op_num_threads = options.inter_op_num_threads = 1
    if careful:
        options.add_session_config_entry("session.x64quantprecision", "1")
    session = ort.InferenceSession(path, options, providers=["CPUExecutionProvider"])
    names = [node.name for node in session.get_inputs()]
    found = []
    for ids, types in json.loads(Path(tokens).read_text(encoding="utf-8")):
        arrays = {"input_ids": [ids], "attention_mask": [[1] * len(ids)], "token_type_ids": [types]}
        feed = {name: np.array(arrays[name], dtype=np.int64) for name in names}
        found.append(np.asarray(session.run(["logits"], feed)[0])[0])
    np.save(target, np.stack(found))


def compare(here: np.ndarray, there: np.ndarray) -> dict[str, float]:
    """Return the share of equal labels and the largest and mean |Δlogit|."""
    difference = np.abs(here - there)
    return {
        "equal_labels": float((here.argmax(1) == there.argmax(1)).mean()),
        "max_difference": float(difference.max()), "mean_difference": float(difference.mean()),
    }  # fmt: skip


if __name__ == "__main__":
    typer.run(main)
