"""The docs are true: each walk of docs/contributing.md is followed with a tiny example."""

import dataclasses
import importlib
import inspect
import json
import re
import shutil
from pathlib import Path
from types import ModuleType
from typing import Annotated, Any, Literal, get_args

import numpy as np
import pytest
import torch
import typer
from pydantic import ValidationError
from safetensors.torch import load_file, save_file
from sklearn.metrics import balanced_accuracy_score
from starlette.testclient import TestClient
from tiny import make_tiny_checkpoint, tiny_texts
from verbs import run

from bench.engines.available import Inputs
from bench.engines.reference import find_reference
from bench.measure.accuracy.bootstrap import bca_interval
from bench.measure.accuracy.difference import Difference, Metric, widened
from bench.measure.accuracy.paired_interval import unseen_share
from bench.measure.accuracy.task_metric import CHOICES, NAMES, choose_metric
from bench.measure.engine_spec import DESCRIPTIONS
from bench.measure.latency.engine_worker import OPENERS
from bench.report.bench_config import BenchConfig
from bench.report.build import run_bench
from bench.report.bundle_summary import LOSS
from bench.report.plots import COLORS
from compress.quantization import recipes
from compress.quantization.calibration_texts import BundleTexts
from compress.quantization.quantize import (
    Int8Recipe,
    QuantizationContext,
    QuantizeConfig,
    Recipe,
    RecipeCandidate,
    int8_variant,
    quantize,
)
from export.agreement import LOSS_NAMES, Labelled
from export.fused_operators import check_fused
from export.graph_precision import Precision
from export.writer import to_onnx
from loadtests.payloads import DIALECTS
from models import task as task_file
from models.architecture import Architecture, FamilyName
from models.checkpoint import load_checkpoint, save_checkpoint
from models.classifier import TensorBatch
from models.data.texts import read_texts
from models.errors import CheckError, InputError
from models.families import FAMILIES
from models.families.bert import BERT
from models.schema import Record, explain
from models.task import Task
from models.tokenizer import Tokenizer
from prunella.api import _with_paths
from prunella.cli import main as cli
from prunella.cli.output import prints
from prunella.cli.quantize import quantize as quantize_command
from service.inference.inference_service import InferenceService
from service.model.bundle import Bundle
from service.model.engine import Engine, run_session
from service.model.session import RuntimeSettings, open_session
from service.protocols import BadRequest, Request
from service.settings import Settings
from service.web import dialects
from service.web.app import App
from service.web.classify_routes import ClassifyRoutes
from service.web.dialects import Dialect, only
from service.web.openapi import openapi
from service.web.route import Route

pytest_plugins = ["serving"]  # the fixture tiny_bundle
ROOT = Path(__file__).resolve().parent.parent
DOCS = ROOT / "docs"
PACKAGES = ("models", "service", "export", "bench", "compress", "prunella", "loadtests", "tools")
FOLDERS = (*PACKAGES, "tests", "docs")
PAGES = [ROOT / "README.md", *sorted(DOCS.glob("*.md"))]
ALL_PAGES = [*PAGES, *sorted((DOCS / "results").glob("*.md"))]
TASK = Task(labels=("negative", "positive"), max_tokens=32)
each_page = pytest.mark.parametrize("page", PAGES, ids=lambda page: page.name)


def copy_as_twin(source: Path, target: Path) -> None:
    """Copy a BERT checkpoint as one of the family `twin`, which is BERT with other names."""
    target.mkdir()
    tensors = load_file(source / "model.safetensors")
    renamed = {re.sub(r"^bert\.", "twin.", name): tensor.clone() for name, tensor in tensors.items()}
    save_file(renamed, target / "model.safetensors")
    config = json.loads((source / "config.json").read_text())
    (target / "config.json").write_text(json.dumps(config | {"model_type": "twin"}))
    shutil.copyfile(source / "tokenizer.json", target / "tokenizer.json")


@torch.no_grad()
def test_a_model_family_takes_a_name_a_file_and_an_entry(tmp_path, monkeypatch):
    make_tiny_checkpoint(tmp_path / "bert")
    copy_as_twin(tmp_path / "bert", tmp_path / "twin")
    with pytest.raises(InputError, match="'twin' model"):
        load_checkpoint(tmp_path / "twin")

    class TwinArchitecture(Architecture):  # step 1: FamilyName has one name more
        family: Literal["bert", "twin"] = "bert"

    for module in ("models.checkpoint", "models.families.family"):
        monkeypatch.setattr(importlib.import_module(module), "Architecture", TwinArchitecture)
    names = dataclasses.replace(
        BERT.names, prefix="twin", head={"dense": "twin.pooler.dense", "out": "classifier"}
    )  # fmt: skip
    twin = dataclasses.replace(BERT, name="twin", classes="Twin", names=names)  # step 2
    monkeypatch.setitem(FAMILIES, "twin", twin)  # step 3

    model, original = load_checkpoint(tmp_path / "twin"), load_checkpoint(tmp_path / "bert")
    tokens = Tokenizer.open(tmp_path / "twin", 32).batch(tiny_texts(6).rows)
    batch = TensorBatch(tokens)
    assert (model.architecture.family, original.architecture.family) == ("twin", "bert")
    assert torch.equal(model(batch)[0], original(batch)[0])
    saved = tmp_path / "saved"
    saved.mkdir()
    save_checkpoint(model, TASK, saved)
    config = json.loads((saved / "config.json").read_text())
    assert (config["model_type"], config["architectures"]) == ("twin", ["TwinForSequenceClassification"])
    assert torch.equal(load_checkpoint(saved)(batch)[0], model(batch)[0])
    graph, shape = tmp_path / "fp32.onnx", model.architecture
    to_onnx(model, graph, pair=False)
    check_fused(graph, shape, Precision.all_fp32(shape), static=False)
    assert np.allclose(run_session(open_session(graph), tokens), model(batch)[0].numpy(), atol=1e-4)


def test_every_family_has_a_name_and_an_entry():
    assert set(FAMILIES) == set(get_args(FamilyName))


def test_an_engine_takes_a_function_a_description_an_opener_and_a_colour(tiny_bundle, tmp_path, monkeypatch):
    shutil.copytree(tiny_bundle, tmp_path / "bundle")  # a report is written into it
    store, bundle = tiny_bundle.parent, Bundle.open(tmp_path / "bundle")
    inputs = Inputs(bundle, find_reference(bundle, store), tiny_texts(30), None)
    config = BenchConfig(against=("ort_fp32", "plain"), batches=(1,), texts=4, rounds=3, openings=2)
    with pytest.raises(InputError, match="'plain'"):
        run_bench(inputs, config, store, tmp_path / "report")
    # step 1: odd_engines.plain
    monkeypatch.setitem(DESCRIPTIONS, "plain", "the number of letters")  # step 2
    monkeypatch.setitem(OPENERS, "plain", "odd_engines:plain")  # step 3
    monkeypatch.setitem(COLORS, "plain", "#777777")
    report = run_bench(inputs, config, store, tmp_path / "report")
    row = report.engine("plain")
    assert (row.status, row.problem) == ("ok", None)
    assert all(timing.p50_ms > 0 for timing in row.timings)
    assert "| plain |" in (tmp_path / "report" / "report.md").read_text()
    assert "the number of letters" in (tmp_path / "report" / "report.html").read_text()


def test_every_engine_has_a_description_an_opener_and_a_colour():
    assert set(DESCRIPTIONS) == set(COLORS) == set(OPENERS) - {"graph"}  # of the search, in no report


class LabelBody(Record):
    """JSON of a request in the made-up protocol."""

    document: str


def make_label_protocol() -> ModuleType:
    """Return a protocol that answers {"document": …} with {"label": …}."""

    def read(document: object) -> Request:
        try:
            body = LabelBody.model_validate(document)
        except ValidationError as problem:
            raise BadRequest(422, explain(problem)) from None
        return Request([(body.document,)], single=True, top_k=1)

    protocol = ModuleType("label")
    protocol.read = read
    protocol.write = lambda answer, request: {"label": answer.predictions[0][0]["label"]}
    protocol.error = lambda problem: {"problem": problem.message}
    return protocol


@pytest.fixture
def app(tiny_bundle):
    engine = Engine.open(Bundle.open(tiny_bundle), RuntimeSettings(device="cpu"))
    return App(InferenceService(engine, Settings(device="cpu")))


def test_a_protocol_takes_three_functions_and_a_route(app):
    protocol = make_label_protocol()  # step 1
    dialect = Dialect("label", protocol.read, protocol.write, protocol.error)  # step 2
    classify = ClassifyRoutes(app.inference)
    app._routes["/label"] = Route("label", {"POST": classify.handler(only(dialect))}, protocol.error)
    text = "a good film"
    with TestClient(app) as client:
        native = client.post("/v1/classify", json={"text": text}).json()["predictions"]
        answer = client.post("/label", json={"document": text})
        assert (answer.status_code, answer.json()) == (200, {"label": native[0]["label"]})
        refused = [
            client.post("/label", json={"text": text}), client.post("/label", json={"document": ""}),
            client.post("/label", json={"document": text}, headers={"X-Request-Timeout-Ms": "soon"}),
        ]  # fmt: skip
        assert [one.status_code for one in refused] == [422, 422, 422]
        assert all(one.json().keys() == {"problem"} for one in refused)
        assert client.get("/label").status_code == 405
        assert 'dialect="label"' in client.get("/metrics").text


def test_every_route_is_in_the_openapi_document_and_every_protocol_in_the_load_test(app):
    assert set(app._routes) <= set(openapi(Settings())["paths"])
    protocols = {value.label for value in vars(dialects).values() if isinstance(value, Dialect)}
    assert {"native", "tei", "vllm"} < protocols <= set(DIALECTS)


def test_a_recipe_takes_a_name_scales_and_an_entry(tmp_path, monkeypatch):
    source, graph = tmp_path / "classifier", tmp_path / "cpu-fp32.onnx"
    make_tiny_checkpoint(source)
    TASK.write(source / task_file.FILE)
    context = QuantizationContext(source, BundleTexts.of(tiny_texts(40)))
    to_onnx(context.model, graph, pair=False)

    class MoreAttempts(recipes.Attempt):  # step 1
        recipe: str

    class MoreSettings(QuantizeConfig):
        recipe: str = "clipless"

    def quantize_more(context, recipe, config, path):  # step 2: fixed scales of whole ranges, without smoothing
        if recipe != "clipless":
            return quantize(context, recipe, config, path)
        changed = config.model_copy(update={"method": "minmax", "smooth": False})
        candidate, scales = quantize(context, "static", changed, path)
        return dataclasses.replace(candidate, recipe=recipe), scales

    monkeypatch.setattr(recipes, "Attempt", MoreAttempts)
    monkeypatch.setattr(recipes, "quantize", quantize_more)
    monkeypatch.setitem(recipes.RECIPES, "clipless", ("clipless",))  # step 3
    choice = recipes.choose_recipe(context, MoreSettings(max_loss=100), graph, timed=False)
    assert choice.chosen.recipe == "clipless"
    assert choice.scales is not None
    assert [(one.recipe, one.rejected) for one in choice.attempts] == [("clipless", None)]
    assert int8_variant("clipless").recipe == "clipless"  # step 4: a bundle stores any name
    session = open_session(choice.chosen.path, variant=int8_variant("clipless"))
    rows = tiny_texts(6).rows
    together = run_session(session, context.tokenizer.batch(rows))
    alone = np.concatenate([run_session(session, context.tokenizer.batch([row])) for row in rows])
    assert np.array_equal(together, alone)  # fixed scales: the batch does not matter


def test_the_places_that_name_the_recipes_agree():
    int8, every = set(get_args(Int8Recipe)), set(get_args(Recipe))
    assert set(recipes.RECIPES) == every
    assert {name for names in recipes.RECIPES.values() for name in names} == int8
    assert set(get_args(recipes.Attempt.model_fields["recipe"].annotation)) == int8 | {"fp32"}
    assert set(get_args(inspect.get_annotations(RecipeCandidate)["recipe"])) == int8 | {"fp32"}
    option = inspect.signature(quantize_command).parameters["recipe"].annotation
    assert set(get_args(get_args(option)[0])) == every


def test_a_metric_takes_a_name_sums_over_rows_and_a_choice(monkeypatch):
    draw = np.random.default_rng(0)
    truth = draw.choice(3, 400, p=(0.6, 0.3, 0.1))
    reference, ours = (
        np.where(draw.random(400) < share, truth, draw.integers(0, 3, 400)) for share in (0.95, 0.6)
    )  # fmt: skip
    is_label = truth[:, None] == np.arange(3)
    hits = [is_label & (truth == answers)[:, None] for answers in (reference, ours)]
    columns = np.concatenate([is_label, *hits], axis=1).astype(np.uint8)  # (rows, 9)

    def losses(sums):  # step 2: mean recall, as a function of sums over rows
        rows, before, after = np.split(sums, 3, axis=1)
        return ((before - after) / np.maximum(rows, 1)).mean(axis=1)

    loss = 100 * float(losses(columns.sum(axis=0, dtype=np.float64)[None])[0])
    before, after = (balanced_accuracy_score(truth, answers) for answers in (reference, ours))
    assert loss == pytest.approx(100 * (before - after))
    low, high = (100 * bound for bound in bca_interval(losses, columns))
    assert low < loss < high

    class MoreDifference(Difference):  # step 1
        metric: Metric | Literal["balanced_accuracy"]

    resolution = 100 * unseen_share(400)
    fields = {
        "metric": "balanced_accuracy", "rows": 400, "loss_points": loss, "resolution_points": resolution,
        "loss_interval": widened((low, high), loss, resolution),
    }  # fmt: skip
    with pytest.raises(ValidationError, match="metric"):
        Difference.model_validate(fields)
    assert MoreDifference.model_validate(fields).verdict(max_loss=1.0) == "outside"
    with pytest.raises(InputError, match="'balanced_accuracy'"):
        choose_metric("single", "balanced_accuracy")
    monkeypatch.setitem(CHOICES, "single", (*CHOICES["single"], "balanced_accuracy"))  # step 3
    assert choose_metric("single", "balanced_accuracy") == "balanced_accuracy"


def test_the_places_that_name_the_metrics_agree():
    names = {name for choices in CHOICES.values() for name in choices}
    assert names == set(get_args(Metric)) == set(NAMES) == set(get_args(Labelled))
    assert names <= set(LOSS_NAMES)
    assert names <= set(LOSS)


def count(
    data: Annotated[Path, typer.Argument(help="texts")],
    least: Annotated[int, typer.Option(help="number of rows that there must be")] = 1,
) -> dict[str, Any]:
    """Count the rows of a file."""
    rows = len(read_texts(str(data)))
    if rows < least:
        raise CheckError(f"{data} has {rows} rows: wanted {least} or more")
    return {"rows": rows}


def test_a_command_takes_a_function_and_a_line(tmp_path, capsys, monkeypatch):
    path = tmp_path / "texts.jsonl"
    path.write_text('{"text": "a good film"}\n{"text": "a dull story"}\n')
    monkeypatch.setattr(cli.app, "registered_commands", list(cli.app.registered_commands))
    cli.app.command()(prints(count))  # step 3
    code, line, err = run(capsys, monkeypatch, "count", path)
    assert code == 0, err
    assert line == {"verb": "count", "rows": 2, "seconds": line["seconds"]}
    code, line, err = run(capsys, monkeypatch, "count", path, "--least", 3)
    assert (code, line) == (1, None)
    assert "wanted 3 or more" in err
    code, line, err = run(capsys, monkeypatch, "count", tmp_path / "none.jsonl")
    assert (code, line) == (2, None)
    assert "Traceback" not in err
    assert _with_paths(count)(str(path)) == {"rows": 2}  # step 4


def test_every_folder_of_code_is_on_the_map():
    page = (DOCS / "contributing.md").read_text(encoding="utf-8")
    folders = {path.parent.relative_to(ROOT) for name in PACKAGES for path in (ROOT / name).rglob("*.py")}
    assert not sorted(str(folder) for folder in folders if f"`{folder}/`" not in page)
