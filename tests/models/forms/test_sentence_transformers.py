"""sentence-transformers and SetFit folders: pooling, normalization and a linear head, through all stages."""

import json
import pickle

import numpy as np
import pytest
import torch
from safetensors.numpy import save_file
from sklearn.linear_model import LogisticRegression
from sklearn.multiclass import OneVsRestClassifier
from sklearn.multioutput import MultiOutputClassifier
from tiny import make_tiny_checkpoint, make_tiny_family, tiny_texts
from transformers import AutoModel
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
from models.forms.linear_head import CONVERT, CONVERT_TORCH, read_linear_head
from models.store.folder import ModelFolder
from models.task import Task
from models.tokenizer import Tokenizer
from models.train.starting_point import load_source_id
from service.model.bundle import Bundle
from service.model.engine import Engine

ROWS = tiny_texts(80).rows
ORIGIN = "sentence_transformers.models."
OLD_MEAN = {"pooling_mode_mean_tokens": True, "pooling_mode_cls_token": False, "pooling_mode_max_tokens": False}
NEW_MEAN = {"pooling_mode": "mean", "embedding_dimension": 64}
OLD_CLS = {"pooling_mode_mean_tokens": False, "pooling_mode_cls_token": True}


def write_json(path, document):
    path.parent.mkdir(exist_ok=True, parents=True)
    path.write_text(json.dumps(document))


def make_body(folder, family="bert", pooling=OLD_MEAN, modules=("Transformer", "Pooling")):
    """Write a bare encoder as sentence-transformers does, and return it as transformers loads it."""
    whole = make_tiny_family(folder, family)
    whole.base_model.save_pretrained(folder)
    places = ["" if name == "Transformer" else f"{i}_{name}" for i, name in enumerate(modules)]
    listed = [
        {"idx": i, "name": str(i), "path": place, "type": ORIGIN + name}
        for i, (place, name) in enumerate(zip(places, modules, strict=True))
    ]
    write_json(folder / "modules.json", listed)
    write_json(folder / "1_Pooling" / "config.json", pooling)
    return AutoModel.from_pretrained(folder, attn_implementation="eager").eval()


def embed(folder, body, pooling="mean", normalize=False):
    """Return sentence embeddings, one text at a time, without any of our code but the tokenizer."""
    rows = []
    for encoded in Tokenizer.open(folder, 40).encode(ROWS):
        with torch.no_grad():
            hidden = body(torch.tensor([encoded.ids])).last_hidden_state[0]
        rows.append(hidden.mean(dim=0) if pooling == "mean" else hidden[0])
    embeddings = torch.stack(rows).double().numpy()
    return embeddings / np.linalg.norm(embeddings, axis=1, keepdims=True) if normalize else embeddings


def fit(embeddings, classes):
    return LogisticRegression(max_iter=500, C=10).fit(embeddings, np.resize(classes, len(embeddings)))


def save_head(folder, head):
    """Run the two lines of the message on the pickle that SetFit writes."""
    import os

    with (folder / "model_head.pkl").open("wb") as file:
        pickle.dump(head, file)
    before = os.getcwd()
    try:
        os.chdir(folder)
        exec("\n".join(CONVERT), {})
    finally:
        os.chdir(before)


def scores_here(folder, task):
    tokenizer, model = Tokenizer.open(folder, 40), load_checkpoint(folder)
    batches = [TensorBatch(tokenizer.batch(rows)) for rows in (ROWS[:1], ROWS[1:])]  # alone, and in a batch
    with torch.no_grad():
        return task.scores(torch.cat([model(batch)[0] for batch in batches]).numpy())


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
    ("classes", "labels", "expected"),
    [
        ([0, 1, 2], ["x", "y", "z"], ("x", "y", "z")), ([0, 1, 2], None, ("0", "1", "2")),
        (["b", "a"], None, ("a", "b")), ([2, 0], ["x", "y", "z"], ("x", "z")), (["a", "b"], ["b", "a"], ("a", "b")),
    ],
)  # fmt: skip
def test_labels_are_those_of_the_config_or_the_classes(tmp_path, classes, labels, expected):
    body = make_body(tmp_path)
    write_json(tmp_path / "config_setfit.json", {"labels": labels, "normalize_embeddings": False})
    embeddings = embed(tmp_path, body)
    head = fit(embeddings, classes)
    save_head(tmp_path, head)
    assert read_linear_head(tmp_path).labels == expected
    task = Task(labels=expected, max_tokens=40)
    np.testing.assert_allclose(scores_here(tmp_path, task), head.predict_proba(embeddings), atol=1e-4)


def test_several_labels_of_a_text(tmp_path):
    body = make_body(tmp_path)
    write_json(tmp_path / "config_setfit.json", {"labels": ["x", "y", "z"], "normalize_embeddings": True})
    embeddings = embed(tmp_path, body, normalize=True)
    truth = np.random.default_rng(0).integers(0, 2, (len(ROWS), 3))
    head = OneVsRestClassifier(LogisticRegression(C=10)).fit(embeddings, truth)
    save_head(tmp_path, head)
    assert source_kind(tmp_path) == "multi"
    task = Task(kind="multi", labels=("x", "y", "z"), max_tokens=40)
    np.testing.assert_allclose(scores_here(tmp_path, task), head.predict_proba(embeddings), atol=1e-4)


@pytest.mark.parametrize("classes", [[0, 1], [0, 1, 2]])
@pytest.mark.parametrize("form", ["onnx", "skops"])
def test_heads_in_other_forms(tmp_path, form, classes):
    body = make_body(tmp_path)
    embeddings = embed(tmp_path, body).astype(np.float32)
    head = fit(embeddings, classes)
    if form == "onnx":
        to_skl = pytest.importorskip("skl2onnx").to_onnx
        (tmp_path / "model_head.onnx").write_bytes(to_skl(head, embeddings[:1]).SerializeToString())
    else:
        pytest.importorskip("skops.io").dump(head, tmp_path / "model_head.skops")
    task = Task(labels=tuple(map(str, classes)), max_tokens=40)
    np.testing.assert_allclose(scores_here(tmp_path, task), head.predict_proba(embeddings), atol=1e-4)
    assert source_kind(tmp_path) == "single"


def test_a_skops_file_with_other_types_is_refused(tmp_path):
    io = pytest.importorskip("skops.io")
    make_body(tmp_path)
    io.dump(Payload(), tmp_path / "model_head.skops")
    with pytest.raises(InputError, match=r"types that are not trusted: .*Payload"):
        open_source(tmp_path, tmp_path / "store")


class Payload:
    """Stands for a class whose code would run."""


def test_a_pickle_is_refused_with_the_lines_that_convert_it(tmp_path, capsys, monkeypatch):
    make_body(tmp_path / "in")
    write_json(tmp_path / "in" / "config_setfit.json", {"labels": ["a", "b"]})
    (tmp_path / "in" / "model_head.pkl").write_bytes(b"cos\nsystem\n(S'touch ran'\ntR.")
    code, _, err = run(capsys, monkeypatch, "export", tmp_path / "in", "--store", tmp_path / "store")
    assert code != 0
    assert all(line in err for line in CONVERT)
    assert not (tmp_path / "ran").exists()
    code, facts, _ = run(capsys, monkeypatch, "inspect", tmp_path / "in")
    assert any(CONVERT[0] in problem["problem"] for problem in facts["problems"])
    assert (facts["kind"], facts["pooling"], facts["can"]) == ("SetFit folder", "mean", [])


def write_numbers(folder, coef, intercept, **metadata):
    parts = {"coef": np.array(coef, dtype=np.float64), "intercept": np.array(intercept, dtype=np.float64)}
    save_file(parts, folder / "model_head.safetensors", metadata=metadata)


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


# other layouts


def head_of(folder, normalize=False):
    """Write a head for the mean, and return what its scores must be."""
    body = AutoModel.from_pretrained(folder, attn_implementation="eager").eval()
    embeddings = embed(folder, body, normalize=normalize)
    head = fit(embeddings, [0, 1])
    save_head(folder, head)
    return head.predict_proba(embeddings)


def move_up(folder, place):
    """Put the encoder into a folder inside, as versions before 2 of sentence-transformers did."""
    (folder / place).mkdir()
    for name in ("config.json", "model.safetensors", "tokenizer.json"):
        (folder / name).rename(folder / place / name)
    modules = json.loads((folder / "modules.json").read_text())
    modules[0]["path"] = place
    write_json(folder / "modules.json", modules)


@pytest.mark.parametrize("place", ["0_Transformer", "0_BERT"])
@pytest.mark.parametrize("verb", ["inspect", "export", "evaluate"])
def test_an_encoder_in_a_folder_inside_is_refused_with_the_way_out(tmp_path, capsys, monkeypatch, place, verb):
    make_body(tmp_path / "in")
    move_up(tmp_path / "in", place)
    (tmp_path / "rows.jsonl").write_text('{"text": "a film", "label": "0"}\n')
    flags = {"evaluate": ("--data", tmp_path / "rows.jsonl"), "export": ("--store", tmp_path / "store")}
    code, facts, err = run(capsys, monkeypatch, verb, tmp_path / "in", *flags.get(verb, ()))
    said = err if verb != "inspect" else " ".join(problem["problem"] for problem in facts["problems"])
    assert f"the encoder is in {place}: write all into one folder with python -c" in said
    assert code == (0 if verb == "inspect" else 2)


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


SHORT = {"model_max_length": 12}


@pytest.mark.parametrize(
    ("files", "limit"),
    [
        ({"sentence_bert_config.json": {"max_seq_length": 20}}, 20),
        ({"sentence_roberta_config.json": {"max_seq_length": 20}}, 20),
        ({"sentence_xlm-roberta_config.json": {"max_seq_length": 24}, "tokenizer_config.json": SHORT}, 24),
        ({"sentence_bert_config.json": {"max_seq_length": None}, "tokenizer_config.json": SHORT}, 12),
        ({"sentence_bert_config.json": {"tokenizer_args": {"model_max_length": 16}, "max_seq_length": 20}}, 16),
        ({"sentence_bert_config.json": {"processor_kwargs": {"model_max_length": 16}}}, 16),
        ({"sentence_bert_config.json": {"max_seq_length": 9999}}, 48),
    ],
)  # fmt: skip
def test_the_length_limit_is_that_of_sentence_transformers(tmp_path, files, limit):
    make_body(tmp_path)
    head_of(tmp_path)
    for name, document in files.items():
        write_json(tmp_path / name, document)
    assert Task.read(open_source(tmp_path, tmp_path / "store").path / "task.json").max_tokens == limit


GENERAL, ENCODER = "config_sentence_transformers.json", "sentence_bert_config.json"


@pytest.mark.parametrize(
    ("name", "document", "message"),
    [
        (ENCODER, {"processor_kwargs": {"do_lower_case": True}}, r"the arguments do_lower_case \(processor_kwargs\)"),
        (ENCODER, {"config_args": {"hidden_act": "relu"}}, r"the arguments hidden_act \(config_kwargs\)"),
        (ENCODER, {"modality_config": {"text": {"method_output_name": "pooler_output"}}}, "'pooler_output': only"),
        (ENCODER, {"transformer_task": "fill-mask"}, "transformer_task = 'fill-mask': only 'feature-extraction'"),
        (ENCODER, {"module_output_name": "other"}, "module_output_name = 'other': only 'token_embeddings'"),
        (GENERAL, {"truncate_dim": 32}, "truncate_dim = 32"),
        ("modules.json", [], "wanted a list of objects"),
        ("modules.json", ["Transformer"], "wanted a list of objects"),
        ("modules.json", [{"type": "own_code.Transformer", "path": ""}], r"code of its own \('own_code.Transformer'"),
        (
            "modules.json", [{"type": ORIGIN + n, "path": p} for n, p in (("Transformer", ""), ("Pooling", ""))],
            "path ''",
        ),
        (
            "modules.json", [{"type": ORIGIN + n, "path": p} for n, p in (("Transformer", ""), ("Pooling", ".."))],
            "path '..'",
        ),
        ("1_Pooling/config.json", {"other": 1}, "is not the config of a Pooling"),
        ("1_Pooling/config.json", {"pooling_mode": ["mean", "max"]}, r"pooling 'mean\+max'"),
        ("config_setfit.json", {"labels": {"0": "a", "1": "b"}}, "labels = .* wanted a list of names"),
        ("config_setfit.json", {"labels": "ab"}, "labels = ab: wanted a list of names"),
        ("config_setfit.json", {"normalize_embeddings": "false"}, "normalize_embeddings = 'false': wanted true or"),
    ],
)  # fmt: skip
def test_settings_that_change_the_answer_are_refused_by_name(tmp_path, name, document, message):
    make_body(tmp_path)
    head_of(tmp_path)
    write_json(tmp_path / name, document)
    with pytest.raises((FolderError, InputError), match=message):
        open_source(tmp_path, tmp_path / "store")


@pytest.mark.parametrize("key", ["module_input_name", "module_output_name", "activation_function"])
def test_a_dense_module_of_other_states_is_refused(tmp_path, key):
    make_body(tmp_path, modules=("Transformer", "Pooling", "Dense"))
    write_json(tmp_path / "2_Dense" / "config.json", {"activation_function": "torch.nn.Tanh", key: "mine.Tanh"})
    save_file({"linear.weight": np.ones((64, 64), np.float32)}, tmp_path / "2_Dense" / "model.safetensors")
    with pytest.raises(InputError, match=f"{key} = 'mine.Tanh'"):
        read_architecture(tmp_path)


# heads of other kinds


def embeddings_of(folder):
    return embed(folder, make_body(folder)).astype(np.float32)


def several(columns=3):
    return np.random.default_rng(0).integers(0, 2, (len(ROWS), columns))


def dump(folder, head, form):
    if form == "safetensors":
        save_head(folder, head)
    else:
        pytest.importorskip("skops.io").dump(head, folder / "model_head.skops")


@pytest.mark.parametrize("form", ["safetensors", "skops"])
def test_a_one_vs_rest_head_of_one_label_is_refused(tmp_path, form):
    """Its probabilities are those of several regressions, divided by their sum: no function of single logits."""
    embeddings = embeddings_of(tmp_path)
    dump(tmp_path, OneVsRestClassifier(LogisticRegression()).fit(embeddings, np.resize([0, 1, 2], len(ROWS))), form)
    with pytest.raises(InputError, match=r"one logistic score for each of 3 labels \(one-vs-rest\)"):
        open_source(tmp_path, tmp_path / "store")


@pytest.mark.parametrize("form", ["safetensors", "skops"])
def test_a_one_vs_rest_head_of_two_labels_is_a_binary_regression(tmp_path, form):
    embeddings = embeddings_of(tmp_path)
    head = OneVsRestClassifier(LogisticRegression(C=10)).fit(embeddings, np.resize([0, 1], len(ROWS)))
    dump(tmp_path, head, form)
    task = Task(labels=("0", "1"), max_tokens=40)
    assert source_kind(tmp_path) == "single"
    np.testing.assert_allclose(scores_here(tmp_path, task), head.predict_proba(embeddings), atol=1e-4)


@pytest.mark.parametrize("form", ["safetensors", "skops"])
def test_one_regression_for_each_output(tmp_path, form):
    embeddings = embeddings_of(tmp_path)
    head = MultiOutputClassifier(LogisticRegression(C=10)).fit(embeddings, several())
    dump(tmp_path, head, form)
    assert source_kind(tmp_path) == "multi"
    task = Task.read(open_source(tmp_path, tmp_path / "store", max_tokens=40).path / "task.json")
    assert task.labels == ("0", "1", "2")
    expected = np.stack([one[:, 1] for one in head.predict_proba(embeddings)], axis=1)
    np.testing.assert_allclose(scores_here(tmp_path, task), expected, atol=1e-4)


def test_a_label_that_no_training_text_had_is_refused(tmp_path):
    embeddings, truth = embeddings_of(tmp_path), several()
    truth[:, 2] = 0
    dump(tmp_path, OneVsRestClassifier(LogisticRegression()).fit(embeddings, truth), "skops")
    with pytest.raises(InputError, match=r"of _ConstantPredictor.*a label that no training text had|not trusted"):
        open_source(tmp_path, tmp_path / "store")


@pytest.mark.parametrize(
    ("metadata", "message"),
    [
        ({"parts": '["LinearSVC"]', "type": "OneVsRestClassifier"}, "OneVsRestClassifier of LinearSVC: supported"),
        ({"rule": '["ovr", "lbfgs"]'}, "one-vs-rest"), ({"rule": '["auto", "liblinear"]'}, "one-vs-rest"),
        ({"type": "MultiOutputClassifier", "classes": "[[0, 1], [0, 1, 2], [0, 1]]"}, r"the labels \[0, 1, 2\]"),
    ],
)  # fmt: skip
def test_heads_that_are_no_linear_layer_are_refused(tmp_path, metadata, message):
    make_body(tmp_path)
    write_numbers(tmp_path, np.ones((3, 64)), np.ones(3), **{"classes": "[0, 1, 2]"} | metadata)
    with pytest.raises(InputError, match=message):
        open_source(tmp_path, tmp_path / "store")


def test_the_lines_for_setfits_head_in_torch(tmp_path, capsys, monkeypatch):
    """The pickle is searched for the name of the class, and not read."""
    make_body(tmp_path / "in")
    write_json(tmp_path / "in" / "config_setfit.json", {"labels": ["a", "b"]})
    (tmp_path / "in" / "model_head.pkl").write_bytes(b"csetfit.modeling\nSetFitHead\n(S'touch ran'\ntR.")
    code, _, err = run(capsys, monkeypatch, "export", tmp_path / "in", "--store", tmp_path / "store")
    assert code == 2
    assert all(line in err for line in CONVERT_TORCH)


@pytest.mark.parametrize("multitarget", [False, True])
@pytest.mark.parametrize("bias", [False, True])
def test_setfits_head_in_torch_answers_as_its_conversion(tmp_path, monkeypatch, multitarget, bias):
    import joblib

    body = make_body(tmp_path)
    write_json(tmp_path / "config_setfit.json", {"labels": ["a", "b", "c"]})
    head = SetFitHead(multitarget, bias)
    monkeypatch.setattr(joblib, "load", lambda _: head)
    monkeypatch.chdir(tmp_path)
    exec("\n".join(CONVERT_TORCH), {})
    with torch.no_grad():
        expected = head(torch.from_numpy(embed(tmp_path, body)).float()).numpy()
    task = Task.read(open_source(tmp_path, tmp_path / "store", max_tokens=40).path / "task.json")
    assert task.kind == ("multi" if multitarget else "single")
    np.testing.assert_allclose(scores_here(tmp_path, task), expected, atol=1e-4)


class SetFitHead(torch.nn.Module):
    """What setfit's class of this name computes, with a temperature that is not 1."""

    def __init__(self, multitarget, bias):
        super().__init__()
        self.linear, self.temperature, self.eps = torch.nn.Linear(64, 3, bias=bias), 0.7, 1e-5
        self.multitarget, self.bias = multitarget, bias

    def forward(self, embeddings):
        logits = self.linear(embeddings) / (self.temperature + self.eps)
        return torch.sigmoid(logits) if self.multitarget else torch.softmax(logits, dim=-1)
