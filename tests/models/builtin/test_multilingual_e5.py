"""builtin:multilingual-e5, from tiny packages in the same formats."""

import hashlib
import json
import struct

import numpy as np
import pytest
import torch
from tiny import make_tiny_family
from transformers import AutoModel

from models.builtin import multilingual_e5
from models.builtin.multilingual_e5 import BLOCK, E5, HEADER, MATRICES, NORMS, e5_folder, read_weights
from models.checkpoint import load_checkpoint
from models.errors import InputError, MissingExtraError
from models.tokenizer import Tokenizer
from models.train.starting_point import resolve_encoder

WIDTH, LAYERS, HEADS, FFN, POSITIONS, TYPES = 64, 2, 4, 96, 24, 2


def matrix(generator, rows, columns):
    """Return a matrix of four-bit values with a scale for each 32, and its bytes."""
    values = generator.integers(0, 16, (rows * columns // 32, 32))
    blocks = np.zeros(len(values), BLOCK)
    blocks["scale"] = generator.uniform(0.01, 0.1, len(values))
    blocks["nibbles"] = values[:, :16] | values[:, 16:] << 4
    real = (values - 8) * blocks["scale"].astype(np.float32)[:, None]
    return real.reshape(rows, columns).astype(np.float32), blocks.tobytes()


def vector(generator, *shape):
    values = generator.normal(size=shape).astype(np.float32)
    return values, values.tobytes()


def packed(vocabulary):
    """Return the contents of a file of weights, and the tensors that are in it by their names in BERT."""
    generator = np.random.default_rng(0)
    tensors = {
        "emb.word": ("embeddings.word_embeddings.weight", matrix(generator, vocabulary, WIDTH)),
        "emb.pos": ("embeddings.position_embeddings.weight", vector(generator, POSITIONS, WIDTH)),
        "emb.type": ("embeddings.token_type_embeddings.weight", vector(generator, TYPES, WIDTH)),
        "emb.ln.w": ("embeddings.LayerNorm.weight", vector(generator, WIDTH)),
        "emb.ln.b": ("embeddings.LayerNorm.bias", vector(generator, WIDTH)),
    }
    for layer in range(LAYERS):
        for short, module in MATRICES.items():
            shape = {"fi": (FFN, WIDTH), "fo": (WIDTH, FFN)}.get(short, (WIDTH, WIDTH))
            prefix = f"encoder.layer.{layer}.{module}"
            tensors[f"l{layer}.{short}.w"] = (f"{prefix}.weight", matrix(generator, *shape))
            tensors[f"l{layer}.{short}.b"] = (f"{prefix}.bias", vector(generator, shape[0]))
        for short, module in NORMS.items():
            prefix = f"encoder.layer.{layer}.{module}"
            tensors[f"l{layer}.{short}.w"] = (f"{prefix}.weight", vector(generator, WIDTH))
            tensors[f"l{layer}.{short}.b"] = (f"{prefix}.bias", vector(generator, WIDTH))
    head = HEADER.pack(b"E5S1", 1, WIDTH, LAYERS, HEADS, FFN, vocabulary, POSITIONS, TYPES, 1e-12, 32)
    text = b"abc"  # of two pieces: their ends, scores and letters, then a normalizer of five bytes
    head += struct.pack("<5iQ", 2, 0, 0, 0, 0, len(text)) + bytes(4 * 3 + 4 * 2) + text
    head += struct.pack("<iI", 0, 5) + b"norma" + struct.pack("<i", len(tensors))
    entry = struct.Struct("<BIQQ")
    offset = len(head) + sum(2 + len(name) + entry.size for name in tensors)
    directory, content = b"", b""
    for name, (_, (_, data)) in tensors.items():
        directory += struct.pack("<H", len(name)) + name.encode()
        directory += entry.pack(0, 0, offset + len(content), len(data))
        content += data
    return head + directory + content, {f"bert.{name}": values for name, (values, _) in tensors.values()}


@pytest.fixture
def packages(tmp_path, monkeypatch):
    """Two packages on the path; returns their folder."""
    make_tiny_family(tmp_path / "model", "xlm-roberta")
    tokenizer = (tmp_path / "model" / "tokenizer.json").read_bytes()
    vocabulary = Tokenizer.open(tmp_path / "model", 16).vocabulary
    weights, _ = packed(vocabulary)
    files = {}
    for package, name, content in (
        ("tiny_e5", "e5.bin", weights),
        ("tiny_words", "assets/tokenizer.json", tokenizer),
    ):
        path = tmp_path / "site" / package / name
        path.parent.mkdir(parents=True)
        (tmp_path / "site" / package / "__init__.py").write_text("raise ImportError('a package is never imported')")
        path.write_bytes(content)
        files[package] = (name, hashlib.sha256(content).hexdigest())
    monkeypatch.syspath_prepend(tmp_path / "site")
    monkeypatch.setattr(multilingual_e5, "FILES", files)
    return tmp_path / "site"


def test_the_weights_are_those_that_were_packed():
    data, tensors = packed(40)
    sizes, state = read_weights(data)
    assert (sizes.width, sizes.layers, sizes.heads, sizes.ffn, sizes.vocabulary) == (WIDTH, LAYERS, HEADS, FFN, 40)
    assert state.keys() == tensors.keys()
    for name, values in tensors.items():
        assert np.array_equal(state[name], values), name
    with pytest.raises(InputError, match="wanted b'E5S1'"):
        read_weights(b"E5S2" + data[4:])


def test_transformers_and_prunella_read_the_folder_alike(packages, tmp_path, capsys):
    folder = resolve_encoder(E5, tmp_path / "store")
    assert "widened" in capsys.readouterr().err
    assert resolve_encoder(E5, tmp_path / "store") == folder
    config = json.loads((folder / "config.json").read_text())
    assert (config["model_type"], config["num_hidden_layers"]) == ("bert", LAYERS)
    model, tokenizer = load_checkpoint(folder, labels=2), Tokenizer.open(folder, 16)
    batch = tokenizer.batch([("good film",), ("a bad plot",)])
    ids, mask = torch.from_numpy(batch.ids), torch.from_numpy(batch.mask)
    with torch.no_grad():
        ours = model.encoder(ids, mask, torch.zeros_like(ids))[0]
        theirs = AutoModel.from_pretrained(folder)(input_ids=ids, attention_mask=mask).last_hidden_state
    assert torch.allclose(ours[mask.bool()], theirs[mask.bool()], atol=1e-4)


def test_a_missing_package_is_named_with_the_command(packages, tmp_path, monkeypatch):
    (packages / "tiny_e5" / "__init__.py").unlink()
    (packages / "tiny_e5" / "e5.bin").unlink()
    (packages / "tiny_e5").rmdir()
    with pytest.raises(MissingExtraError, match=r"tiny_e5 is not installed: pip install .*prunella\[chinese\]"):
        e5_folder(tmp_path / "store")


@pytest.mark.parametrize("damage", ["changed", "gone"])
def test_a_damaged_file_is_refused_and_nothing_is_left(packages, tmp_path, damage):
    path = packages / "tiny_e5" / "e5.bin"
    if damage == "gone":
        path.unlink()
    else:
        path.write_bytes(path.read_bytes()[:-1])
    with pytest.raises(InputError, match=r"e5\.bin (has SHA-256|is missing)"):
        e5_folder(tmp_path / "store")
    assert not list((tmp_path / "store").glob("builtin-*"))
