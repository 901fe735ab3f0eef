"""A tokenizer with tokens that the model has no row for: refused when a model is made, harmless when served."""

import json
import logging
import shutil

import pytest
import tokenizers
from bundles import sign
from starlette.testclient import TestClient
from tiny import make_tiny_checkpoint, make_tiny_family, tiny_texts, write_tokenizer
from verbs import run

from compress.make_bundle import BundleConfig, BundleTexts, make_bundle
from models.architecture import Architecture
from models.compatibility import check_fit, check_tokenizer
from models.errors import FolderError, InputError
from models.store.folder import ModelFolder
from models.task import Task
from models.tokenizer import Tokenizer
from service.inference.inference_service import InferenceService
from service.model.bundle import Bundle
from service.model.engine import Engine
from service.model.session import RuntimeSettings
from service.settings import Settings
from service.web.app import App

pytest_plugins = ["serving"]  # the fixtures tiny_bundle and pair_bundle
TASK = Task(labels=("a", "b"), max_tokens=16)
FILE = "tokenizer.json"


def change(folder, how):
    """Change `tokenizer.json` of a folder as JSON."""
    document = json.loads((folder / FILE).read_text())
    how(document)
    (folder / FILE).write_text(json.dumps(document))
    return folder


def add_token(folder, *words, special=False):
    backend = tokenizers.Tokenizer.from_file(str(folder / FILE))
    (backend.add_special_tokens if special else backend.add_tokens)(list(words))
    backend.save(str(folder / FILE))
    return folder


def leave_a_gap(document):
    """As many tokens as before, and one id far behind the others."""
    document["model"]["vocab"]["##z"] = 500


def put_around(document):
    document["post_processor"]["special_tokens"]["[SEP]"]["ids"] = [500]


def pad_behind(document):
    document["model"]["vocab"]["[PAD]"] = 500


FAULTS = {
    "an added token": lambda folder: add_token(folder, "brandnew"),
    "a special token": lambda folder: add_token(folder, "[ENTITY]", special=True),
    "an id behind a gap": lambda folder: change(folder, leave_a_gap),
    "a token around texts": lambda folder: change(folder, put_around),
    "the padding token": lambda folder: change(folder, pad_behind),
}


@pytest.fixture
def checkpoint(tmp_path):
    make_tiny_checkpoint(tmp_path / "hub")
    return tmp_path / "hub"


def shape_of(folder, **changes):
    from models.checkpoint import read_architecture

    return Architecture.model_validate(read_architecture(folder).model_dump() | changes)


# refused when it is made


@pytest.mark.parametrize("fault", FAULTS)
def test_tokens_beyond_the_table_are_refused(checkpoint, fault):
    shape = shape_of(checkpoint)
    check_fit(checkpoint, shape, TASK)
    FAULTS[fault](checkpoint)
    with pytest.raises(InputError, match=f"beyond the token table of {shape.vocabulary} rows"):
        check_fit(checkpoint, shape, TASK)


def test_a_table_with_rows_to_spare_fits(checkpoint):
    check_fit(checkpoint, shape_of(checkpoint, vocabulary=1000), TASK)  # as ModernBERT's, padded to a multiple
    add_token(checkpoint, "brandnew")
    check_fit(checkpoint, shape_of(checkpoint, vocabulary=1000), TASK)


def test_a_padding_id_of_the_config_beyond_the_table_is_refused(checkpoint):
    with pytest.raises(InputError, match="padding id is 500"):
        check_fit(checkpoint, shape_of(checkpoint, pad_id=500), TASK)


@pytest.mark.parametrize(("family", "pad_id"), [("mpnet", 0), ("bert", 2), ("roberta", 0)])
def test_a_padding_id_in_every_text_fits(tmp_path, family, pad_id):
    make_tiny_family(tmp_path, family)
    check_fit(tmp_path, shape_of(tmp_path, pad_id=pad_id), TASK)


@pytest.mark.parametrize(("family", "positions"), [("bert", 48), ("roberta", 46), ("xlm-roberta", 46)])
def test_no_more_tokens_than_positions(tmp_path, family, positions):
    """RoBERTa's first two positions are never used: 48 of them are 46 tokens."""
    make_tiny_family(tmp_path, family)
    shape = shape_of(tmp_path)
    check_fit(tmp_path, shape, TASK.model_copy(update={"max_tokens": positions}))
    with pytest.raises(InputError, match=f"has {positions} positions"):
        check_fit(tmp_path, shape, TASK.model_copy(update={"max_tokens": positions + 1}))


def test_segments_of_pairs(checkpoint):
    def third(document):
        document["post_processor"]["pair"][3]["Sequence"]["type_id"] = 2

    change(checkpoint, third)
    shape, tokenizer = shape_of(checkpoint), Tokenizer.open(checkpoint, 16)
    check_tokenizer(checkpoint, tokenizer, shape, pair=False)
    with pytest.raises(InputError, match="3 segments"):
        check_tokenizer(checkpoint, tokenizer, shape, pair=True)


@pytest.mark.parametrize("verb", ["quantize", "export", "compress", "finetune"])
def test_every_verb_refuses_before_it_works(checkpoint, tmp_path, capsys, monkeypatch, verb):
    add_token(checkpoint, "brandnew")
    texts = tmp_path / "texts.csv"
    texts.write_text("text,label\n" + "".join(f"{row[0]},{label}\n" for row, label in labelled()))
    flags = {
        "quantize": (checkpoint, "--calibration", texts), "export": (checkpoint,),
        "compress": (checkpoint, "--train", texts, "--speedup", 2),
        "finetune": ("--encoder", checkpoint, "--train", texts),
    }[verb]  # fmt: skip
    code, _, err = run(capsys, monkeypatch, verb, *flags, "--store", tmp_path / "store")
    assert code == 2, err
    assert "'brandnew'" in err
    assert "resize_token_embeddings" in err


def labelled():
    texts = tiny_texts()
    return zip(texts.rows, texts.labels, strict=True)


def test_a_bundle_of_a_folder_of_ours_is_refused_too(tiny_bundle, tmp_path):
    classifier = next(tiny_bundle.parent.glob("finetune-*"))
    shutil.copytree(classifier, tmp_path / "classifier")
    sign(add_token(tmp_path / "classifier", "brandnew"))
    with pytest.raises(InputError, match="brandnew"):
        make_bundle(
            ModelFolder.open(tmp_path / "classifier"),
            BundleTexts.of(tiny_texts()),
            BundleConfig(),
            tmp_path / "store",
        )


# harmless in a bundle that was made before


def damaged(bundle, target, how):
    shutil.copytree(bundle, target)
    how(target)
    return sign(target)


def serve(folder):
    engine = Engine.open(Bundle.open(folder), RuntimeSettings(device="cpu"))
    engine.self_check()
    return TestClient(App(InferenceService(engine, Settings(device="cpu"))))


def classify(client, *texts, **options):
    answer = client.post("/v1/classify", json={"texts": texts, "raw_scores": True, **options})
    assert answer.status_code == 200, answer.text
    return answer.json()["predictions"]


@pytest.mark.parametrize("options", [{}, {"truncation_direction": "left"}, {"truncate": False}])
@pytest.mark.parametrize("fault", ["an added token", "a special token", "an id behind a gap"])
def test_tokens_of_an_old_bundle_that_the_table_lacks_become_unknown(tiny_bundle, tmp_path, caplog, fault, options):
    word = {"an added token": "brandnew", "a special token": "[ENTITY]", "an id behind a gap": "xz"}[fault]
    unknown = "x 中" if fault == "an id behind a gap" else "中"  # xz is x and ##z
    with (
        caplog.at_level(logging.WARNING, "prunella"),
        serve(damaged(tiny_bundle, tmp_path / "old", FAULTS[fault])) as c,
    ):
        fine, odd = "good film", f"a {word} film"
        wanted = classify(c, fine, f"a {unknown} film", **options)
        assert classify(c, fine, odd, **options) == wanted
        assert [classify(c, text, **options)[0] for text in (fine, odd)] == wanted
    assert "token table lacks" in caplog.text


def test_padding_of_an_old_bundle_beyond_the_table(tiny_bundle, tmp_path):
    texts = ["good", "a very good film", "dull plot"]
    with (
        serve(tiny_bundle) as before,
        serve(damaged(tiny_bundle, tmp_path / "old", FAULTS["the padding token"])) as c,
    ):
        assert classify(c, *texts) == classify(before, *texts)


def test_an_old_bundle_that_takes_more_tokens_than_it_has_positions(tiny_bundle, tmp_path, caplog):
    def longer(folder):
        task = Task.read(folder / "task.json")
        task.model_copy(update={"max_tokens": 60}).write(folder / "task.json")

    words = ["good", "film", "plot"] * 30
    with caplog.at_level(logging.WARNING, "prunella"), serve(damaged(tiny_bundle, tmp_path / "old", longer)) as c:
        assert classify(c, " ".join(words)) == classify(c, " ".join(words[:46]))
        assert c.get("/info").json()["max_input_length"] == 48
    assert "cut at 48 tokens" in caplog.text


def test_without_an_unknown_token_it_is_refused_when_it_is_opened(tmp_path):
    write_tokenizer(tmp_path)
    rows = Tokenizer.open(tmp_path, 16).vocabulary

    def rename(document):
        vocabulary = document["model"]["vocab"]
        vocabulary["[NONE]"] = vocabulary.pop("[UNK]")

    change(add_token(tmp_path, "brandnew"), rename)
    Tokenizer.open(tmp_path, 16)
    with pytest.raises(FolderError, match="no unknown token"):
        Tokenizer.open(tmp_path, 16, rows)
