"""What the service decides, and what it refuses, before it answers: settings, device, a bundle that is not whole."""

import json
import logging
import re
import shutil
import threading
from dataclasses import replace
from http.server import BaseHTTPRequestHandler, HTTPServer
from pathlib import Path

import numpy as np
import pytest
from bundles import copy_with_other_golden_logits
from starlette.testclient import TestClient
from tiny import tiny_texts

from models.errors import CheckError, FolderError, InputError
from models.store.folder import MANIFEST
from service.inference.inference_service import InferenceService
from service.model.bundle import Bundle, BundleInfo, Variant
from service.model.engine import Engine
from service.model.session import RuntimeSettings, choose_device, count_gpus
from service.operations.tracing import Tracer
from service.process import launch
from service.process.cores import usable_cores
from service.process.worker import make_server
from service.settings import Settings
from service.web.app import App

DOCS = Path(__file__).resolve().parents[3] / "docs" / "serving.md"
pytest_plugins = ["serving"]  # the fixture tiny_bundle


def open_engine(folder):
    return Engine.open(Bundle.open(folder), RuntimeSettings(device="cpu"))


def test_settings_come_from_the_environment():
    found = Settings.from_environment({"PRUNELLA_MAX_BATCH": "5", "PRUNELLA_DEVICE": "cpu", "PATH": "/bin"})
    assert (found.max_batch, found.device, found.bundle) == (5, "cpu", "prunella:latest")


def test_a_gpu_runs_more_texts_at_once():
    settings = Settings(max_batch_tokens=2048)
    here, there = settings.rules("cpu"), settings.rules("cuda:0")
    assert (here.items, there.items, there.bucket, there.runners) == (4, 128, 64, 2)
    assert here.tokens == there.tokens == 2048  # what is set holds everywhere


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


def test_the_docs_have_every_setting_as_it_is():
    rows = dict(re.findall(r"^\| `(PRUNELLA_\w+)` \| (.*) \|$", DOCS.read_text(), re.MULTILINE))
    shown = {None: "unset", "": "empty"}
    for name, field in Settings.model_fields.items():
        wanted = f"{shown.get(field.default, f'`{field.default}`')} | {field.description}"
        assert rows.pop(f"PRUNELLA_{name.upper()}") == wanted
    assert not rows


def test_the_default_keep_alive_is_longer_than_the_idle_time_outs_of_load_balancers():
    assert Settings().keep_alive_s > 75


def test_connections_are_kept_as_long_as_the_setting_says(tiny_bundle):
    engine = Engine.open(Bundle.open(tiny_bundle), RuntimeSettings(device="cpu"))
    inference = InferenceService(engine, Settings(device="cpu", keep_alive_s=91))
    assert make_server(App(inference), inference).config.timeout_keep_alive == 91  # uvicorn's own is 5 s


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
    with TestClient(App(InferenceService(engine, Settings()))) as client:
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
        "subset_accuracy": None,
        "pearson": None,
        "loss_is": "accuracy",
        "loss_points": 0.5,
        "loss_interval": [0.1, 0.9],
        "speedup": {"ort_fp32": 4.2},
        "rows": 100,
        "reference": "ort_fp32",
    }
    (tmp_path / "measured" / "report.json").write_text(json.dumps(told))
    with TestClient(App(InferenceService(open_engine(tmp_path / "measured"), Settings()))) as client:
        assert client.get("/info").json()["measured"] == told


LIES = ["TensorrtExecutionProvider", "CUDAExecutionProvider", "CPUExecutionProvider"]


@pytest.mark.filterwarnings("ignore:Specified provider")
@pytest.mark.parametrize("asked", ["auto", "cuda", "cuda:1", "tensorrt"])
def test_a_provider_that_is_listed_and_does_not_load_is_a_loud_fall_back(tiny_bundle, caplog, asked):
    bundle = Bundle.open(tiny_bundle)
    info = bundle.info.model_copy(update={"default": {"cpu": "cpu-int8", "cuda": "cpu-fp32"}})
    bundle = replace(bundle, info=info)  # a bundle for a GPU too, on a machine that has none
    with caplog.at_level(logging.WARNING, "prunella"):
        engine = Engine.open(bundle, RuntimeSettings(device=asked), LIES)
    assert (engine.choice.got, engine.variant_name) == ("cpu", "cpu-int8")
    assert "libraries do not load" in engine.choice.reason
    assert "libraries do not load" in caplog.text
    engine.self_check()
    with pytest.raises(InputError, match="was required"):
        Engine.open(bundle, RuntimeSettings(device=asked, require_device=True), LIES)


def test_workers_take_gpus_in_turn():
    def got(asked, worker, gpus):
        return choose_device(BOTH, RuntimeSettings(device=asked, worker=worker), GPU, gpus).got

    assert [got("cuda", worker, 2) for worker in range(4)] == ["cuda:0", "cuda:1", "cuda:0", "cuda:1"]
    assert [got("auto", worker, 2) for worker in range(2)] == ["cuda:0", "cuda:1"]
    assert [got("cuda:1", worker, 2) for worker in range(2)] == ["cuda:1", "cuda:1"]


@pytest.mark.parametrize(("value", "count"), [("0,1", 2), ("", 0), ("-1", 0), ("GPU-a, GPU-b,GPU-c", 3)])
def test_gpus_that_this_process_sees(value, count, tmp_path):
    assert count_gpus({"CUDA_VISIBLE_DEVICES": value}, tmp_path) == count
    assert count_gpus({}, tmp_path / "none") == 0


NESTED = "0::/system.slice/prunella.service/worker\n"
UNLIMITED = {"cpu.max": "max 100000"}
FIRST = "4:cpu,cpuacct:/docker/abc\n3:memory:/other\n"


@pytest.mark.parametrize(
    ("membership", "files", "cores"),
    [
        (None, {}, 8),
        (None, {"cpu.max": "250000 100000"}, 2),
        ("0::/\n", {}, 8),
        ("0::/\n", UNLIMITED, 8),
        ("0::/\n", {"cpu.max": "250000 100000"}, 2),
        ("0::/\n", {"cpu.max": "50000 100000"}, 1),
        (NESTED, {"system.slice/prunella.service/worker/cpu.max": "300000 100000"}, 3),
        (NESTED, {"system.slice/prunella.service/cpu.max": "200000 100000"}, 2),
        (NESTED, {"system.slice/cpu.max": "400000 100000", "system.slice/prunella.service/cpu.max": "max 100000"}, 4),
        (
            NESTED,
            {"system.slice/cpu.max": "200000 100000", "system.slice/prunella.service/cpu.max": "500000 100000"},
            2,
        ),
        (NESTED, {"system.slice/another.service/cpu.max": "100000 100000"}, 8),
        (NESTED, {"cpu.max": "300000 100000"}, 3),  # a container that is told the host's path
        ("0::/../../kubepods/pod1\n", {"kubepods/pod1/cpu.max": "200000 100000"}, 2),
        ("0::/a b:c\n", {"a b:c/cpu.max": "200000 100000"}, 2),
        (FIRST, {"cpu/cpu.cfs_quota_us": "-1", "cpu/cpu.cfs_period_us": "100000"}, 8),
        (FIRST, {"cpu/cpu.cfs_quota_us": "300000", "cpu/cpu.cfs_period_us": "100000"}, 3),
        (FIRST, {"cpu/docker/abc/cpu.cfs_quota_us": "200000", "cpu/docker/abc/cpu.cfs_period_us": "100000"}, 2),
        (FIRST, {"cpu,cpuacct/docker/cpu.cfs_quota_us": "50000", "cpu,cpuacct/docker/cpu.cfs_period_us": "25000"}, 2),
        (FIRST, {"cpu/other/cpu.cfs_quota_us": "200000", "cpu/other/cpu.cfs_period_us": "100000"}, 8),
        (FIRST + "0::/docker/abc\n", {"unified/docker/abc/cpu.max": "500000 100000"}, 5),
        ("nonsense\n", {"cpu.max": "no numbers"}, 8),
    ],
)
def test_cores_are_those_of_affinity_and_of_the_quotas_of_all_groups(membership, files, cores, tmp_path):
    mount = tmp_path / "cgroup"
    for name, content in files.items():
        (mount / name).parent.mkdir(parents=True, exist_ok=True)
        (mount / name).write_text(content + "\n")
    if membership is not None:
        (tmp_path / "membership").write_text(membership)
    assert usable_cores(8, mount, tmp_path / "membership") == cores


def test_more_threads_than_cores_are_refused_and_more_workers_are_a_warning(caplog):
    many = str(usable_cores() + 1)
    for name in ("THREADS", "RUNNERS"):
        with pytest.raises(InputError, match="cores"):
            Settings.from_environment({f"PRUNELLA_{name}": many})
    with caplog.at_level(logging.WARNING, "prunella"):
        Settings.from_environment({"PRUNELLA_WORKERS": "1"}).warn_if_crowded()
        assert not caplog.records
        Settings.from_environment({"PRUNELLA_WORKERS": many}).warn_if_crowded()
        assert f"{many} workers" in caplog.text


def test_spans_are_sent_where_an_endpoint_is_set(tiny_bundle, monkeypatch):
    pytest.importorskip("opentelemetry.exporter.otlp.proto.http", reason="wanted prunella[otel]")
    sent = []

    class Collector(BaseHTTPRequestHandler):
        def do_POST(self):
            sent.append((self.path, self.rfile.read(int(self.headers["Content-Length"]))))
            self.send_response(200)
            self.send_header("Content-Length", "0")
            self.end_headers()

        def log_message(self, *_):
            pass

    assert Tracer.from_environment() is None
    with HTTPServer(("127.0.0.1", 0), Collector) as collector:
        threading.Thread(target=collector.serve_forever, daemon=True).start()
        monkeypatch.setenv("OTEL_EXPORTER_OTLP_ENDPOINT", f"http://127.0.0.1:{collector.server_port}")
        parent = "00-0123456789abcdef0123456789abcdef-0123456789abcdef-01"
        with TestClient(
            App(InferenceService(open_engine(tiny_bundle), Settings()), Tracer.from_environment())
        ) as client:
            client.post("/v1/classify", json={"text": "good film"}, headers={"traceparent": parent})
        collector.shutdown()
    ((path, body),) = sent
    assert path == "/v1/traces"
    assert b"prunella.infer_ms" in body
    assert bytes.fromhex("0123456789abcdef0123456789abcdef") in body


def test_workers_do_not_report_to_the_makers_of_onnx_runtime(monkeypatch):
    seen = {}

    class Supervisor:
        def __init__(self, listener, lifecycle, variables, copies):
            listener.close()
            seen.update(variables)

        def run(self, on_ready):
            return 0

    monkeypatch.delenv("ORT_DISABLE_TELEMETRY", raising=False)
    monkeypatch.setattr(launch, "Supervisor", Supervisor)
    assert launch.serve("bundle", "127.0.0.1", 0, {}, lambda: None) == 0
    assert seen["ORT_DISABLE_TELEMETRY"] == "1"
