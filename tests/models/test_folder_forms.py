"""Folders as old and new versions of transformers, and people, write them: each answers as transformers does."""

import shutil

import numpy as np
import pytest
import torch
from tiny import make_tiny_checkpoint, make_tiny_family, tiny_texts
from transformers import AutoModelForSequenceClassification, MPNetTokenizerFast

from compress.inputs.source import open_source
from models.checkpoint import load_checkpoint, read_architecture
from models.classifier import TensorBatch
from models.data.texts import Texts, read_texts
from models.errors import FolderError, InputError
from models.families import fast_tokenizer
from models.task import Task
from models.tokenizer import Tokenizer, read_backend
from models.train.starting_point import load_source_id
from tools.studies.folder_forms import as_transformers_5, change_config


def logits_here(folder, tokens=None):
    batch = TensorBatch(Tokenizer.open(tokens or folder, 40).batch(tiny_texts(9).rows))
    with torch.no_grad():
        return load_checkpoint(folder)(batch)[0]


@pytest.mark.parametrize(
    ("family", "drop", "changes", "notice"),
    [
        ("bert", ["model_type"], {}, ""), ("electra", ["model_type"], {}, ""),
        ("xlm-roberta", ["model_type"], {}, ""),
        ("mpnet", ["model_type"], {}, ""), ("ernie", ["model_type"], {}, ""),
        ("mpnet", ["relative_attention_num_buckets"], {}, "buckets: 32 is used, the default"),
        ("distilbert", ["model_type"], {}, ""), ("modernbert", ["model_type"], {}, ""),
        ("deberta-v2", ["model_type"], {}, ""),
        ("deberta-v2", ["pooler_hidden_act", "legacy"], {"max_relative_positions": -1}, "'gelu' is"),
        ("roberta", ["model_type"], {"architectures": ["CamembertForSequenceClassification"]}, ""),
        ("roberta", [], {"model_type": "camembert"}, ""),
        ("bert", ["layer_norm_eps", "type_vocab_size"], {}, "layer_norm_eps: 1e-12 is used, the default"),
        ("modernbert", ["norm_eps", "mlp_bias", "classifier_pooling"], {}, "norm_eps: 1e-05 is used, the default"),
    ],
)  # fmt: skip
def test_a_config_with_fewer_keys_gives_the_same_answers(tmp_path, capsys, family, drop, changes, notice):
    make_tiny_family(tmp_path, family)
    before = logits_here(tmp_path)
    change_config(tmp_path, tuple(drop), **changes)
    assert torch.equal(logits_here(tmp_path), before)
    assert notice in capsys.readouterr().err


@pytest.mark.parametrize("classes", [None, [], ["GPT2ForSequenceClassification"], ["Bertha"]])
def test_a_config_that_names_no_known_family_is_refused(tmp_path, classes):
    make_tiny_family(tmp_path, "bert")
    change_config(tmp_path, ("model_type",), architectures=classes)
    with pytest.raises(InputError, match=r"is a None model: supported are bert, .*camembert"):
        read_architecture(tmp_path)


def test_sizes_have_no_defaults(tmp_path):
    make_tiny_family(tmp_path, "bert")
    change_config(tmp_path, ("hidden_size",))
    with pytest.raises(FolderError, match="lacks hidden_size"):
        read_architecture(tmp_path)


@pytest.mark.parametrize(
    "changes", [{}, {"global_rope_theta": 700.0, "local_rope_theta": 50.0}, {"global_attn_every_n_layers": 2}]
)
def test_modernbert_of_transformers_5_gives_the_same_answers(tmp_path, capsys, changes):
    make_tiny_family(tmp_path, "modernbert", **changes)
    before = logits_here(tmp_path)
    as_transformers_5(tmp_path)
    assert torch.equal(logits_here(tmp_path), before)
    assert "is used, the default" not in capsys.readouterr().err


@pytest.mark.parametrize(
    ("parts", "message"),
    [
        (
            {"rope_parameters": {"full_attention": {"rope_type": "yarn", "rope_theta": 1.0}}},
            "rope_type 'yarn' of full_attention",
        ),
        (
            {"layer_types": ["full_attention", "full_attention", "sliding_attention", "sliding_attention"]},
            "no pattern",
        ),
        ({"layer_types": ["sliding_attention"] * 4}, "no pattern"),
        (
            {"rope_parameters": {"full_attention": {"type": "linear", "rope_theta": 1.0}}},
            "rope_type 'linear' of full_attention",
        ),
        ({"rope_parameters": {"rope_type": "default", "rope_theta": 9.0}}, "wanted an object with full_attention"),
        ({"rope_parameters": [9.0]}, r"rope_parameters = \[9\.0\]: wanted an object with full_attention"),
    ],
)
def test_positions_and_patterns_that_are_not_computed_are_refused_by_name(tmp_path, parts, message):
    make_tiny_family(tmp_path, "modernbert")
    as_transformers_5(tmp_path, **parts)
    with pytest.raises((FolderError, InputError), match=message):
        read_architecture(tmp_path)


@pytest.mark.parametrize("safe", [True, False])
def test_weights_in_several_files(tmp_path, safe):
    theirs = make_tiny_family(tmp_path / "one", "bert")
    before, name = logits_here(tmp_path / "one"), "model.safetensors" if safe else "pytorch_model.bin"
    shutil.copytree(tmp_path / "one", tmp_path / "many")
    (tmp_path / "many" / "model.safetensors").unlink()
    theirs.save_pretrained(tmp_path / "many", max_shard_size="100KB", safe_serialization=safe)
    files = sorted(path.name for path in (tmp_path / "many").glob("*-of-*"))
    assert len(files) > 1
    assert torch.equal(logits_here(tmp_path / "many"), before)
    first = load_source_id(tmp_path / "many")
    (tmp_path / "many" / files[-1]).write_bytes((tmp_path / "many" / files[0]).read_bytes())
    assert load_source_id(tmp_path / "many") != first  # each file counts
    (tmp_path / "many" / files[-1]).unlink()
    with pytest.raises(FolderError, match=f"lacks {files[-1]}, which {name}.index.json lists"):
        load_checkpoint(tmp_path / "many")


@pytest.mark.parametrize(
    ("index", "message"),
    [
        ("{", "cannot be read as an index"),
        ('{"weight_map": {"a": "../secret.safetensors"}}', "names of files in the same"),
        ('{"weight_map": {"a": null}}', "lists None: wanted names of files"),
    ],
)
def test_a_broken_index_is_refused(tmp_path, index, message):
    make_tiny_family(tmp_path, "bert")
    (tmp_path / "model.safetensors").rename(tmp_path / "elsewhere")
    (tmp_path / "model.safetensors.index.json").write_text(index)
    with pytest.raises(FolderError, match=message):
        load_checkpoint(tmp_path)


def test_a_tokenizer_of_a_vocabulary_only_is_that_of_transformers(tmp_path, capsys):
    make_tiny_checkpoint(tmp_path / "model")
    vocabulary = read_backend(tmp_path / "model").get_vocab()
    (tmp_path / "model" / "tokenizer.json").unlink()
    words = sorted(vocabulary, key=vocabulary.get)
    (tmp_path / "model" / "vocab.txt").write_text("\n".join(words) + "\n")
    (tmp_path / "model" / "tokenizer_config.json").write_text(
        '{"tokenizer_class": "BertTokenizer", "do_lower_case": false}'
    )
    from transformers import AutoTokenizer

    theirs = AutoTokenizer.from_pretrained(tmp_path / "model")
    ours = Tokenizer.open(tmp_path / "model", 32)
    for text in ("good film", "GOOD Film", "unheard of"):
        assert ours.encode([(text,)])[0].ids == theirs(text)["input_ids"]
    assert "has no tokenizer.json: made of vocab.txt by BertTokenizerFast" in capsys.readouterr().err
    opened = open_source(tmp_path / "model", tmp_path / "store", max_tokens=32)  # as quantize, export and compress do
    assert Tokenizer.open(opened.path, 32).encode([("good film",)])[0].ids == theirs("good film")["input_ids"]
    assert "made of" not in capsys.readouterr().err  # said once
    first = load_source_id(tmp_path / "model")
    (tmp_path / "model" / "vocab.txt").write_text("\n".join([*words, "new"]) + "\n")
    assert load_source_id(tmp_path / "model") != first


@pytest.mark.parametrize("named", [True, False])
def test_mpnets_vocabulary_gives_the_ids_of_transformers(tmp_path, named):
    make_tiny_family(tmp_path, "mpnet")
    whole = Tokenizer.open(tmp_path, 32)
    vocabulary = read_backend(tmp_path).get_vocab()
    (tmp_path / "tokenizer.json").unlink()
    (tmp_path / "vocab.txt").write_text("\n".join(sorted(vocabulary, key=vocabulary.get)) + "\n")
    if named:
        (tmp_path / "tokenizer_config.json").write_text('{"tokenizer_class": "MPNetTokenizer"}')
    theirs = MPNetTokenizerFast.from_pretrained(tmp_path)
    ours = Tokenizer.open(tmp_path, 32)
    for row in (("Good film",), ("\u732b <mask> [MASK]",), ("very good", "so dull")):
        assert ours.encode([row])[0].ids == whole.encode([row])[0].ids == theirs(*row)["input_ids"]
    assert ours.pad_id == whole.pad_id == theirs.pad_token_id == 1


def test_without_any_tokenizer_the_message_says_what_is_wanted(tmp_path):
    make_tiny_checkpoint(tmp_path)
    (tmp_path / "tokenizer.json").unlink()
    with pytest.raises(FolderError, match=r"has no tokenizer\.json and no vocabulary \(vocab\.txt"):
        open_source(tmp_path, tmp_path / "store")


def test_a_sentencepiece_file_needs_its_package_and_the_message_says_so(tmp_path, monkeypatch):
    make_tiny_family(tmp_path, "deberta-v2")
    (tmp_path / "tokenizer.json").unlink()
    (tmp_path / "spm.model").write_bytes(b"no model")
    monkeypatch.setattr(fast_tokenizer, "find_spec", lambda _: None)
    with pytest.raises(FolderError, match=r"cannot make a tokenizer of spm\.model.*pip install sentencepiece"):
        Tokenizer.open(tmp_path, 40)


GENERIC = Task(labels=("LABEL_0", "LABEL_1", "LABEL_2"))


@pytest.mark.parametrize(
    ("labels", "targets"), [(["0", "2", "1"], [0, 2, 1]), (["LABEL_1", "LABEL_0", "LABEL_2"], [1, 0, 2])]
)
def test_whole_numbers_are_positions_where_the_model_names_nothing(capsys, labels, targets):
    found = Texts([("a",)] * 3, labels, f"of {labels}").targets(GENERIC)
    assert found.tolist() == targets
    assert ("labels 0 to 2 are taken for LABEL_0 to LABEL_2" in capsys.readouterr().err) == (labels[0] == "0")


@pytest.mark.parametrize(
    ("labels", "task"),
    [
        (["0", "3"], GENERIC), (["0", "LABEL_1"], GENERIC), (["bad", "good"], GENERIC),
        (["00", "1"], GENERIC), (["-1", "1"], GENERIC),
        (["0", "1"], Task(labels=("negative", "positive"))), (["0", "1"], Task(labels=("LABEL_0", "positive"))),
        (["0", "1"], Task(labels=("LABEL_1", "LABEL_0"))),
    ],
)  # fmt: skip
def test_nothing_is_guessed(capsys, labels, task):
    with pytest.raises(InputError, match="is not the model's"):
        Texts([("a",)] * 2, labels, f"rows of {labels}").targets(task)
    assert "are taken for" not in capsys.readouterr().err


def test_keys_that_nobody_reads_may_differ(tmp_path):
    path = tmp_path / "rows.jsonl"
    path.write_text(
        '{"text": "a", "label": "x", "id": 1}\n{"label": "y", "text": "b"}\n{"text": "c", "label": "x", "by": "me"}\n'
    )
    assert read_texts(path).rows == [("a",), ("b",), ("c",)]
    path.write_text('{"text": "a"}\n{"text": "b", "label": "y"}\n')
    with pytest.raises(InputError, match="line 2: the row adds 'label'"):
        read_texts(path)


def test_a_folder_of_checkpoints_names_the_newest(tmp_path):
    for step in (500, 1000, 90):
        make_tiny_checkpoint(tmp_path / f"checkpoint-{step}")
    (tmp_path / "checkpoint-2000").mkdir()  # without a model
    for read in (read_architecture, lambda path: open_source(path, tmp_path / "store")):
        with pytest.raises(FolderError, match=r"it holds 3 checkpoints .* newest is \S+checkpoint-1000: give"):
            read(tmp_path)


def test_transformers_reads_what_was_saved_of_such_a_folder(tmp_path):
    make_tiny_family(tmp_path / "in", "modernbert")
    as_transformers_5(tmp_path / "in")
    opened = open_source(tmp_path / "in", tmp_path / "store", max_tokens=40)
    theirs = AutoModelForSequenceClassification.from_pretrained(opened.path).eval()
    batch = TensorBatch(Tokenizer.open(opened.path, 40).batch(tiny_texts(9).rows))
    with torch.no_grad():
        np.testing.assert_allclose(
            theirs(batch.ids, attention_mask=batch.mask).logits, logits_here(opened.path), atol=1e-4
        )
