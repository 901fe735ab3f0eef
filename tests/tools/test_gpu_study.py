"""What a GPU is for; what can be, is tried on a processor, the rest waits for a machine that has one."""

import json
from pathlib import Path

import numpy as np
import onnxruntime as ort
import pytest
import torch
from test_quantize import make_classifier, write_texts
from tiny import make_tiny_checkpoint, tiny_texts

from compress.make_bundle import BundleConfig, BundleTexts, make_bundle
from models.checkpoint import load_checkpoint
from models.data.texts import Texts
from models.finetuning.finetune import FinetuneConfig, Splits, finetune
from models.finetuning.predict import predict
from models.finetuning.text_objective import TextObjective
from models.processor import gpu_names
from models.tokenizer import Tokenizer
from models.train.loop import TrainingConfig, fit
from service.model.bundle import Bundle
from service.model.engine import Engine
from service.model.session import RuntimeSettings
from tools import gpu_study as gpu
from tools.tables.gpu import gpu_table

needs_runtime = pytest.mark.skipif(
    "CUDAExecutionProvider" not in ort.get_available_providers(), reason="needs onnxruntime-gpu"
)
needs_torch = pytest.mark.skipif(not torch.cuda.is_available(), reason="needs a GPU and a CUDA build of torch")


@pytest.fixture(scope="module")
def made(tmp_path_factory):
    """Return a folder with labelled texts, a classifier and its bundle with a form for GPUs."""
    folder = tmp_path_factory.mktemp("gpu")
    classifier = make_classifier(folder)
    texts = Texts(tiny_texts(72).rows, None, "tiny", "single")
    config = BundleConfig(recipe="static", max_loss=100, gpu=True)
    bundle = make_bundle(classifier, BundleTexts.of(texts), config, folder)
    return write_texts(folder / "texts.jsonl"), classifier, bundle.folder.path


def test_the_check_for_gpus_runs_on_a_processor_too(made, tmp_path, capsys):
    data, classifier, bundle = made
    gpu.main(bundle, str(data), classifier.path, batch="1,3", device="cpu")
    told = json.loads(capsys.readouterr().out.splitlines()[-1])
    assert (told["variant"], told["rows"]) == ("gpu-fp16", 80)
    assert set(told["nodes_by_provider"]) == {"CPUExecutionProvider"}
    assert told["nodes_by_provider"]["CPUExecutionProvider"] > 10
    forms = told["answers"]
    assert set(forms) == {"gpu_fp16", "gpu_fp32", "cpu", "pytorch_fp16"}
    assert forms["gpu_fp32"]["max_difference"] == 0
    assert 0 < forms["gpu_fp16"]["max_difference"] < 0.05
    assert forms["pytorch_fp16"]["max_difference"] < 1e-4  # fp32 on a processor
    assert all(form["alone_in_batch"] < 5e-3 for form in forms.values())
    assert [timing["batch"] for timing in told["timings"]] == [1, 3]
    assert told["timings"][1]["cpu"]["ms"] > 0
    kept = {"command": "python -m tools.gpu_study", "result": told, "machine": {"gpus": ["made up"]}}
    (tmp_path / "tiny.json").write_text(json.dumps(kept))
    table = gpu_table(tmp_path)
    assert table.count("| tiny |") == 4
    assert "ms, 3 at once" in table
    assert "(made up)" in table


def test_gpus_have_names(tmp_path):
    assert gpu_names(tmp_path) == []
    (tmp_path / "0000:01:00.0").mkdir()
    (tmp_path / "0000:01:00.0" / "information").write_text("Model: \t\t NVIDIA H200\nIRQ:   11\n")
    assert gpu_names(tmp_path) == ["NVIDIA H200"]


@needs_runtime
def test_the_form_for_gpus_answers_as_fp32_does(made):
    data, _, path = made
    bundle = Bundle.open(path)
    ours = Engine.open(bundle, RuntimeSettings(device="cuda", require_device=True))
    assert (ours.variant_name, ours.session.get_providers()[0]) == ("gpu-fp16", "CUDAExecutionProvider")
    ours.self_check()
    rows = [(json.loads(line)["text"],) for line in Path(data).read_text().splitlines()]
    wanted = Engine.open(bundle, RuntimeSettings(device="cpu", variant="cpu-fp32")).logits(rows)
    assert np.abs(ours.logits(rows) - wanted).max() < 0.05


@needs_torch
def test_a_gpu_trains_a_model_that_answers_alike_on_a_processor(tmp_path):
    make_tiny_checkpoint(tmp_path / "encoder")
    texts = tiny_texts(96)
    config = FinetuneConfig(max_tokens=32, training=TrainingConfig(epochs=2, freeze_embeddings=False))
    folder = finetune(str(tmp_path / "encoder"), Splits(texts, texts), config, tmp_path).folder.path
    history = json.loads((folder / "report.json").read_text())["details"]["history"]
    assert history["losses"][-1] < history["losses"][0]
    tokenizer = Tokenizer.open(folder, 32)
    encoded, model = tokenizer.encode(texts.rows), load_checkpoint(folder)
    here = predict(model, encoded, tokenizer)
    assert np.abs(predict(model.to("cuda"), encoded, tokenizer) - here).max() < 1e-3


@needs_torch
def test_a_gpu_trains_a_model_that_was_trained_before(tmp_path):
    """accelerate moves no model that it has seen before."""
    make_tiny_checkpoint(tmp_path / "encoder")
    tokenizer, texts = Tokenizer.open(tmp_path / "encoder", 32), tiny_texts(96)
    model, encoded = load_checkpoint(tmp_path / "encoder"), tokenizer.encode(texts.rows)

    def loss_of(model, batch, rows):
        return model(batch)[0].float().pow(2).sum()

    for _ in range(2):
        history = fit(model, TextObjective(encoded, tokenizer, loss_of), TrainingConfig(steps=2))
        assert (history.steps, next(model.parameters()).device.type) == (2, "cpu")
