"""The Open Inference Protocol over gRPC: real servers and clients, and the same answers as over HTTP."""

import asyncio
import gc
import json
import os
import re
import signal
import socket
import subprocess
import sys
import threading
from contextlib import contextmanager
from pathlib import Path

import grpc
import numpy as np
import pytest
import requests
from gates import add_gate
from test_server_process import PRUNELLA, free_port, running
from tiny import tiny_texts

from service.grpc.messages import MESSAGES, POOL, message
from service.grpc.server import NAME, GrpcServer
from service.inference.inference_service import InferenceService
from service.model.bundle import Bundle
from service.model.engine import Engine
from service.model.session import RuntimeSettings
from service.settings import Settings

tritongrpc = pytest.importorskip("tritonclient.grpc", reason="Triton's client is tested where it is installed")
pytest_plugins = ["serving"]  # the fixture tiny_bundle
ROOT = Path(__file__).resolve().parents[3]
TEXTS = sorted({row[0] for row in tiny_texts(64).rows})[:12]
Code = grpc.StatusCode


@contextmanager
def serving(bundle, folder, **settings):
    """Serve a bundle; give the process, the URL and the address for gRPC."""
    kept = {k: v for k, v in os.environ.items() if not k.startswith(("PRUNELLA_", "BENTOML_"))}
    port = free_port()
    named = {f"PRUNELLA_{name}": value for name, value in settings.items()}
    environment = {**kept, "PYTHONPATH": str(ROOT), "PRUNELLA_PORT_GRPC": str(port), **named}
    with running([*PRUNELLA, "serve", str(bundle), "--device", "cpu"], environment, folder / "log") as (process, url):
        yield process, url, f"127.0.0.1:{port}"


@pytest.fixture(scope="module")
def server(tiny_bundle, tmp_path_factory):
    """URL and address of a server of a bundle with a gate, which takes at most 4,000 bytes in a request."""
    folder = tmp_path_factory.mktemp("gated")
    bundle = add_gate(tiny_bundle, folder / "bundle")
    with serving(bundle, folder, MAX_BODY_BYTES="4000") as (_, url, address):
        yield url, address


@pytest.fixture(scope="module")
def locked(tiny_bundle, tmp_path_factory):
    """Address of a server with a key and two workers."""
    settings = {"API_KEY": "let-me-in", "WORKERS": "2", "RUNNERS": "1"}
    with serving(tiny_bundle, tmp_path_factory.mktemp("locked"), **settings) as (_, _, address):
        yield address


def call(address, name, request=None, timeout=20, metadata=()):
    """Call a method with plain grpcio; return the response and the trailing metadata."""
    with grpc.insecure_channel(address) as channel:
        response = message(f"{name}Response")
        method = channel.unary_unary(
            f"/{NAME}/{name}",
            request_serializer=message(f"{name}Request").SerializeToString,
            response_deserializer=response.FromString,
        )
        answer, state = method.with_call(request or message(f"{name}Request")(), timeout, metadata)
        return answer, dict(state.trailing_metadata())


def asked(texts, model="prunella", outputs=(), **fields):
    request = message("ModelInferRequest")(model_name=model, **fields)
    tensor = request.inputs.add(name="text", datatype="BYTES", shape=[len(texts)])
    tensor.contents.bytes_contents.extend(text if isinstance(text, bytes) else text.encode() for text in texts)
    for name in outputs:
        request.outputs.add(name=name)
    return request


def problem(address, name, request, **options):
    with pytest.raises(grpc.RpcError) as failed:
        call(address, name, request, **options)
    return failed.value


def over_http(url, texts, **headers):
    tensor = {"name": "text", "shape": [len(texts)], "datatype": "BYTES", "data": texts}
    answer = requests.post(f"{url}/v2/models/prunella/infer", json={"inputs": [tensor]}, headers=headers, timeout=20)
    outputs = {output["name"]: output for output in answer.json()["outputs"]}
    return outputs, answer.headers["x-cascade-stage"]


def test_the_messages_are_those_of_the_protocol():
    """Triton's client has compiled the protocol; it also has methods and fields that only Triton knows."""

    def compare(ours, theirs):
        for field in ours.fields:
            other = theirs.fields_by_name[field.name]
            assert (field.number, field.type, field.is_repeated) == (other.number, other.type, other.is_repeated)
            if field.message_type is not None:
                assert field.message_type.name == other.message_type.name
                compare(field.message_type, other.message_type)

    outer = [name for name in MESSAGES if "." not in name]
    assert len(outer) == 14
    for name in outer:
        compare(
            POOL.FindMessageTypeByName(f"inference.{name}"),
            tritongrpc.service_pb2.DESCRIPTOR.message_types_by_name[name],
        )


def test_the_client_of_triton_gets_the_answers_over_http(server):
    url, address = server
    with tritongrpc.InferenceServerClient(address) as client:
        assert client.is_server_live()
        assert client.is_server_ready()
        assert client.is_model_ready("prunella")
        assert client.get_server_metadata().name == "prunella"
        metadata = client.get_model_metadata("prunella")
        wanted = requests.get(f"{url}/v2/models/prunella", timeout=20).json()
        assert (metadata.name, list(metadata.versions), metadata.platform) == (
            wanted["name"], wanted["versions"], wanted["platform"],
        )  # fmt: skip
        for ours, theirs in zip(
            [*metadata.inputs, *metadata.outputs], wanted["inputs"] + wanted["outputs"], strict=True
        ):
            assert {"name": ours.name, "datatype": ours.datatype, "shape": list(ours.shape)} == theirs
        tensor = tritongrpc.InferInput("text", [len(TEXTS)], "BYTES")
        tensor.set_data_from_numpy(np.array([text.encode() for text in TEXTS], dtype=object))
        answer = client.infer("prunella", [tensor], request_id="seven")
        outputs, _ = over_http(url, TEXTS)
        assert answer.get_response().id == "seven"
        scores = np.array(outputs["scores"]["data"], dtype=np.float32).reshape(len(TEXTS), -1)
        assert (answer.as_numpy("scores") == scores).all()
        assert [label.decode() for label in answer.as_numpy("label")] == outputs["label"]["data"]
        logits = client.infer("prunella", [tensor], outputs=[tritongrpc.InferRequestedOutput("logits")])
        assert logits.as_numpy("logits").shape == scores.shape
        with pytest.raises(tritongrpc.InferenceServerException, match="classification"):
            client.infer("prunella", [tensor], outputs=[tritongrpc.InferRequestedOutput("label", class_count=1)])


def test_the_client_of_triton_gets_the_best_classes_as_text(server):
    _, address = server
    with tritongrpc.InferenceServerClient(address) as client:
        assert list(client.get_server_metadata().extensions) == ["classification"]
        tensor = tritongrpc.InferInput("text", [1], "BYTES")
        tensor.set_data_from_numpy(np.array([TEXTS[0]], dtype=object))
        wanted = [tritongrpc.InferRequestedOutput("scores", class_count=1), tritongrpc.InferRequestedOutput("label")]
        found = client.infer("prunella", [tensor], outputs=wanted)
    ((best,),) = found.as_numpy("scores").tolist()
    assert best.decode().split(":")[2] == found.as_numpy("label")[0].decode()


def test_contents_are_answered_with_contents(server):
    url, address = server
    answer, _ = call(address, "ModelInfer", asked(TEXTS, id="eight"))
    outputs, _ = over_http(url, TEXTS)
    assert answer.id == "eight"
    assert not answer.raw_output_contents
    scores, label = answer.outputs
    assert (scores.name, scores.datatype, list(scores.shape)) == ("scores", "FP32", [len(TEXTS), 2])
    np.testing.assert_array_equal(
        np.array(scores.contents.fp32_contents, np.float32), np.array(outputs["scores"]["data"], np.float32)
    )
    assert [one.decode() for one in label.contents.bytes_contents] == outputs["label"]["data"]


def test_the_stage_of_a_cascade_is_in_the_metadata(server):
    url, address = server
    _, stage = over_http(url, TEXTS)
    assert set(stage) == {"g", "s"}
    assert call(address, "ModelInfer", asked(TEXTS))[1]["x-cascade-stage"] == stage
    _, trailing = call(address, "ModelInfer", asked(TEXTS), metadata=(("x-cascade", "false"),))
    assert trailing["x-cascade-stage"] == "s" * len(TEXTS)
    refused = problem(address, "ModelInfer", asked(TEXTS), metadata=(("x-cascade", "maybe"),))
    assert refused.code() is Code.INVALID_ARGUMENT


def raw(texts, parts):
    request = asked(texts)
    request.inputs[0].ClearField("contents")
    request.raw_input_contents.extend(parts)
    return request


@pytest.mark.parametrize(
    ("request_", "code", "message_"),
    [
        (asked(["good"], model="other"), Code.NOT_FOUND, "this server has prunella"),
        (asked(["good"], model_version="3"), Code.NOT_FOUND, "no such model"),
        (asked([]), Code.INVALID_ARGUMENT, "is empty"),
        (asked(["good", " "]), Code.INVALID_ARGUMENT, r"a text is empty \(the text at index 1\)"),
        (asked(["good", b"\xff"]), Code.INVALID_ARGUMENT, "not UTF-8"),
        (asked(["good"], outputs=["colour"]), Code.INVALID_ARGUMENT, "unknown output 'colour'"),
        (asked(["good"] * 33), Code.INVALID_ARGUMENT, "33 texts in one request, at most 32"),
        (asked(["x" * 5000]), Code.RESOURCE_EXHAUSTED, "larger than max"),
        (raw(["good"], [b"\x04\0\0\0good"] * 2), Code.INVALID_ARGUMENT, "2 raw_input_contents for 1 inputs"),
        (raw(["good"], [b"\x04\0\0\0go"]), Code.INVALID_ARGUMENT, "longer than the tensor"),
        (raw(["good"], [b"\x01"]), Code.INVALID_ARGUMENT, "ends inside the length"),
        (message("ModelInferRequest")(model_name="prunella"), Code.INVALID_ARGUMENT, "inputs"),
    ],
)
def test_what_is_refused_says_why(server, request_, code, message_):
    refused = problem(server[1], "ModelInfer", request_)
    assert refused.code() is code
    assert re.search(message_, refused.details())


@pytest.mark.parametrize("data", [b"\xff\xff\xff", b"\x0a\x7fprunella", b"\x0a\x01\xff"])
def test_what_is_no_message_of_the_protocol_is_the_clients_error(server, data):
    """Broken bytes, a field that is longer than the message, a name that is not UTF-8."""
    with grpc.insecure_channel(server[1]) as channel, pytest.raises(grpc.RpcError) as refused:
        channel.unary_unary(f"/{NAME}/ModelInfer")(data, timeout=20)
    assert refused.value.code() is Code.INVALID_ARGUMENT
    assert "is not a message of the kind ModelInferRequest" in refused.value.details()


def test_another_type_of_data_is_refused(server):
    request = message("ModelInferRequest")(model_name="prunella")
    request.inputs.add(name="text", datatype="INT64", shape=[1]).contents.int64_contents.append(7)
    refused = problem(server[1], "ModelInfer", request)
    assert (refused.code(), refused.details()) == (Code.INVALID_ARGUMENT, "input 'text' is INT64, wanted BYTES")


def test_the_error_of_one_text_has_its_index_in_the_metadata(server):
    refused = problem(server[1], "ModelInfer", asked(["good", " "]))
    assert dict(refused.trailing_metadata())["index"] == "1"


def test_answers_are_counted_under_their_own_label(server):
    url, address = server
    call(address, "ModelInfer", asked(TEXTS))
    page = requests.get(f"{url}/metrics", timeout=20).text
    assert 'prunella_requests_total{code="200",dialect="grpc"}' in page


def test_the_key_is_in_the_metadata_and_both_workers_ask_for_it(locked):
    assert call(locked, "ServerLive")[0].live
    assert call(locked, "ServerReady")[0].ready
    for _ in range(8):  # a connection each: the kernel spreads them over the workers
        assert problem(locked, "ModelInfer", asked(["good"])).code() is Code.UNAUTHENTICATED
        for metadata in ((("authorization", "Bearer let-me-in"),), (("x-api-key", "let-me-in"),)):
            assert call(locked, "ModelInfer", asked(["good"]), metadata=metadata)[0].outputs[0].name == "scores"
    model = message("ModelReadyRequest")(name="prunella")
    assert problem(locked, "ModelReady", model).code() is Code.UNAUTHENTICATED


class Held:
    """An engine whose model waits until it may go."""

    def __init__(self, engine):
        self._engine, self.go, self.reached = engine, threading.Event(), threading.Event()

    def __getattr__(self, name):
        return getattr(self._engine, name)

    def infer(self, encoded):
        self.reached.set()
        self.go.wait(30)
        return self._engine.infer(encoded)


def test_a_refused_request_is_not_kept(tiny_bundle):
    """gRPC keeps the frames of an aborted call until the garbage collector runs, which may be after a gigabyte."""
    many = message("ModelInferRequest")(model_name="prunella")
    tensor = many.inputs.add(name="text", datatype="BYTES", shape=[20_000])
    tensor.contents.bytes_contents.extend([b""] * 20_000)

    async def go():
        inference = InferenceService(
            Engine.open(Bundle.open(tiny_bundle), RuntimeSettings(device="cpu")), Settings(device="cpu")
        )
        await inference.start()
        server = GrpcServer(inference)
        address = f"127.0.0.1:{await server.start('127.0.0.1', 0)}"
        try:
            await asyncio.to_thread(problem, address, "ModelInfer", many)
            gc.collect()
            gc.disable()
            before = len(gc.get_objects())
            for _ in range(10):
                refused = await asyncio.to_thread(problem, address, "ModelInfer", many)
                assert refused.code() is Code.INVALID_ARGUMENT
                assert "20000 texts in one request" in refused.details()
            assert len(gc.get_objects()) - before < 20_000  # 10 times as many texts were refused
        finally:
            gc.enable()
            await server.stop(0)
            await inference.stop()

    asyncio.run(go())


def test_malformed_requests_of_every_kind(tiny_bundle, tmp_path):
    with serving(tiny_bundle, tmp_path) as (_, url, address):
        command = [sys.executable, "-m", "loadtests.malformed", "--url", url, "--grpc", address]
        command += ["--requests", "400", "--threads", "8"]
        ended = subprocess.run(command, cwd=ROOT, capture_output=True, text=True, timeout=300, check=False)
    told = json.loads(ended.stdout.splitlines()[-1])
    assert told["bad"] == {}, ended.stderr
    assert {"OK", "INVALID_ARGUMENT", "NOT_FOUND", "RESOURCE_EXHAUSTED", "UNIMPLEMENTED", "CLOSED"} <= set(
        told["codes"]
    )


def test_deadlines_of_clients_and_a_queue_that_is_full(tiny_bundle):
    engine = Held(Engine.open(Bundle.open(tiny_bundle), RuntimeSettings(device="cpu")))

    async def go():
        settings = Settings(device="cpu", runners=1, max_queue=1)
        inference = InferenceService(engine, settings)
        await inference.start()
        server = GrpcServer(inference)
        address = f"127.0.0.1:{await server.start('127.0.0.1', 0)}"
        try:
            first = asyncio.create_task(asyncio.to_thread(call, address, "ModelInfer", asked(["good"])))
            assert await asyncio.to_thread(engine.reached.wait, 20)
            late = await asyncio.to_thread(problem, address, "ModelInfer", asked(["good"]), timeout=0.3)
            assert late.code() is Code.DEADLINE_EXCEEDED
            while inference.runners.waiting():  # the text whose client has gone
                await asyncio.sleep(0.01)
            second = asyncio.create_task(asyncio.to_thread(call, address, "ModelInfer", asked(["good"])))
            while inference.runners.waiting() != 1:
                await asyncio.sleep(0.01)
            refused = await asyncio.to_thread(problem, address, "ModelInfer", asked(["good"]))
            assert refused.code() is Code.RESOURCE_EXHAUSTED
            assert "the queue is full" in refused.details()
            assert int(dict(refused.trailing_metadata())["retry-after-ms"]) > 0
            ending = asyncio.create_task(server.stop(20))
            await asyncio.sleep(0.2)
            engine.go.set()
            answers = await asyncio.gather(first, second)  # what was admitted is answered
            assert [len(answer.outputs) for answer, _ in answers] == [2, 2]
            await ending
        finally:
            engine.go.set()
            await server.stop(0)
            await inference.stop()

    asyncio.run(go())


def test_the_server_ends_and_is_restarted_with_its_port_for_grpc(tiny_bundle, tmp_path):
    with serving(tiny_bundle, tmp_path) as (process, url, address):
        assert call(address, "ServerLive")[0].live
        process.send_signal(signal.SIGHUP)  # a new worker listens on the same port before the old one ends
        before = requests.get(f"{url}/info", timeout=20).json()["id"]
        for _ in range(20):
            assert call(address, "ModelReady", message("ModelReadyRequest")(name="prunella"))[0].ready
        assert requests.get(f"{url}/info", timeout=20).json()["id"] == before
        process.send_signal(signal.SIGTERM)
        assert process.wait(30) == 0
    with pytest.raises(grpc.RpcError):
        call(address, "ServerLive", timeout=1)


def start(bundle, folder, **environment):
    kept = {k: v for k, v in os.environ.items() if not k.startswith(("PRUNELLA_", "BENTOML_"))}
    environment = {**kept, "PYTHONPATH": str(ROOT), **environment}
    server = running([*PRUNELLA, "serve", str(bundle), "--device", "cpu"], environment, folder / "log")
    with pytest.raises(AssertionError) as ended, server:
        pass
    return str(ended.value)


def test_a_port_that_is_taken_and_a_missing_package_prevent_the_start(tiny_bundle, tmp_path):
    with socket.socket() as taken:
        taken.bind(("127.0.0.1", 0))
        taken.listen()
        log = start(tiny_bundle, tmp_path, PRUNELLA_PORT_GRPC=str(taken.getsockname()[1]))
        assert "cannot be used for gRPC (Address already in use): set another PRUNELLA_PORT_GRPC" in log
    missing = tmp_path / "missing"
    missing.mkdir()
    (missing / "grpc.py").write_text("raise ImportError('none')")
    path = os.pathsep.join([str(missing), str(ROOT)])
    log = start(tiny_bundle, tmp_path, PRUNELLA_PORT_GRPC=str(free_port()), PYTHONPATH=path)
    assert "pip install 'prunella[grpc]'" in log
