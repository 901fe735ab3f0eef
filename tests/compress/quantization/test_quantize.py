"""The verbs `quantize` and `export`, and the bundles that they make."""

import copy
import json
import shutil
from pathlib import Path

import numpy as np
import onnx
import pytest
import torch
from onnx import TensorProto, helper
from safetensors.torch import load_file, save_file
from tiny import make_tiny_checkpoint, make_tiny_family, tiny_texts
from verbs import run

from bench.measure.accuracy.evaluate import evaluate
from compress.make_bundle import BundleConfig, BundleTexts, make_bundle
from export.writer import to_onnx
from models import task as task_file
from models import tokenizer as tokenizer_file
from models.checkpoint import load_checkpoint, save_checkpoint
from models.data.texts import Texts, read_texts
from models.store.folder import ModelFolder
from models.store.stage import Stage, run_stage
from models.task import Task
from service.model.bundle import Bundle
from service.model.engine import Engine
from service.model.session import RuntimeSettings
from tools.batch_invariance import largest_move

LABELS = {"single": 2, "multi": 3, "regression": 1}


def make_classifier(store: Path, kind: str = "single", pair: bool = False, family: str = "bert") -> ModelFolder:
    """Make a random classifier's folder, as a stage that fine-tunes leaves it."""
    encoder = store / f"{family}-{kind}"
    make_tiny_family(encoder, family, LABELS[kind])
    labels = ("negative", "positive") if kind == "single" else tuple("abc"[: LABELS[kind]])
    task = Task(kind=kind, labels=labels, pair=pair, max_tokens=32)

    def make(target: Path) -> None:
        save_checkpoint(load_checkpoint(encoder), task, target)
        task.write(target / task_file.FILE)
        shutil.copyfile(encoder / tokenizer_file.FILE, target / tokenizer_file.FILE)

    return run_stage(Stage("finetune", 1, {"kind": kind, "pair": pair, "family": family}), [], store, make).folder


def write_texts(path: Path, count: int = 80, labelled: bool = True, pair: bool = False) -> Path:
    data = tiny_texts(count, pair)
    given = [{"label": label} for label in data.labels] if labelled else [{}] * count
    texts = [dict(zip(("text", "text_pair"), row, strict=False)) for row in data.rows]
    lines = [text | label for text, label in zip(texts, given, strict=True)]
    path.write_text("\n".join(json.dumps(line) for line in lines))
    return path


@pytest.fixture(scope="module")
def made(tmp_path_factory):
    folder = tmp_path_factory.mktemp("quantize")
    write_texts(folder / "texts.jsonl", labelled=False)
    write_texts(folder / "labelled.jsonl")
    return folder, make_classifier(folder / "store")


def test_auto_measures_every_recipe_and_says_why_it_takes_one(made, tmp_path, capsys, monkeypatch):
    folder, classifier = made
    code, told, err = run(
        capsys, monkeypatch, "quantize", classifier.path, "--calibration", folder / "texts.jsonl", "--data",
        folder / "labelled.jsonl", "--max-loss", 100, "--store", tmp_path / "store", "--out", tmp_path / "out",
    )  # fmt: skip
    assert code == 0, err
    assert {t["recipe"] for t in told["tried"]} == {"static", "dynamic", "fp32"} == set(told["p50_ms"]) - {"ours"}
    assert [t["recipe"] for t in told["tried"] if t["rejected"] is None] == [told["recipe"]]
    assert all(f"{t['recipe']}: " in err for t in told["tried"])
    assert told["loss_points"] == pytest.approx(100 * (told["reference_accuracy"] - told["accuracy"]))
    assert told["loss_interval"][0] <= told["loss_points"] <= told["loss_interval"][1]
    assert {"speedup", "bytes", "rows", "architecture"} <= told.keys()
    assert {"flips", "max_difference", "mean_difference"} <= told["agreement"].keys()
    bundle = Bundle.open(tmp_path / "out")
    files = {variant.file for variant in bundle.info.variants.values()}
    assert {f"onnx/{p.name}" for p in (tmp_path / "out" / "onnx").glob("*.onnx")} == files
    sizes = {p.name: p.stat().st_size for p in (tmp_path / "out" / "onnx").iterdir()}
    assert all(sizes[f"{name}.bin"] > sizes[f"{name}.onnx"] for name in bundle.info.variants)  # weights are mapped
    assert len({p.stat().st_mode for p in (tmp_path / "out" / "onnx").iterdir()}) == 1
    assert told["bytes"] == bundle.served_bytes(bundle.info.default["cpu"])
    for name in bundle.info.variants:
        Engine.open(bundle, RuntimeSettings(device="cpu", variant=name)).self_check()


def test_the_loss_is_told_of_the_rows_that_are_reported(made, tmp_path, capsys, monkeypatch):
    """The rows that choose have the opposite labels here: what is right on the ones is wrong on the others."""
    folder, classifier = made
    rows = [json.loads(line) for line in (folder / "labelled.jsonl").read_text().splitlines()]
    other = {"negative": "positive", "positive": "negative"}
    reported = [{**row, "label": other[row["label"]]} for row in rows[:61]]
    (tmp_path / "test.jsonl").write_text("\n".join(map(json.dumps, reported)))
    code, told, err = run(
        capsys, monkeypatch, "quantize", classifier.path, "--calibration", folder / "texts.jsonl", "--data",
        folder / "labelled.jsonl", "--test", tmp_path / "test.jsonl", "--max-loss", 100, "--recipe", "static",
        "--store", tmp_path / "store", "--out", tmp_path / "out",
    )  # fmt: skip
    assert code == 0, err
    own, chosen = (
        evaluate(tmp_path / "out", read_texts(str(file))).accuracy
        for file in (tmp_path / "test.jsonl", folder / "labelled.jsonl")
    )
    assert own != pytest.approx(chosen)
    assert (told["accuracy"], told["rows"], told["choosing_rows"]) == (pytest.approx(own), 61, 80)


def test_a_recipe_that_loses_too_much_is_refused_and_leaves_nothing(made, tmp_path, capsys, monkeypatch):
    folder, classifier = made
    told = ("quantize", classifier.path, "--calibration", folder / "texts.jsonl", "--recipe", "static")
    monkeypatch.setattr(
        "compress.quantization.quantize.write_int8", _zeroed
    )  # a graph that always gives the same answer
    monkeypatch.setattr("compress.quantization.quantize.check_fused", lambda *_, **__: None)
    code, result, err = run(capsys, monkeypatch, *told, "--max-loss", 0, "--store", tmp_path / "store")
    assert (code, result) == (1, None)
    assert "static int8 loses" in err
    assert "stays in fp32" in err
    assert not [p for p in (tmp_path / "store").iterdir() if p.is_dir()]


def _zeroed(model, path, pair, scales, precision):
    constant = copy.deepcopy(model)
    with torch.no_grad():
        constant.head.out.weight.zero_()
        constant.head.out.bias.copy_(torch.tensor([1.0, 0.0]))
    to_onnx(constant, path, pair)


def test_export_writes_the_variants_that_were_asked_for(made, tmp_path, capsys, monkeypatch):
    _, classifier = made
    export = ("export", classifier.path, "--store", tmp_path / "store")
    code, told, err = run(capsys, monkeypatch, *export)
    assert (code, told["variants"]) == (0, ["cpu-fp32"]), err
    code, told, err = run(
        capsys, monkeypatch, *export, "--variant", "gpu-fp16", "--variant", "cpu-int8", "--data",
        made[0] / "texts.jsonl", "--max-loss", 100,
    )  # fmt: skip
    assert (code, told["variants"]) == (0, ["cpu-fp32", "cpu-int8", "gpu-fp16"]), err
    bundle = Bundle.open(Path(told["folder"]))
    assert bundle.info.default == {"cpu": "cpu-int8", "cuda": "gpu-fp16"}
    agreement = json.loads((bundle.folder.path / "agreement.json").read_text())
    assert agreement["torch_fp32"]["max_difference"] <= 1e-4
    assert 1e-5 < agreement["fp32_fp16"]["max_difference"] < 0.05
    assert set(agreement["without_vnni"]) >= {"encoder.layers.0.ffn.rise", "encoder.layers.1.attention.qkv.query"}
    code, told, err = run(capsys, monkeypatch, *export, "--variant", "cpu-int4")
    assert (code, told) == (2, None)
    assert "choose from cpu-fp32, cpu-int8, gpu-fp16" in err


@pytest.mark.parametrize(
    ("kind", "pair", "family"),
    [
        ("single", True, "bert"),
        ("multi", False, "roberta"),
        ("regression", True, "electra"),
        ("multi", False, "distilbert"),
    ],
)
def test_every_kind_of_task_goes_through_static_int8_and_fp16(tmp_path, kind, pair, family):
    classifier = make_classifier(tmp_path, kind, pair, family)
    texts = Texts(tiny_texts(72, pair).rows, None, "tiny", kind)
    config = BundleConfig(recipe="static", max_loss=100, gpu=True)
    bundle = Bundle.open(make_bundle(classifier, BundleTexts.of(texts), config, tmp_path).folder.path)
    assert bundle.task.kind == kind
    for name in bundle.info.variants:
        engine = Engine.open(bundle, RuntimeSettings(device="cpu", variant=name))
        engine.self_check()
        alone = np.concatenate([engine.logits([row]) for row in texts.rows[:12]])
        together = engine.logits(texts.rows[:12])  # products in fp32 add up in an order that depends on the batch
        assert np.array_equal(together, alone) if name == "cpu-int8" else np.allclose(together, alone, atol=5e-3)


def test_the_served_default_never_depends_on_batch_padding_or_order(made, tmp_path):
    _, classifier = made
    texts = tiny_texts(96)
    config = BundleConfig(recipe="static", max_loss=100)
    bundle = Bundle.open(make_bundle(classifier, BundleTexts.of(texts), config, tmp_path).folder.path)
    engine = Engine.open(bundle)
    assert engine.variant.recipe == "static"
    assert not engine.single_row_only
    assert largest_move(engine, texts.rows, batches=30, seed=1) == 0


def test_a_dynamic_graph_moves_with_its_batch_and_is_answered_row_by_row(made, tmp_path):
    _, classifier = made
    config = BundleConfig(recipe="dynamic", max_loss=100)
    bundle = Bundle.open(make_bundle(classifier, BundleTexts.of(tiny_texts(96)), config, tmp_path).folder.path)
    engine, rows = Engine.open(bundle), tiny_texts(24).rows
    assert largest_move(engine, rows, batches=10) > 1e-3
    assert np.array_equal(engine.logits(rows), np.concatenate([engine.logits([row]) for row in rows]))


def foreign_graph(path: Path, operator: str, domain: str = "", opset: int = 18) -> Path:
    node = helper.make_node(operator, ["x"], ["y"], domain=domain)
    x, y = (helper.make_tensor_value_info(n, TensorProto.FLOAT, ["batch"]) for n in "xy")
    opsets = [helper.make_opsetid("", opset), *([helper.make_opsetid(domain, 1)] if domain else [])]
    onnx.save(helper.make_model(helper.make_graph([node], "g", [x], [y]), opset_imports=opsets), str(path))
    return path


@pytest.mark.parametrize(
    ("operator", "domain", "opset", "told"),
    [
        ("Relu", "", 18, "is an ONNX file (producer: unknown)"),
        ("Relu", "", 9, "has opset 9, older than 18"),
        ("DynamicQuantizeLinear", "", 18, "is quantized already (it has DynamicQuantizeLinear)"),
        ("QAttention", "com.microsoft", 18, "is quantized already (it has QAttention)"),
        ("Frobnicate", "org.example", 18, "does not know (org.example.Frobnicate)"),
    ],
)
def test_onnx_files_are_refused_by_what_is_wrong_with_them(
    made, tmp_path, capsys, monkeypatch, operator, domain, opset, told
):
    path = foreign_graph(tmp_path / "model.onnx", operator, domain, opset)
    for model in (path, tmp_path):
        _refused(capsys, monkeypatch, tmp_path, model, made[0] / "texts.jsonl", told)


@pytest.mark.parametrize(
    ("model", "texts", "told"),
    [
        ("{classifier}", '{"text": " "}\n{"text": "\\t"}', "text"),
        ("{classifier}", "", "has no rows"),
        ("{classifier}", '{"text": "это совсем другой язык, которого нет"}\n' * 20, "cannot tell these texts apart"),
        ("{classifier}", '{"text": "这是另一种语言"}\n' * 20, "cannot tell these texts apart"),
        ("{classifier}", '{"text": "a", "text_pair": "b"}\n' * 20, "rows are pairs, and the model takes single"),
        ("{bundle}", '{"text": "good"}', "is a bundle, exported and quantized already"),
        ("{garbage}", '{"text": "good"}', "is not an ONNX file"),
    ],
)
def test_bad_input_is_one_sentence_and_leaves_no_file(made, tmp_path, capsys, monkeypatch, model, texts, told):
    folder, classifier = made
    places = {"classifier": classifier.path, "garbage": tmp_path / "model.bin"}
    (tmp_path / "model.bin").write_bytes(b"\xff not protobuf")
    if "bundle" in model:
        config = BundleConfig(recipe="fp32")
        places["bundle"] = make_bundle(classifier, BundleTexts.of(tiny_texts()), config, folder).folder.path
    (tmp_path / "bad.jsonl").write_text(texts)
    _refused(capsys, monkeypatch, tmp_path, Path(model.format(**places)), tmp_path / "bad.jsonl", told)


def _refused(capsys, monkeypatch, folder, model, texts, told):
    store = folder / "store"
    code, result, err = run(
        capsys, monkeypatch, "quantize", model, "--calibration", texts, "--store", store, "--out", folder / "out"
    )
    assert (code, result) == (2, None)
    assert told in err
    assert "Traceback" not in err
    assert not store.exists() or not [p for p in store.iterdir() if p.is_dir()]
    assert not (folder / "out").exists()


def test_an_import_of_a_hugging_face_folder_is_quantized_too(tmp_path, capsys, monkeypatch):
    make_tiny_checkpoint(tmp_path / "hub")
    texts = write_texts(tmp_path / "texts.jsonl", labelled=False)
    code, told, err = run(
        capsys, monkeypatch, "quantize", tmp_path / "hub", "--calibration", texts, "--recipe", "dynamic",
        "--calibrator", "minmax", "--max-loss", 100, "--store", tmp_path / "store",
    )  # fmt: skip
    assert (code, told["recipe"]) == (0, "dynamic"), err
    engine = Engine.open(Bundle.open(Path(told["folder"])))
    assert engine.single_row_only  # rows are answered one by one: a batch would share its scale


def test_a_hugging_face_folder_is_of_pairs_where_the_rows_are_and_as_long_as_its_positions(
    tmp_path, capsys, monkeypatch
):
    hub, store = tmp_path / "hub", tmp_path / "store"
    make_tiny_checkpoint(hub)
    pairs = write_texts(tmp_path / "pairs.jsonl", labelled=False, pair=True)
    quick = ("--recipe", "dynamic", "--calibrator", "minmax", "--max-loss", 100)
    code, told, err = run(
        capsys, monkeypatch, "quantize", hub, "--calibration", pairs, *quick, "--max-tokens", 20, "--store", store
    )
    assert code == 0, err
    assert "pairs of at most 20 tokens" in err
    found = Bundle.open(Path(told["folder"])).task
    assert (found.pair, found.max_tokens) == (True, 20)
    for flags, pair in (((), False), (("--pair",), True)):
        code, told, err = run(capsys, monkeypatch, "export", hub, *flags, "--store", store)
        assert code == 0, err
        found = Bundle.open(Path(told["folder"])).task
        assert (found.pair, found.max_tokens) == (pair, 48)


def test_an_input_length_that_cannot_be_is_refused(made, tmp_path, capsys, monkeypatch):
    folder, classifier = made
    make_tiny_checkpoint(tmp_path / "hub")
    for model, told in ((tmp_path / "hub", "has 48 positions"), (classifier.path, "trained on 32 tokens at most")):
        code, _, err = run(
            capsys, monkeypatch, "quantize", model, "--calibration", folder / "texts.jsonl", "--max-tokens", 64,
            "--store", tmp_path / "store",
        )  # fmt: skip
        assert code == 2
        assert told in err


def test_a_classifier_of_very_large_logits_is_judged_in_their_own_size(made, tmp_path, capsys, monkeypatch):
    """A teacher that is very sure: int8 moves its logits by more than it would those of a usual one."""
    folder, classifier = made
    shutil.copytree(classifier.path, tmp_path / "sure")
    weights = load_file(tmp_path / "sure" / "model.safetensors")
    save_file({n: w * (300 if n.startswith("classifier.") else 1) for n, w in weights.items()},
              tmp_path / "sure" / "model.safetensors")  # fmt: skip
    (tmp_path / "sure" / "manifest.json").unlink()
    code, told, err = run(
        capsys, monkeypatch, "quantize", tmp_path / "sure", "--calibration", folder / "texts.jsonl", "--recipe",
        "static", "--max-loss", 100, "--store", tmp_path / "store",
    )  # fmt: skip
    assert code == 0, err
    assert told["agreement"]["max_difference"] > 2.0
    Engine.open(Bundle.open(Path(told["folder"]))).self_check()


FASTEST = {  # seconds of static, dynamic and fp32 → the recipe that is taken
    (1.0, 2.0, 3.0): "static",
    (2.0, 1.0, 3.0): "dynamic",
    (1.05, 1.0, 3.0): "static",  # 5 % are noise, and dynamic answers a batch row by row
    (2.0, 2.0, 1.0): "fp32",
    (1.05, 1.05, 1.0): "static",  # fp32 takes four times the space
}


@pytest.mark.parametrize(("seconds", "taken"), FASTEST.items(), ids=str)
def test_auto_takes_the_fastest_where_it_is_clearly_that(made, tmp_path, monkeypatch, seconds, taken):
    _, classifier = made
    times = dict(zip(("static", "dynamic", "fp32"), seconds, strict=True))
    monkeypatch.setattr("compress.quantization.recipes.time_recipes", lambda *_: times)
    config = BundleConfig(recipe="auto", max_loss=100, timed=True)
    bundle = make_bundle(classifier, BundleTexts.of(tiny_texts(96)), config, tmp_path).folder.path
    told = json.loads((bundle / "report.json").read_text())
    assert told["recipe"] == taken
    assert told["speedup"]["fp32"] == pytest.approx(times["fp32"] / times[taken])


@pytest.mark.parametrize("what", ["cpu_name", "cpu_flags", "version"])
def test_times_of_another_machine_are_not_reused(made, tmp_path, monkeypatch, what):
    _, classifier = made
    texts, seconds = BundleTexts.of(tiny_texts(96)), iter((1.0, 2.0))
    monkeypatch.setattr(
        "compress.quantization.recipes.time_recipes", lambda _, found: dict.fromkeys(found, next(seconds))
    )
    timed, untimed = (BundleConfig(recipe="dynamic", max_loss=100, timed=flag) for flag in (True, False))
    here = [make_bundle(classifier, texts, config, tmp_path) for config in (timed, untimed, timed)]
    assert [one.reused for one in here] == [False, False, True]
    monkeypatch.setattr(f"compress.search.latency_meter.{what}", lambda *_: "another")
    there = [make_bundle(classifier, texts, config, tmp_path) for config in (timed, untimed)]
    assert [one.reused for one in there] == [False, True]
    found = [json.loads((one.folder.path / "report.json").read_text()) for one in (here[0], there[0])]
    assert [one["p50_ms"]["ours"] for one in found] == [1000.0, 2000.0]


def test_remeasure_times_the_recipes_again(made, tmp_path, capsys, monkeypatch):
    folder, classifier = made
    seconds = iter((1.0, 2.0))
    monkeypatch.setattr(
        "compress.quantization.recipes.time_recipes", lambda _, found: dict.fromkeys(found, next(seconds))
    )
    command = (
        "quantize", classifier.path, "--calibration", folder / "texts.jsonl", "--recipe", "dynamic",
        "--max-loss", 100, "--store", tmp_path,
    )  # fmt: skip
    found = [run(capsys, monkeypatch, *command, *more)[1] for more in ((), (), ("--remeasure",))]
    assert [one["reused"] for one in found] == [False, True, False]
    assert [one["p50_ms"]["ours"] for one in found] == [1000.0, 1000.0, 2000.0]
