"""Which folders open: each family, kind of tokenizer and writer, compared with transformers; docs/models.md shows it.

    python -m tools.studies.families [--out docs/results/models/families.json] [--quick]

For each row of FOLDERS, transformers writes a random classifier, the folder is brought into the form of the row, and
Prunella imports it. `difference` is the largest difference of a logit in fp32, `onnx_difference` that of the exported
graph. `speedup` is that of static int8 over the fp32 graph of the usual exporter, timed in turn in one process, one
thread, on random models of 6 layers, 384 wide (12 heads, 1,536 neurons); `--quick` leaves it out. The last line is
JSON.
"""

import argparse
import json
import sys
import tempfile
from collections.abc import Callable
from dataclasses import dataclass
from functools import partial
from pathlib import Path
from typing import Any

import numpy as np
import torch
import transformers

from bench.engines.onnx import plain_options
from bench.measure.latency.timing import machine_card, speedup, time_texts
from compress.inputs.source import open_source
from compress.quantization.calibration import calibrate
from compress.quantization.quantize import int8_variant
from export.baseline.stock_export import FP32, stock_export
from export.writer import to_onnx, write_int8
from models.checkpoint import load_checkpoint
from models.classifier import TensorBatch
from models.errors import PrunellaError
from models.messages import say
from models.store.atomic import write_text
from models.tokenizer import TokenBatch, Tokenizer
from prunella.cli.inspect import inspect
from service.model.engine import run_session
from service.model.session import open_session
from tools.random_models import BAD, GOOD, OTHER, make_tiny_family, write_camembert_tokenizer, write_xlm_tokenizer
from tools.studies.folder_forms import as_camembert, as_transformers_5, as_vocabulary_files, with_tokenizers_backend

OUT = Path("docs/results/models/families.json")
ROUNDS, WORDS = 11, 24
REAL = {  # the size that is timed, in the names of the families' configs
    "hidden_size": 384, "num_hidden_layers": 6, "num_attention_heads": 12, "intermediate_size": 1536,
    "max_position_embeddings": 130,
}  # fmt: skip
REAL_DISTILBERT = {"dim": 384, "n_layers": 6, "n_heads": 12, "hidden_dim": 1536, "max_position_embeddings": 130}
INSTALLED = f"transformers {'.'.join(transformers.__version__.split('.')[:2])}"
FIFTH = "the form of transformers 5"
Change = Callable[[Path], None]


@dataclass(frozen=True, slots=True)
class Form:
    """One row: a family's folder with a kind of tokenizer, as a version of transformers writes it."""

    name: str  # of the family in the table
    family: str
    tokenizer: str
    writer: str = INSTALLED
    changes: tuple[Change, ...] = ()
    write_tokenizer: Callable[[Path], int] | None = None


AS_FIFTH = (as_transformers_5, with_tokenizers_backend)
PIECES, BYTES, UNIGRAM = "word pieces", "byte-level BPE", "Unigram"
USUAL = {
    "bert": ("BERT, MiniLM", PIECES), "ernie": ("ERNIE", PIECES), "electra": ("ELECTRA", PIECES),
    "distilbert": ("DistilBERT", PIECES), "roberta": ("RoBERTa", BYTES),
    "mpnet": ("MPNet", PIECES), "modernbert": ("ModernBERT", BYTES), "deberta-v2": ("DeBERTa-v2, v3", UNIGRAM),
}  # fmt: skip
FOLDERS = [
    *(Form(name, family, f"{kind}, `tokenizer.json`") for family, (name, kind) in USUAL.items()),
    *(Form(name, family, f"{kind}, `tokenizer.json`", FIFTH, AS_FIFTH) for family, (name, kind) in USUAL.items()),
    *(
        Form(USUAL[family][0], family, f"{PIECES}, `vocab.txt` only", changes=(as_vocabulary_files,))
        for family in ("bert", "electra", "distilbert", "mpnet")
    ),
    Form("RoBERTa", "roberta", f"{BYTES}, `vocab.json` and `merges.txt` only", changes=(as_vocabulary_files,)),
    Form("BERT, MiniLM", "bert", f"{UNIGRAM} of XLM-R, `tokenizer.json`", write_tokenizer=write_xlm_tokenizer),
    *(
        Form("XLM-R", "xlm-roberta", f"{UNIGRAM}, `tokenizer.json`", writer, changes, write_xlm_tokenizer)
        for writer, changes in ((INSTALLED, ()), (FIFTH, AS_FIFTH))
    ),
    *(
        Form("CamemBERT", "roberta", f"{UNIGRAM}, `tokenizer.json`", writer, changes, write_camembert_tokenizer)
        for writer, changes in ((INSTALLED, (as_camembert,)), (FIFTH, (as_camembert, *AS_FIFTH)))
    ),
]


def texts() -> list[tuple[str, ...]]:
    """Return rows of WORDS words that the tokenizers know."""
    words, generator = [*GOOD, *BAD, *OTHER], np.random.default_rng(0)
    return [(" ".join(generator.choice(words, WORDS)),) for _ in range(12)]


def measure(form: Form, folder: Path, timed: bool) -> dict[str, Any]:
    """Return the row of a form; where the folder is refused, `problem` says why."""
    real = REAL_DISTILBERT if form.family == "distilbert" else REAL
    if form.family == "electra":
        real = real | {"embedding_size": 384}
    theirs = make_tiny_family(folder, form.family, tokenizer=form.write_tokenizer, **(real if timed else {}))
    for change in form.changes:
        change(folder)
    row: dict[str, Any] = {"family": form.name, "tokenizer": form.tokenizer, "writer": form.writer}
    try:
        opened = open_source(folder, folder / "store", max_tokens=40)
    except PrunellaError as error:
        return row | {"opens": False, "problem": str(error)}
    tokenizer, model = Tokenizer.open(opened.path, 40), load_checkpoint(opened.path)
    batches = [tokenizer.batch([one]) for one in texts()]
    wanted = [_logits_of(theirs, batch, model.architecture.token_types) for batch in batches]
    to_onnx(model, folder / "fp32.onnx", pair=False)
    graph = open_session(folder / "fp32.onnx")
    with torch.no_grad():
        ours = [model(TensorBatch(batch))[0].numpy() for batch in batches]
    row |= {
        "opens": True, "difference": _difference(ours, wanted),
        "onnx_difference": _difference([run_session(graph, batch) for batch in batches], wanted),
        "prunable": "compress" in inspect(folder)["can"],
    }  # fmt: skip
    if timed:
        write_int8(model, folder / "int8.onnx", False, calibrate(model, batches))
        fp32 = _plain_session(stock_export(opened, folder / "store").folder.path / FP32)
        row |= _times(fp32, open_session(folder / "int8.onnx", variant=int8_variant()), batches)
    return row


def _logits_of(theirs: Any, batch: TokenBatch, segments: int) -> np.ndarray:
    tensors = TensorBatch(batch)
    types = {"token_type_ids": tensors.types} if segments > 1 else {}
    with torch.no_grad():
        return np.asarray(theirs(tensors.ids, attention_mask=tensors.mask, **types).logits)


def _difference(ours: list[np.ndarray], wanted: list[np.ndarray]) -> float:
    return float(np.abs(np.array(ours) - np.array(wanted)).max())


def _plain_session(path: Path) -> Any:
    import onnxruntime as ort

    return ort.InferenceSession(str(path), plain_options(1))


def _times(fp32: Any, int8: Any, batches: list[TokenBatch]) -> dict[str, Any]:
    sessions = {"fp32": fp32, "int8": int8}
    calls = {name: [partial(run_session, session, batch) for batch in batches] for name, session in sessions.items()}
    seconds = time_texts(calls, ROUNDS)
    ratio, interval = speedup(seconds["fp32"], seconds["int8"])
    return {"speedup": round(ratio, 2), "speedup_interval": [round(end, 2) for end in interval]}


def main() -> None:
    """Measure each form, write the file, and print it as one line."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--out", type=Path, default=OUT)
    parser.add_argument("--quick", action="store_true", help="tiny models, no times")
    arguments = parser.parse_args()
    rows, timed = [], set()
    for form in FOLDERS:
        with tempfile.TemporaryDirectory() as scratch:
            first = not arguments.quick and form.family not in timed  # times do not depend on the form of a folder
            rows.append(measure(form, Path(scratch) / "model", first))
        timed.add(form.family)
        say(f"{form.name}, {form.tokenizer}, {form.writer}: {rows[-1]}")
    tokens = WORDS + 2
    result = {
        "command": "python -m tools.studies.families",
        "tokens": tokens,
        "rows": rows,
        "machine": machine_card(),
    }
    arguments.out.parent.mkdir(parents=True, exist_ok=True)
    write_text(arguments.out, json.dumps(result, indent=1) + "\n")
    sys.stdout.write(json.dumps(result) + "\n")


if __name__ == "__main__":
    main()
