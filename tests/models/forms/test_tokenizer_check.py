"""Tokenizers of Hugging Face folders: the ids are those of transformers, also where the files disagree."""

import json

import pytest
import tokenizers
import torch
import transformers
from tiny import make_tiny_family, write_bpe_tokenizer
from tokenizers.models import WordPiece
from tokenizers.normalizers import BertNormalizer
from tokenizers.pre_tokenizers import BertPreTokenizer
from tokenizers.processors import TemplateProcessing

from compress.inputs.source import open_source
from models.checkpoint import load_checkpoint
from models.classifier import TensorBatch
from models.errors import FolderError
from models.families.fast_tokenizer import tokenizer_class
from models.forms.probe_texts import probe_texts
from models.forms.tokenizer_check import model_max_length
from models.task import Task
from models.tokenizer import Tokenizer
from models.train.starting_point import copy_tokenizer
from tools.studies.folder_forms import as_vocabulary_files, with_tokenizers_backend

TEXTS = probe_texts()


def make_folder(folder, family="bert", config=None, **normalizer):
    """Write a classifier whose vocabulary has pieces of all the texts, both cased and lowercased."""
    make_tiny_family(folder, family, **({"vocab_size": 4000} if family != "roberta" else {}))
    characters = sorted({c for text in TEXTS for c in text + text.lower() if not c.isspace()})
    words = ["[PAD]", "[UNK]", "[CLS]", "[SEP]", "[MASK]", *characters, *(f"##{c}" for c in characters)]
    backend = tokenizers.Tokenizer(WordPiece({w: i for i, w in enumerate(words)}, unk_token="[UNK]"))
    backend.normalizer, backend.pre_tokenizer = BertNormalizer(**normalizer), BertPreTokenizer()
    backend.post_processor = TemplateProcessing(
        single="[CLS] $A [SEP]", pair="[CLS] $A [SEP] $B:1 [SEP]:1", special_tokens=[("[CLS]", 2), ("[SEP]", 3)]
    )
    backend.add_special_tokens(words[:5])
    if family == "roberta":
        write_bpe_tokenizer(folder, ["<s>", "<pad>", "</s>", "<unk>", "<mask>"])
    else:
        backend.save(str(folder / "tokenizer.json"))
    if config is not None:
        (folder / "tokenizer_config.json").write_text(json.dumps(config))
    return folder


def same_ids(folder, opened):
    theirs = transformers.AutoTokenizer.from_pretrained(folder)
    limit = 64
    ours = Tokenizer.open(opened, limit)
    for text in TEXTS:
        expected = theirs(text, truncation=True, max_length=limit)
        encoded = ours.encode([(text,)])[0]
        assert encoded.ids == expected["input_ids"], text
    pair = theirs(TEXTS[0], TEXTS[1], truncation=True, max_length=limit)
    assert ours.encode([(TEXTS[0], TEXTS[1])])[0].ids == pair["input_ids"]


BERT = {"tokenizer_class": "BertTokenizer"}


@pytest.mark.parametrize(
    ("family", "config", "normalizer", "is_said"),
    [
        ("bert", BERT | {"do_lower_case": True}, {"lowercase": True}, False),
        ("bert", BERT | {"do_lower_case": False}, {"lowercase": True}, True),
        ("bert", BERT | {"do_lower_case": True}, {"lowercase": False}, True),
        ("bert", BERT | {"do_lower_case": False, "strip_accents": True}, {"lowercase": False}, True),
        ("bert", BERT | {"do_lower_case": True, "strip_accents": False}, {"lowercase": True}, True),
        ("bert", BERT | {"do_lower_case": True, "tokenize_chinese_chars": False}, {"lowercase": True}, True),
        ("distilbert", {"tokenizer_class": "DistilBertTokenizer", "do_lower_case": False}, {"lowercase": True}, True),
        ("electra", {"tokenizer_class": "ElectraTokenizer", "do_lower_case": False}, {"lowercase": True}, True),
        ("bert", {"tokenizer_class": "PreTrainedTokenizerFast", "do_lower_case": False}, {"lowercase": True}, False),
        ("bert", None, {"lowercase": False}, True),
        ("roberta", {"tokenizer_class": "RobertaTokenizer", "add_prefix_space": False}, {}, True),
        ("roberta", {"tokenizer_class": "RobertaTokenizer", "add_prefix_space": True}, {}, None),
    ],
)
def test_the_ids_are_those_of_transformers(tmp_path, capsys, family, config, normalizer, is_said):
    folder = make_folder(tmp_path / "in", family, config, **normalizer)
    opened = open_source(folder, tmp_path / "store", max_tokens=40).path
    said = "texts are split as transformers splits them" in capsys.readouterr().err
    assert is_said is None or said == is_said
    same_ids(folder, opened)
    same_ids(folder, folder)
    (tmp_path / "copy").mkdir()
    copy_tokenizer(folder, tmp_path / "copy")  # what fine-tuning keeps
    same_ids(folder, tmp_path / "copy")


def test_tokens_that_only_the_config_adds(tmp_path, capsys):
    added = {"4": {"content": "[MASK]", "special": True}, "3990": {"content": "brandnew", "special": False}}
    parts = {"lstrip": False, "rstrip": False, "normalized": False, "single_word": False}
    added = {key: value | parts for key, value in added.items()}
    folder = make_folder(tmp_path / "in", config=BERT | {"do_lower_case": True, "added_tokens_decoder": added})
    opened = open_source(folder, tmp_path / "store", max_tokens=40).path
    same_ids(folder, opened)
    theirs = transformers.AutoTokenizer.from_pretrained(folder)
    text = "a brandnew film"
    assert Tokenizer.open(opened, 40).encode([(text,)])[0].ids == theirs(text)["input_ids"]


@pytest.mark.parametrize("sections", [("truncation",), ("padding",), ("truncation", "padding")])
def test_sections_left_in_the_file_have_no_effect(tmp_path, sections):
    folder = make_folder(tmp_path / "in", config=BERT | {"do_lower_case": True, "padding_side": "left"})
    backend = tokenizers.Tokenizer.from_file(str(folder / "tokenizer.json"))
    if "truncation" in sections:
        backend.enable_truncation(8)
    if "padding" in sections:
        backend.enable_padding(length=100, direction="left")
    backend.save(str(folder / "tokenizer.json"))
    opened = open_source(folder, tmp_path / "store", max_tokens=40).path
    assert len(Tokenizer.open(opened, 40).encode([("a b c d e f g h i j k l",)])[0].ids) == 14
    same_ids(folder, opened)


@pytest.mark.parametrize(
    ("value", "limit"), [(16, 16), (512, 48), (10**30, 48), (None, 48), ("16", 48), (-1, 48), (True, 48)]
)
def test_the_length_limit_of_the_tokenizer_counts(tmp_path, value, limit):
    folder = make_folder(tmp_path / "in", config=BERT | {"model_max_length": value})
    assert Task.read(open_source(folder, tmp_path / "store").path / "task.json").max_tokens == limit
    assert model_max_length(folder) in (None, 16, 512)


def test_an_explicit_length_may_be_longer_than_that_of_the_tokenizer(tmp_path):
    folder = make_folder(tmp_path / "in", config=BERT | {"model_max_length": 16})
    opened = open_source(folder, tmp_path / "store", max_tokens=40)
    assert Task.read(opened.path / "task.json").max_tokens == 40


def test_other_ids_than_those_of_transformers_are_refused_with_the_text(tmp_path, monkeypatch):
    class Odd(transformers.BertTokenizerFast):
        def __call__(self, text, *others, **settings):
            encoded = super().__call__(text, *others, **settings)
            return {"input_ids": encoded["input_ids"][::-1]} if "café" in text.lower() else encoded

    folder = make_folder(tmp_path / "in", config=BERT | {"do_lower_case": True})
    monkeypatch.setattr(transformers.AutoTokenizer, "from_pretrained", Odd.from_pretrained)
    with pytest.raises(FolderError, match=r"\(Odd\) splits 'Café déjà-vu, .* otherwise than tokenizer.json"):
        open_source(folder, tmp_path / "store")


def test_a_tokenizer_that_transformers_cannot_open_is_used_as_it_is(tmp_path, capsys):
    folder = make_folder(tmp_path / "in", config=BERT | {"model_max_length": "many"})
    open_source(folder, tmp_path / "store")
    assert "transformers cannot use the tokenizer (" in capsys.readouterr().err


@pytest.mark.parametrize("family", ["bert", "modernbert"])
def test_the_class_of_transformers_5_is_compared_too(tmp_path, capsys, family):
    """It stands for tokenizer.json alone, and transformers 4.57 does not have it."""
    make_tiny_family(tmp_path / "saved", family)
    with_tokenizers_backend(tmp_path / "saved")
    theirs = tokenizer_class(tmp_path / "saved", transformers).from_pretrained(str(tmp_path / "saved"))
    opened = open_source(tmp_path / "saved", tmp_path)
    assert "WARNING" not in capsys.readouterr().err
    ours = Tokenizer.open(opened.path, Task.read(opened.path / "task.json").max_tokens)
    assert [one.ids for one in ours.encode([("a good film",)])] == [theirs("a good film")["input_ids"]]


def test_the_texts_are_many_and_distinct():
    assert len(TEXTS) == len(set(TEXTS)) == 200
    scripts = {chr(c) for c in (0x410, 0x5D0, 0x627, 0x905, 0xE01, 0x4E00, 0x3042, 0xAC00, 0x1F44D)}
    joined = "".join(TEXTS)
    assert sum(any(abs(ord(c) - ord(s)) < 300 for c in joined) for s in scripts) == len(scripts)


@pytest.mark.parametrize("form", ["template", "bert", "sequence", "vocabulary"])
def test_without_segments_among_the_inputs_a_pair_has_one_segment(tmp_path, capsys, form):
    names = {"tokenizer_class": "BertTokenizer", "model_input_names": ["input_ids", "attention_mask"]}
    folder = tmp_path / "in"
    theirs = make_tiny_family(folder, "bert")
    (folder / "tokenizer_config.json").write_text(json.dumps(names))
    file = folder / "tokenizer.json"
    document = json.loads(file.read_text())
    bert = {"type": "BertProcessing", "sep": ["[SEP]", 3], "cls": ["[CLS]", 2]}
    if form == "bert":
        document["post_processor"] = bert
    if form == "sequence":
        document["post_processor"] = {"type": "Sequence", "processors": [document["post_processor"]]}
    file.write_text(json.dumps(document))
    if form == "vocabulary":
        as_vocabulary_files(folder)
    opened = open_source(folder, tmp_path / "store", pair=True, max_tokens=40).path
    assert "both texts of a pair have segment 0, as in transformers" in capsys.readouterr().err
    pair = ("the film was good", "a dull story")
    ours = Tokenizer.open(opened, 40).batch([pair])
    expected = transformers.AutoTokenizer.from_pretrained(folder)(*pair, return_tensors="pt")
    assert "token_type_ids" not in expected
    assert ours.ids.tolist() == expected["input_ids"].tolist()
    with torch.no_grad():
        wanted, found = theirs(**expected).logits, load_checkpoint(opened)(TensorBatch(ours))[0]
    torch.testing.assert_close(found, wanted, atol=1e-5, rtol=1e-5)


def test_models_without_segments_keep_their_tokenizer(tmp_path, capsys):
    make_tiny_family(tmp_path / "in", "distilbert")
    config = {"tokenizer_class": "DistilBertTokenizer", "model_input_names": ["input_ids", "attention_mask"]}
    (tmp_path / "in" / "tokenizer_config.json").write_text(json.dumps(config))
    open_source(tmp_path / "in", tmp_path / "store", pair=True, max_tokens=40)
    assert "segment 0" not in capsys.readouterr().err
