"""What the service decides, and what it refuses, before it answers: settings, device, a bundle that is not whole."""

import json
import logging
import shutil

import numpy as np
import pytest
from bundles import copy_with_other_golden_logits
from starlette.testclient import TestClient
from tiny import tiny_texts

from models.errors import CheckError, FolderError, InputError
from models.folder import MANIFEST
from service.app import App
from service.bundle import Bundle, BundleInfo, Variant
from service.desk import Desk
from service.engine import Engine
from service.runtime import RuntimeSettings, choose_device
from service.settings import Settings

pytest_plugins = ["serving"]  # the fixture tiny_bundle


def open_engine(folder):
    return Engine.open(Bundle.open(folder), RuntimeSettings(device="cpu"))


def test_settings_come_from_the_environment():
    found = Settings.from_environment({"PRUNELLA_MAX_BATCH": "5", "PRUNELLA_DEVICE": "cpu", "PATH": "/bin"})
    assert (found.max_batch, found.device, found.bundle) == (5, "cpu", "prunella:latest")


@pytest.mark.parametrize(
    ("variables", "said"),
    [
        ({"PRUNELLA_MAX_BATCHES": "5"}, "PRUNELLA_MAX_BATCHES"),
        ({"PRUNELLA_MAX_BATCH": "many"}, "max_batch"),
        ({"PRUNELLA_MAX_QUEUE": "0"}, "max_queue"),
        ({"PRUNELLA_DEVICE": "gpu"}, "device"),
    ],
)
def test_wrong_settings_are_refused(variables, said):
    with pytest.raises(InputError, match=said):
        Settings.from_environment(variables)


def variant(device):
    precision = "int8" if device == "cpu" else "fp16"
    return Variant(file="x", device=device, precision=precision, recipe="x", golden_tolerance=1)


CPU_ONLY = BundleInfo(name="x", variants={"cpu-int8": variant("cpu")}, default={"cpu": "cpu-int8"})
BOTH = BundleInfo(
    name="x",
    variants={"cpu-int8": variant("cpu"), "gpu-fp16": variant("cuda")},
    default={"cpu": "cpu-int8", "cuda": "gpu-fp16"},
)
NO_GPU, GPU = ["CPUExecutionProvider"], ["CUDAExecutionProvider", "CPUExecutionProvider"]


@pytest.mark.parametrize(
    "case",
    [
        (BOTH, "auto", NO_GPU, "cpu", "cpu-int8", False),
        (BOTH, "auto", GPU, "cuda:0", "gpu-fp16", False),
        (CPU_ONLY, "auto", GPU, "cpu", "cpu-int8", False),
        (BOTH, "cpu", GPU, "cpu", "cpu-int8", False),
        (BOTH, "cuda", GPU, "cuda", "gpu-fp16", False),
        (BOTH, "cuda:1", GPU, "cuda:1", "gpu-fp16", False),
        (BOTH, "cuda", NO_GPU, "cpu", "cpu-int8", True),
        (CPU_ONLY, "cuda", GPU, "cpu", "cpu-int8", True),
        (BOTH, "tensorrt", GPU, "cpu", "cpu-int8", True),
    ],
)
def test_choice_of_the_device(case, caplog):
    info, asked, providers, got, chosen, loud = case
    with caplog.at_level(logging.WARNING, "prunella"):
        choice = choose_device(info, RuntimeSettings(device=asked), providers)
    assert (choice.asked, choice.got, choice.variant) == (asked, got, chosen)
    assert (choice.reason is not None) == loud
    assert bool(caplog.records) == loud
    if loud:
        with pytest.raises(InputError, match=f"device {asked} was required"):
            choose_device(info, RuntimeSettings(device=asked, require_device=True), providers)


def test_a_fall_back_shows_in_info_and_metrics(tiny_bundle):
    # the tiny bundle has no variant for a GPU, so that this falls back on every machine
    engine = Engine.open(Bundle.open(tiny_bundle), RuntimeSettings(device="cuda"))
    with TestClient(App(Desk(engine, Settings()))) as client:
        assert client.get("/info").json()["device"]["got"] == "cpu"
        assert client.get("/info").json()["device"]["reason"]
        assert "prunella_device_fallback 1.0" in client.get("/metrics").text


@pytest.mark.parametrize("damage", ["altered", "removed", "no manifest", "not a bundle"])
def test_a_bundle_that_is_not_whole_is_refused(tiny_bundle, tmp_path, damage):
    folder = tmp_path / "damaged"
    shutil.copytree(tiny_bundle, folder)
    onnx = folder / "onnx" / "cpu-int8.onnx"
    if damage == "altered":
        content = bytearray(onnx.read_bytes())
        content[len(content) // 2] ^= 1
        onnx.write_bytes(content)
    elif damage == "removed":
        onnx.unlink()
    elif damage == "no manifest":
        (folder / MANIFEST).unlink()
    else:
        folder = next(tiny_bundle.parent.glob("finetune-*"))
    with pytest.raises(FolderError) as error:
        Bundle.open(folder)
    assert str(folder) in str(error.value)


def test_self_check_fails_on_other_logits(tiny_bundle, tmp_path):
    open_engine(tiny_bundle).self_check()
    folder = copy_with_other_golden_logits(tiny_bundle, tmp_path / "golden")
    with pytest.raises(CheckError, match="golden texts"):
        open_engine(folder).self_check()


def test_unknown_variant_is_refused(tiny_bundle):
    with pytest.raises(FolderError, match="cpu-fp32"):
        Engine.open(Bundle.open(tiny_bundle), RuntimeSettings(device="cpu", variant="cpu-int4"))


def test_copy_of_the_bundle_answers_the_same(tiny_bundle, tmp_path):
    shutil.copytree(tiny_bundle, tmp_path / "copy")
    rows = tiny_texts(12).rows
    assert np.array_equal(open_engine(tmp_path / "copy").logits(rows), open_engine(tiny_bundle).logits(rows))


def test_info_tells_what_was_measured(tiny_bundle, tmp_path):
    shutil.copytree(tiny_bundle, tmp_path / "measured")
    told = {
        "accuracy": 0.9,
        "loss_points": 0.5,
        "loss_interval": [0.1, 0.9],
        "speedup": {"ort_fp32": 4.2},
        "rows": 100,
        "reference": "ort_fp32",
    }
    (tmp_path / "measured" / "report.json").write_text(json.dumps(told))
    with TestClient(App(Desk(open_engine(tmp_path / "measured"), Settings()))) as client:
        assert client.get("/info").json()["measured"] == told
