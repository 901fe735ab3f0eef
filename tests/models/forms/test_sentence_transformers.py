"""sentence-transformers and SetFit folders: pooling, normalization and a linear head, through all stages."""

import json

import numpy as np
import pytest
import torch
from embedding_folders import (
    NEW_MEAN,
    OLD_CLS,
    OLD_MEAN,
    ROWS,
    embed,
    fit,
    head_of,
    make_body,
    save_head,
    scores_here,
    write_json,
    write_numbers,
)
from safetensors.numpy import save_file
from tiny import make_tiny_checkpoint, tiny_texts
from verbs import run

from compress.inputs.source import open_source, source_kind
from compress.make_bundle import BundleConfig, BundleTexts, make_bundle
from compress.pruning.hidden_width import narrowed
from export.baseline.stock_export import FP32, stock_export
from export.fused_operators import check_fused, check_half
from export.graph_precision import Precision
from export.writer import to_onnx, write_fp16
from models.checkpoint import load_checkpoint, read_architecture
from models.classifier import TensorBatch
from models.data.texts import Texts
from models.errors import FolderError, InputError
from models.finetuning.finetune import FinetuneConfig, Splits, finetune
from models.store.folder import ModelFolder
from models.task import Task
from models.tokenizer import Tokenizer
from models.train.starting_point import load_source_id
from service.model.bundle import Bundle
from service.model.engine import Engine


@pytest.mark.parametrize("family", ["bert", "roberta", "distilbert", "electra", "modernbert", "mpnet", "deberta-v2"])
@pytest.mark.parametrize(("pooling", "normalize"), [(OLD_MEAN, False), (NEW_MEAN, True), (OLD_CLS, True)])
def test_a_setfit_folder_answers_as_its_parts_do(tmp_path, family, pooling, normalize):
    body = make_body(tmp_path, family, pooling)
    write_json(tmp_path / "config_setfit.json", {"labels": ["bad", "good"], "normalize_embeddings": normalize})
    embeddings = embed(tmp_path, body, "cls" if pooling is OLD_CLS else "mean", normalize)
    head = fit(embeddings, [0, 1])
    save_head(tmp_path, head)
    assert source_kind(tmp_path) == "single"
    opened = open_source(tmp_path, tmp_path / "store", max_tokens=40)
    task = Task.read(opened.path / "task.json")
    assert task.labels == ("bad", "good")
    for folder in (tmp_path, opened.path):
        np.testing.assert_allclose(scores_here(folder, task), head.predict_proba(embeddings), atol=1e-4)


@pytest.mark.parametrize(
    ("damage", "message"),
    [
        (lambda f: write_numbers(f, np.ones((3, 64)), np.ones(3), classes='["a", "b"]'), "3 intercepts and 2 labels"),
        (lambda f: write_numbers(f, np.ones((2, 64)), np.ones(2)), "no list of labels"),
        (lambda f: write_numbers(f, np.ones((2, 64)), np.ones(2), classes='["a", "a"]'), "the same name"),
        (lambda f: write_numbers(f, [[np.nan] * 64] * 2, np.ones(2), classes="[0, 1]"), "not finite"),
        (lambda f: write_numbers(f, np.ones((2, 64)), [0, 0], classes="[0, 1]", type="SVC"), "of a SVC: supp"),
        (lambda f: write_numbers(f, np.ones((2, 32)), np.ones(2), classes="[0, 1]"), "reads embeddings of 32"),
        (lambda f: save_file({"weight": np.ones(3)}, f / "model_head.safetensors"), "wanted the tensors coef and"),
        (lambda f: (f / "model_head.safetensors").write_bytes(b"no"), "wanted the tensors"),
        (lambda f: (f / "model_head.onnx").write_bytes(b"no"), "not an ONNX file|computes"),
        (lambda f: write_json(f / "1_Pooling" / "config.json", {"pooling_mode": "max"}), "pooling 'max'"),
        (
            lambda f: write_json(f / "1_Pooling" / "config.json", OLD_MEAN | {"pooling_mode_cls_token": True}),
            r"pooling 'mean\+cls'",
        ),
        (lambda f: (f / "1_Pooling" / "config.json").unlink(), "cannot be read"),
        (lambda f: write_json(f / "sentence_bert_config.json", {"do_lower_case": True}), None),
        (
            lambda f: write_json(
                f / "config_sentence_transformers.json", {"default_prompt_name": "q", "prompts": {"q": "query: "}}
            ),
            "prompt 'q' before every text",
        ),
        (lambda f: write_json(f / "modules.json", [{"path": "", "type": "a.Transformer"}, {"type": "b.Pooling"},
                                                   {"type": "c.LSTM", "path": "2_LSTM"}]), "lists .*LSTM: supported"),
    ],
)  # fmt: skip
def test_what_is_not_computed_is_refused(tmp_path, damage, message):
    make_body(tmp_path)
    if message is None:  # its tokenizer lowercases already
        damage(tmp_path)
        assert read_architecture(tmp_path).pooling == "cls"
        return
    damage(tmp_path)
    with pytest.raises((FolderError, InputError), match=message):
        open_source(tmp_path, tmp_path / "store")


@pytest.mark.parametrize("activation", ["Identity", "Tanh"])
def test_a_dense_module_becomes_part_of_the_head(tmp_path, activation):
    body = make_body(tmp_path, modules=("Transformer", "Pooling", "Dense"))
    rng = np.random.default_rng(0)
    weight, bias = rng.normal(size=(64, 64)).astype(np.float32) / 8, rng.normal(size=64).astype(np.float32)
    write_json(tmp_path / "2_Dense" / "config.json", {"activation_function": f"torch.nn.{activation}"})
    save_file({"linear.weight": weight, "linear.bias": bias}, tmp_path / "2_Dense" / "model.safetensors")
    embeddings = embed(tmp_path, body) @ weight.T + bias
    embeddings = np.tanh(embeddings) if activation == "Tanh" else embeddings
    head = fit(embeddings, [0, 1])
    save_head(tmp_path, head)
    task = Task(labels=("0", "1"), max_tokens=40)
    np.testing.assert_allclose(scores_here(tmp_path, task), head.predict_proba(embeddings), atol=1e-4)
    first = load_source_id(tmp_path)
    save_file({"linear.weight": weight + 1, "linear.bias": bias}, tmp_path / "2_Dense" / "model.safetensors")
    assert load_source_id(tmp_path) != first
    write_json(tmp_path / "2_Dense" / "config.json", {"activation_function": "torch.nn.ReLU"})
    with pytest.raises(InputError, match="activation ReLU is not supported"):
        read_architecture(tmp_path)


@pytest.fixture(scope="module")
def setfit(tmp_path_factory):
    folder = tmp_path_factory.mktemp("setfit")
    body = make_body(folder / "in", modules=("Transformer", "Pooling", "Normalize"))
    save_head(folder / "in", fit(embed(folder / "in", body, normalize=True), ["negative", "positive"]))
    return folder, open_source(folder / "in", folder / "store", max_tokens=40)


def test_every_graph_has_the_fused_operators_and_the_same_answers(setfit, tmp_path):
    folder, opened = setfit
    model = load_checkpoint(opened.path)
    to_onnx(model, tmp_path / "fp32.onnx", pair=False)
    check_fused(tmp_path / "fp32.onnx", model.architecture, Precision.all_fp32(model.architecture), static=True)
    write_fp16(model, tmp_path / "fp16.onnx", pair=False)
    check_half(tmp_path / "fp16.onnx", model.architecture)
    exported = stock_export(opened, folder / "store").folder.path
    import onnxruntime

    batch = Tokenizer.open(opened.path, 40).batch(ROWS[:8])
    with torch.no_grad():
        expected = model(TensorBatch(batch))[0].numpy()
    for path, close in ((tmp_path / "fp32.onnx", 1e-4), (exported / FP32, 1e-4)):
        session = onnxruntime.InferenceSession(str(path), providers=["CPUExecutionProvider"])
        arrays = {"input_ids": batch.ids, "attention_mask": batch.mask, "token_type_ids": batch.types}
        answer = session.run(None, {i.name: arrays[i.name] for i in session.get_inputs()})[0]
        np.testing.assert_allclose(answer, expected, atol=close)


def test_it_becomes_a_bundle_in_int8_whose_answers_do_not_depend_on_the_batch(setfit):
    folder, opened = setfit
    texts = Texts(ROWS, tiny_texts(80).labels, "rows")
    config = BundleConfig(recipe="static", max_loss=100)
    made = make_bundle(opened, BundleTexts.of(texts), config, folder / "store")
    engine = Engine.open(Bundle.open(made.folder.path))
    one, many = [engine.logits([row]) for row in ROWS[:9]], engine.logits(ROWS[:9])
    assert np.array_equal(np.concatenate(one), many)
    expected = Task.read(opened.path / "task.json").scores(many)
    np.testing.assert_allclose(scores_here(opened.path, Task.read(opened.path / "task.json"))[:9], expected, atol=0.1)


def test_it_is_compressed(setfit, capsys, monkeypatch):
    from compressing import time_by_bytes

    folder, opened = setfit
    time_by_bytes(monkeypatch)
    model, task = load_checkpoint(opened.path), Task.read(opened.path / "task.json")
    tokenizer = Tokenizer.open(opened.path, 40)
    with torch.no_grad():
        answers = model(TensorBatch(tokenizer.batch(ROWS)))[0].argmax(1)
    lines = [json.dumps({"text": r[0], "label": task.labels[i]}) for r, i in zip(ROWS, answers.tolist(), strict=True)]
    (folder / "rows.jsonl").write_text("\n".join(lines * 2) + "\n")
    flags = ("--train", folder / "rows.jsonl", "--validation", folder / "rows.jsonl", "--speedup", 1.3)
    code, result, err = run(
        capsys, monkeypatch, "compress", folder / "in", *flags, "--max-loss", 100, "--mode", "instant",
        "--store", folder / "store", "--tolerance", 0.9,
    )  # fmt: skip
    assert code == 0, err
    assert Bundle.open(result["folder"]).architecture.head == "unit"
    with pytest.raises(InputError, match="cannot be made narrower"):
        narrowed(read_architecture(opened.path), 32)


def test_a_body_without_a_head_is_fine_tuned_on_the_mean(tmp_path, capsys):
    make_body(tmp_path / "body", modules=("Transformer", "Pooling", "Normalize"))
    texts = tiny_texts(64)
    splits = Splits(texts, texts)
    config = FinetuneConfig.model_validate({"max_tokens": 32, "training": {"epochs": 1}})
    first = finetune(str(tmp_path / "body"), splits, config, tmp_path / "store")
    assert read_architecture(first.folder.path).pooling == "cls"  # transformers opens the result
    assert "pools 'mean'; a new head reads 'cls'" in capsys.readouterr().err
    config = config.model_copy(update={"pooling": "mean"})
    made = finetune(str(tmp_path / "body"), splits, config, tmp_path / "store").folder
    assert "pools" not in capsys.readouterr().err
    shape = read_architecture(made.path)
    assert (shape.pooling, shape.head) == ("mean", "dense")
    again = load_checkpoint(made.path)
    batch = TensorBatch(Tokenizer.open(made.path, 32).batch(ROWS[:3]))
    with torch.no_grad():
        states = again.encoder(batch.ids, batch.mask, batch.types)[0]
        mean = torch.stack([s[m.bool()].mean(0) for s, m in zip(states, batch.mask, strict=True)])
        expected = again.head.out(torch.tanh(again.head.dense(mean)))
    torch.testing.assert_close(again(batch)[0], expected)


def test_any_encoder_can_be_fine_tuned_on_the_mean(tmp_path):
    make_tiny_checkpoint(tmp_path / "in", layers=2)
    config = FinetuneConfig.model_validate({"max_tokens": 32, "training": {"epochs": 1}, "pooling": "mean"})
    made = finetune(str(tmp_path / "in"), Splits(tiny_texts(64), tiny_texts(64)), config, tmp_path / "store")
    assert read_architecture(made.folder.path).pooling == "mean"
    assert json.loads((made.folder.path / "config.json").read_text())["model_type"] == "prunella-bert"
    assert ModelFolder.open(made.folder.path)


def test_a_folder_that_sentence_transformers_wrote(tmp_path):
    pytest.importorskip("sentence_transformers")
    from sentence_transformers import SentenceTransformer
    from sentence_transformers.sentence_transformer.modules import Normalize, Pooling, Transformer
    from transformers import PreTrainedTokenizerFast

    make_body(tmp_path / "in")
    (tmp_path / "in" / "modules.json").unlink()
    names = {f"{n}_token": f"[{n.upper()}]" for n in ("pad", "unk", "cls", "sep", "mask")}
    PreTrainedTokenizerFast(tokenizer_file=str(tmp_path / "in" / "tokenizer.json"), **names).save_pretrained(
        tmp_path / "in"
    )
    body = Transformer(str(tmp_path / "in"), max_seq_length=32)
    theirs = SentenceTransformer(modules=[body, Pooling(64), Normalize()], device="cpu")
    theirs.save(str(tmp_path / "st"))
    embeddings = theirs.encode([row[0] for row in ROWS])
    head = fit(embeddings, [0, 1])
    save_head(tmp_path / "st", head)
    task = Task(labels=("0", "1"), max_tokens=32)
    np.testing.assert_allclose(scores_here(tmp_path / "st", task), head.predict_proba(embeddings), atol=1e-4)


def test_what_dropout_modules_and_other_old_files_say(tmp_path):
    make_body(tmp_path, modules=("Transformer", "Pooling", "Dropout"))
    wanted = head_of(tmp_path)
    torch.save(dict(load_tensors(tmp_path / "model.safetensors")), tmp_path / "pytorch_model.bin")
    (tmp_path / "model.safetensors").unlink()
    task = Task(labels=("0", "1"), max_tokens=40)
    np.testing.assert_allclose(scores_here(tmp_path, task), wanted, atol=1e-4)


def load_tensors(path):
    from safetensors.torch import load_file

    return load_file(path)


def test_a_dense_module_in_a_bin_file(tmp_path):
    body = make_body(tmp_path, modules=("Transformer", "Pooling", "Dense"))
    weight = torch.randn(32, 64, generator=torch.Generator().manual_seed(0))
    write_json(tmp_path / "2_Dense" / "config.json", {"activation_function": "torch.nn.modules.linear.Identity"})
    torch.save({"linear.weight": weight}, tmp_path / "2_Dense" / "pytorch_model.bin")
    embeddings = embed(tmp_path, body) @ weight.numpy().T
    head = fit(embeddings, [0, 1])
    save_head(tmp_path, head)
    task = Task(labels=("0", "1"), max_tokens=40)
    np.testing.assert_allclose(scores_here(tmp_path, task), head.predict_proba(embeddings), atol=1e-4)
    first = load_source_id(tmp_path)
    torch.save({"linear.weight": weight + 1}, tmp_path / "2_Dense" / "pytorch_model.bin")
    assert load_source_id(tmp_path) != first


def test_a_setfit_folder_without_modules_pools_the_mean(tmp_path, capsys):
    make_body(tmp_path)
    wanted = head_of(tmp_path)
    (tmp_path / "modules.json").unlink()
    write_json(tmp_path / "config_setfit.json", {"labels": None, "normalize_embeddings": False})
    opened = open_source(tmp_path, tmp_path / "store", max_tokens=40).path
    task = Task.read(opened / "task.json")
    np.testing.assert_allclose(scores_here(opened, task), wanted, atol=1e-4)
    assert "the mean of the tokens is pooled" in capsys.readouterr().err


@pytest.mark.parametrize("key", ["module_input_name", "module_output_name", "activation_function"])
def test_a_dense_module_of_other_states_is_refused(tmp_path, key):
    make_body(tmp_path, modules=("Transformer", "Pooling", "Dense"))
    write_json(tmp_path / "2_Dense" / "config.json", {"activation_function": "torch.nn.Tanh", key: "mine.Tanh"})
    save_file({"linear.weight": np.ones((64, 64), np.float32)}, tmp_path / "2_Dense" / "model.safetensors")
    with pytest.raises(InputError, match=f"{key} = 'mine.Tanh'"):
        read_architecture(tmp_path)
