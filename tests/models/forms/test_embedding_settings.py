"""What the JSON files of a sentence-transformers folder say beside its modules."""

import json

import pytest
from embedding_folders import (
    ORIGIN,
    head_of,
    make_body,
    write_json,
)
from verbs import run

from compress.inputs.source import open_source
from models.errors import FolderError, InputError
from models.task import Task


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
