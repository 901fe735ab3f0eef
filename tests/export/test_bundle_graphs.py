import numpy as np
import pytest
from cutting import cut_units
from tiny import make_tiny_checkpoint, tiny_texts

from export.fused_operators import check_fused
from export.graph_precision import Precision
from export.writer import to_onnx
from models.checkpoint import load_checkpoint, save_checkpoint
from models.finetuning.predict import predict
from models.task import Task
from models.tokenizer import Tokenizer
from service.model.engine import run_session
from service.model.session import open_session

KEEP = ([np.array([0, 2]), np.array([], dtype=int)], [np.array([], dtype=int), np.arange(0, 96, 3)])


@pytest.fixture(params=[False, True], ids=["single", "pair"])
def tiny(request, tmp_path):
    make_tiny_checkpoint(tmp_path)
    tokenizer = Tokenizer.open(tmp_path, 32)
    return load_checkpoint(tmp_path), tokenizer, tiny_texts(12, request.param).rows, request.param


def test_pruned_folder_is_the_same_after_load(tiny, tmp_path):
    model, tokenizer, rows, _ = tiny
    smaller = cut_units(model, *KEEP)
    (tmp_path / "saved").mkdir()
    save_checkpoint(smaller, Task(labels=("a", "b")), tmp_path / "saved")
    encoded = tokenizer.encode(rows)
    again = load_checkpoint(tmp_path / "saved")
    assert np.array_equal(predict(again, encoded, tokenizer), predict(smaller, encoded, tokenizer))


@pytest.mark.parametrize("pruned", [False, True])
def test_onnx_equals_torch_alone_and_padded(tiny, tmp_path, pruned):
    model, tokenizer, rows, pair = tiny
    model = cut_units(model, *KEEP) if pruned else model
    wanted = predict(model, tokenizer.encode(rows), tokenizer)
    to_onnx(model, tmp_path / "fp32.onnx", pair)
    check_fused(tmp_path / "fp32.onnx", model.architecture, Precision.all_fp32(model.architecture), static=False)
    session = open_session(tmp_path / "fp32.onnx")
    assert np.allclose(run_session(session, tokenizer.batch(rows)), wanted, atol=1e-4)
    alone = np.concatenate([run_session(session, tokenizer.batch([row])) for row in rows])
    assert np.allclose(alone, wanted, atol=1e-4)
