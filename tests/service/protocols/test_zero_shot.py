"""Zero-shot classification has the scores of transformers' pipeline."""

import shutil

import pytest
from bundles import sign
from starlette.testclient import TestClient
from tiny import make_tiny_checkpoint
from transformers import AutoModelForSequenceClassification, PreTrainedTokenizerFast, pipeline

from export.writer import to_onnx
from models.checkpoint import load_checkpoint
from models.task import Task
from service.inference.inference_service import InferenceService
from service.model.bundle import FILE, GOLDEN, Bundle, BundleInfo, Golden
from service.model.engine import Engine
from service.model.session import RuntimeSettings
from service.settings import Settings
from service.web.app import App

pytest_plugins = ["serving"]  # the fixture pair_bundle
TEXTS = ["a good film with lovely music", "the dull story of a cold plot"]
LABELS = ["film", "music", "a very dull story", "plot"]
ORDERS = {
    "contradiction first": ("contradiction", "neutral", "entailment"),
    "entailment first": ("ENTAILMENT", "neutral", "contradiction"),
    "two labels": ("not_entailment", "entailment"),
}


@pytest.fixture(scope="module", params=ORDERS)
def models(request, pair_bundle, tmp_path_factory):
    """The same random model in fp32: a client of its server, and transformers' pipeline."""
    names = ORDERS[request.param]
    folder = tmp_path_factory.mktemp("nli")
    make_tiny_checkpoint(folder / "checkpoint", labels=len(names))
    task = Task(labels=names, pair=True, max_tokens=48)
    task.write(folder / "checkpoint" / "task.json")
    bundle = folder / "bundle"
    shutil.copytree(pair_bundle, bundle)
    shutil.copy(folder / "checkpoint" / "tokenizer.json", bundle / "tokenizer.json")
    task.write(bundle / "task.json")
    info = BundleInfo.read(bundle / FILE)
    to_onnx(load_checkpoint(folder / "checkpoint"), bundle / info.variants["cpu-fp32"].file, pair=True)
    stored = Golden.read(bundle / GOLDEN)
    Golden(rows=stored.rows, logits={}).write(bundle / GOLDEN)
    sign(bundle)
    engine = Engine.open(Bundle.open(bundle), RuntimeSettings(device="cpu", variant="cpu-fp32"))
    theirs = AutoModelForSequenceClassification.from_pretrained(folder / "checkpoint")
    theirs.config.id2label = dict(enumerate(names))
    theirs.config.label2id = {name: i for i, name in enumerate(names)}
    tokenizer = PreTrainedTokenizerFast(
        tokenizer_file=str(bundle / "tokenizer.json"), pad_token="[PAD]", model_max_length=48
    )
    with TestClient(App(InferenceService(engine, Settings(device="cpu")))) as client:
        yield client, pipeline("zero-shot-classification", model=theirs, tokenizer=tokenizer, device="cpu")


@pytest.mark.parametrize("labels", [LABELS, LABELS[:1], "film, music,plot"])
@pytest.mark.parametrize(
    "options", [{}, {"multi_label": True}, {"hypothesis_template": "it was {}", "multi_label": False}]
)
def test_the_scores_are_those_of_transformers(models, labels, options):
    client, theirs = models
    parameters = {"candidate_labels": labels, **options}
    wanted = theirs(TEXTS, **parameters)
    found = client.post("/", json={"inputs": TEXTS, "parameters": parameters}).json()
    native = client.post("/v1/classify", json={"texts": TEXTS, "parameters": parameters}).json()["predictions"]
    for text, ours, row, expected in zip(TEXTS, found, native, wanted, strict=True):
        assert ours["sequence"] == text
        assert ours["labels"] == expected["labels"] == [prediction["label"] for prediction in row]
        assert ours["scores"] == pytest.approx(expected["scores"], abs=1e-4)
        assert ours["scores"] == [prediction["score"] for prediction in row]
    single = client.post("/", json={"inputs": TEXTS[0], "parameters": parameters}).json()
    assert single["labels"] == found[0]["labels"]
    assert single["scores"] == pytest.approx(found[0]["scores"], abs=1e-6)


def test_a_long_text_leaves_room_for_the_hypothesis(models):
    client, theirs = models
    text = "a good film with lovely music " * 20
    wanted = theirs(text, candidate_labels=LABELS)
    found = client.post("/", json={"inputs": text, "parameters": {"candidate_labels": LABELS}}).json()
    assert found["scores"] == pytest.approx(wanted["scores"], abs=1e-4)
