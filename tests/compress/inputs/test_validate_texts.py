"""Texts that a tokenizer knows badly are warned of, and refused only where it knows hardly a token."""

import pytest
from tiny import make_tiny_checkpoint, write_bpe_tokenizer

from compress.inputs.validate_texts import check_texts
from models.data.texts import Texts
from models.errors import InputError
from models.task import Task

TASK = Task(labels=("a", "b"), max_tokens=48)
KNOWN = "the film was good and the plot was dull"
ODD = {
    "logs": "2026-11-26T17:17:05Z ERROR [worker-3] 0x7ffd timeout=5000ms id=4f3a9c",
    "product codes": "SKU-4471-XB/12 REV.C",
    "numbers": "1048576 3.14159 42",
    "hex": "deadbeefcafebabe 0badf00d",
    "addresses": "https://example.org/a/b?c=d&e=f#g",
    "Arabic": "كان الفيلم جيدا جدا",
    "Hindi": "फिल्म बहुत अच्छी थी",
    "Korean": "영화가 아주 좋았다",
    "emoji": "😀😀 👍🏽 🎉",
}


@pytest.fixture(params=["word pieces", "bytes"])
def folder(request, tmp_path):
    if request.param == "bytes":
        write_bpe_tokenizer(tmp_path, ["<s>", "<pad>", "</s>", "<unk>", "<mask>"])
    else:
        make_tiny_checkpoint(tmp_path)
    return tmp_path


@pytest.mark.parametrize("kind", ODD)
def test_no_domain_is_refused_because_its_texts_are_odd(folder, kind):
    texts = Texts([(f"{ODD[kind]} {KNOWN}",) for _ in range(20)], None, "odd.csv")
    check_texts(texts, TASK, folder, "training")


def test_texts_of_which_no_token_is_known_are_refused_unless_the_user_says_so(tmp_path, capsys):
    make_tiny_checkpoint(tmp_path)
    texts = Texts([(ODD["Arabic"],)] * 20, None, "odd.csv")
    with pytest.raises(InputError, match=r"100% of the tokens .* are unknown .* give others, or --any-text to go on"):
        check_texts(texts, TASK, tmp_path, "training")
    check_texts(texts, TASK, tmp_path, "training", any_text=True)
    assert "WARNING: odd.csv: 100% of the tokens of the training rows are unknown" in capsys.readouterr().err


def test_a_byte_level_tokenizer_knows_every_text(tmp_path):
    write_bpe_tokenizer(tmp_path, ["<s>", "<pad>", "</s>", "<unk>", "<mask>"])
    for text in ODD.values():
        check_texts(Texts([(text,)] * 20, None, "odd.csv"), TASK, tmp_path, "training")


def test_rows_are_drawn_from_the_whole_file(tmp_path, capsys):
    """A file that begins with another language, such as one sorted by language, is judged by all of it."""
    make_tiny_checkpoint(tmp_path)
    rows = [(ODD["Korean"],)] * 400 + [(KNOWN,)] * 4000
    check_texts(Texts(rows, None, "sorted.csv"), TASK, tmp_path, "training")
    assert "WARNING" not in capsys.readouterr().err
    check_texts(Texts(rows[::-1][:4200], None, "sorted.csv"), TASK, tmp_path, "training")


def test_much_that_is_unknown_is_a_warning(tmp_path, capsys):
    make_tiny_checkpoint(tmp_path)
    check_texts(Texts([(f"{ODD['Arabic']} {KNOWN}",)] * 9, None, "odd.csv"), TASK, tmp_path, "training")
    assert "are they in another language than the model's?" in capsys.readouterr().err


def test_texts_that_a_normalizer_empties_are_refused(tmp_path):
    make_tiny_checkpoint(tmp_path)
    with pytest.raises(InputError, match="--any-text"):
        check_texts(Texts([("\u200b\u200d",)] * 9, None, "odd.csv"), TASK, tmp_path, "training")
