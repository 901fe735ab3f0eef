"""Alone or among others, over real sockets: each text gets the same answer, bit for bit, and it is the library's."""

import http.client
import json
import os
import random
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

import pytest
from bundles import make_tiny_bundle
from test_server_process import PRUNELLA, running
from tiny import BAD, GOOD, OTHER

from service.model.bundle import Bundle
from service.model.engine import Engine
from service.model.session import RuntimeSettings

pytest_plugins = ["serving"]  # the fixtures tiny_bundle and pair_bundle
ROOT = Path(__file__).resolve().parents[3]
WORDS = [*GOOD, *BAD, *OTHER, "unheard", "of", "3.5", "-"]
# as it is set by default; and whatever its length, so that nearly every run is padded
BUCKETS = {"default": {}, "wide": {"PRUNELLA_BUCKET_TOKENS": "64", "PRUNELLA_MAX_BATCH_ITEMS": "16"}}


@pytest.fixture(scope="module")
def dynamic_bundle(tmp_path_factory):
    return make_tiny_bundle(tmp_path_factory.mktemp("dynamic"), recipe="dynamic")


def rows_of(count, pair, seed=0):
    chance = random.Random(seed)
    return [
        tuple(" ".join(chance.choices(WORDS, k=chance.randint(1, 40))) for _ in range(2 if pair else 1))
        for _ in range(count)
    ]


def ask(url, bodies):
    host, port = url.removeprefix("http://").split(":")
    connection = http.client.HTTPConnection(host, int(port), timeout=60)
    found = []
    for body in bodies:
        connection.request("POST", "/v1/classify", json.dumps(body), {"Content-Type": "application/json"})
        answer = connection.getresponse()
        assert answer.status == 200, answer.read()
        found += json.loads(answer.read())["predictions"]
    connection.close()
    return found


def read_metric(url, name):
    host, port = url.removeprefix("http://").split(":")
    connection = http.client.HTTPConnection(host, int(port), timeout=60)
    connection.request("GET", "/metrics")
    page = connection.getresponse().read().decode()
    return float(next(line.split()[-1] for line in page.splitlines() if line.startswith(name)))


@pytest.mark.parametrize("buckets", BUCKETS)
@pytest.mark.parametrize("bundle", ["tiny_bundle", "pair_bundle", "dynamic_bundle"])
def test_alone_equals_in_a_batch_and_the_library(bundle, buckets, request, tmp_path):
    folder = request.getfixturevalue(bundle)
    engine = Engine.open(Bundle.open(folder), RuntimeSettings(device="cpu"))
    labels, pair = engine.bundle.task.labels, engine.bundle.task.pair
    rows = rows_of(240, pair)
    wanted = [dict(zip(labels, engine.logits([row])[0].tolist(), strict=True)) for row in rows]
    kept = {k: v for k, v in os.environ.items() if not k.startswith("PRUNELLA_")}
    environment = {**kept, **BUCKETS[buckets], "PYTHONPATH": str(ROOT), "PRUNELLA_RUNNERS": "1"}

    def bodies(some, size):
        groups = [some[i : i + size] for i in range(0, len(some), size)]
        name = "pairs" if pair else "texts"
        return [{name: group if pair else [row[0] for row in group], "raw_scores": True} for group in groups]

    def logits(predictions):
        return [{one["label"]: one["score"] for one in row} for row in predictions]

    command = [*PRUNELLA, "serve", str(folder), "--device", "cpu"]
    with running(command, environment, tmp_path / "log") as (_, url):
        assert logits(ask(url, bodies(rows[:60], 1))) == wanted[:60]
        shares = [rows[i::6] for i in range(6)]  # 40 each, in requests of 1 to 7 texts
        with ThreadPoolExecutor(6) as pool:
            answers = list(pool.map(lambda i: ask(url, bodies(shares[i], i + 1 + i % 2)), range(6)))
        for i, found in enumerate(answers):
            assert logits(found) == wanted[i::6]
        assert (read_metric(url, "prunella_padding_tokens_total") > 0) == (bundle != "dynamic_bundle")
