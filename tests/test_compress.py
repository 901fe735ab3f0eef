import itertools

import numpy as np
import pytest
import torch
from tiny import make_tiny_checkpoint, tiny_texts

from compress.importance import measure, open_gates
from compress.search import Option, solve
from compress.surgery import cut
from export.graph import check_fused
from export.onnx import to_onnx
from export.precision import Precision
from models.checkpoint import load_checkpoint, save_checkpoint
from models.classifier import TensorBatch
from models.errors import NoEffectError
from models.task import Task
from models.tokens import Tokenizer
from models.train.predict import predict
from service.engine import run_session
from service.runtime import open_session

KEEP = ([np.array([0, 2]), np.array([], dtype=int)], [np.array([], dtype=int), np.arange(0, 96, 3)])


@pytest.fixture(params=[False, True], ids=["single", "pair"])
def tiny(request, tmp_path):
    make_tiny_checkpoint(tmp_path)
    tokenizer = Tokenizer.open(tmp_path, 32)
    return load_checkpoint(tmp_path), tokenizer, tiny_texts(12, request.param).rows, request.param


def test_surgery_equals_the_gated_full_model(tiny):
    model, tokenizer, rows, _ = tiny
    batch = TensorBatch(tokenizer.batch(rows))
    gates = open_gates(model, 1)
    for gate, kept in zip((*gates.heads, *gates.neurons), (*KEEP[0], *KEEP[1]), strict=True):
        gate.zero_()
        gate[:, torch.from_numpy(kept).long()] = 1
    with torch.no_grad():
        assert torch.allclose(cut(model, *KEEP)(batch)[0], model(batch, gates)[0], atol=1e-5)


def test_keeping_everything_is_refused(tiny):
    model = tiny[0]
    with pytest.raises(NoEffectError):
        cut(model, [np.arange(4)] * 2, [np.arange(96)] * 2)


def test_pruned_folder_is_the_same_after_load(tiny, tmp_path):
    model, tokenizer, rows, _ = tiny
    smaller = cut(model, *KEEP)
    (tmp_path / "saved").mkdir()
    save_checkpoint(smaller, Task(labels=("a", "b")), tmp_path / "saved")
    encoded = tokenizer.encode(rows)
    again = load_checkpoint(tmp_path / "saved")
    assert np.array_equal(predict(again, encoded, tokenizer), predict(smaller, encoded, tokenizer))


@pytest.mark.parametrize("pruned", [False, True])
def test_onnx_equals_torch_alone_and_padded(tiny, tmp_path, pruned):
    model, tokenizer, rows, pair = tiny
    model = cut(model, *KEEP) if pruned else model
    wanted = predict(model, tokenizer.encode(rows), tokenizer)
    to_onnx(model, tmp_path / "fp32.onnx", pair)
    check_fused(tmp_path / "fp32.onnx", model.architecture, Precision.all_fp32(model.architecture), static=False)
    session = open_session(tmp_path / "fp32.onnx")
    assert np.allclose(run_session(session, tokenizer.batch(rows)), wanted, atol=1e-4)
    alone = np.concatenate([run_session(session, tokenizer.batch([row])) for row in rows])
    assert np.allclose(alone, wanted, atol=1e-4)


def test_search_equals_brute_force():
    generator = np.random.default_rng(3)
    for _ in range(20):
        sublayers = [
            [Option(w, float(generator.random()), float(generator.integers(1, 9))) for w in range(4)]
            for _ in range(3)
        ]
        budget = float(generator.integers(6, 20)) + 0.5  # rounding up may cost 3 buckets of budget / 4000
        fits = [c for c in itertools.product(*sublayers) if sum(o.seconds for o in c) <= budget]
        found = solve(sublayers, budget)
        if not fits:
            assert found is None
            continue
        best = min(sum(o.cost for o in c) for c in fits)
        picked = [choices[width] for choices, width in zip(sublayers, found, strict=True)]
        assert sum(o.seconds for o in picked) <= budget
        assert sum(o.cost for o in picked) == pytest.approx(best)


def test_importance_of_a_dead_unit_is_zero(tiny):
    model, tokenizer, rows, _ = tiny
    with torch.no_grad():
        model.encoder.layers[0].ffn.fall.weight[:, 5] = 0
        model.encoder.layers[1].attention.output.weight[:, 16:32] = 0  # head 1
    importance = measure(model, tokenizer.encode(rows), tokenizer)
    assert importance.neurons[0][5] == 0
    assert importance.heads[1][1] == 0
    assert (importance.heads[0] > 0).all()
    assert (importance.without_ffn > 0).all()
