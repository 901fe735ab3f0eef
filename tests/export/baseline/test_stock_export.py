"""The baseline of reports by optimum, and by torch where optimum cannot be used: both answer as transformers."""

import numpy as np
import onnxruntime as ort
import pytest
import torch
from tiny import TINY_FAMILIES, make_tiny_family
from transformers import AutoModelForSequenceClassification

from bench.measure.engine_spec import describe
from export.baseline import optimum_export, stock_export
from models.checkpoint import read_architecture
from models.store.folder import Manifest, ModelFolder

IDS = np.array([[5, 6, 7, 8, 9, 10], [7, 8, 9, 0, 0, 0]], np.int64)
MASK = np.array([[1] * 6, [1] * 3 + [0] * 3], np.int64)


@pytest.fixture
def without_optimum(monkeypatch):
    """Let transformers be of a version that optimum-onnx does not accept."""
    original = optimum_export.version
    monkeypatch.setattr(
        optimum_export, "version", lambda name: "5.24.0" if name == "transformers" else original(name)
    )


def logits(file, ids, mask):
    session = ort.InferenceSession(str(file), providers=["CPUExecutionProvider"])
    feed = {"input_ids": ids, "attention_mask": mask, "token_type_ids": np.zeros_like(ids)}
    return session.run(None, {i.name: feed[i.name] for i in session.get_inputs()})[0]


def exported(folder, family, store):
    make_tiny_family(folder, family)
    source = ModelFolder(folder, Manifest(id="a", lineage=(), files={}))
    return source, stock_export.stock_export(source, store).folder.path


@pytest.mark.parametrize("family", TINY_FAMILIES)
def test_torchs_graphs_answer_as_transformers(family, tmp_path, without_optimum):
    source, folder = exported(tmp_path / "model", family, tmp_path / "store")
    assert stock_export.exporter(source) == "torch"
    assert describe("ort_fp32", "single", "torch").startswith("torch's")
    model = AutoModelForSequenceClassification.from_pretrained(source.path).eval()
    pad = model.config.pad_token_id
    ids = np.where(MASK == 1, IDS, pad)
    with torch.no_grad():
        expected = model(torch.tensor(ids), attention_mask=torch.tensor(MASK)).logits.numpy()
    fp32 = logits(folder / stock_export.FP32, ids, MASK)
    assert np.abs(fp32 - expected).max() < 1e-4
    assert np.abs(logits(folder / stock_export.FP32, ids[1:, :3], MASK[1:, :3]) - expected[1:]).max() < 1e-4
    int8 = logits(folder / stock_export.INT8, ids, MASK)
    assert 0 < np.abs(int8 - expected).max() < 0.5 * np.abs(expected).max() + 0.05  # rounded, and not another model


def test_both_exporters_agree(tmp_path, monkeypatch, without_optimum):
    _, by_torch = exported(tmp_path / "model", "bert", tmp_path / "store")
    monkeypatch.undo()
    source, folder = exported(tmp_path / "again", "bert", tmp_path / "store")
    assert stock_export.exporter(source) == "optimum"
    for name in (stock_export.FP32, stock_export.INT8):
        assert np.abs(logits(folder / name, IDS, MASK) - logits(by_torch / name, IDS, MASK)).max() < 1e-4


def test_the_reason_is_given(monkeypatch, tmp_path, without_optimum):
    make_tiny_family(tmp_path, "bert")
    shape = read_architecture(tmp_path)
    assert "found 5.24.0" in (optimum_export.optimum_problem(shape) or "")
    monkeypatch.setattr(optimum_export, "requires", lambda name: ["transformers>=1"])
    assert optimum_export.optimum_problem(shape) is None
    unheard = shape.model_copy(update={"family": "unheard"})
    assert "cannot export the family 'unheard'" in (optimum_export.optimum_problem(unheard) or "")
    mean = shape.model_copy(update={"pooling": "mean"})
    assert "no class for this head" in (optimum_export.optimum_problem(mean) or "")
