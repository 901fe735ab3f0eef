"""Rows that are the same apart from case, punctuation and spaces; further texts that are held-out rows."""

import pytest

from models.data.overlap import row_key, without
from models.data.texts import Texts
from models.errors import InputError
from models.finetuning.finetune_config import Splits


def texts(*rows: str, labels: list[str] | None = None, source: str = "rows") -> Texts:
    return Texts([(row,) for row in rows], labels, source)


def test_case_punctuation_and_spaces_make_no_difference_and_words_do():
    same = [("A good film.",), ("a  good, FILM",), ("a good film",)]
    assert len({row_key(row) for row in same}) == 1
    assert row_key(("a good films",)) != row_key(same[0])
    assert row_key(("!?",)) != row_key(("…",))
    assert without(texts("A GOOD film!", "other", "other"), same).rows == [("other",), ("other",)]


def test_further_texts_of_a_fine_tuning_are_no_held_out_rows(capsys):
    train, held_out = texts("one", "two", labels=["a", "b"]), texts("Three.", "four", labels=["a", "b"])
    splits = Splits(train, held_out, texts("Five", labels=["a"]))
    added = splits.with_texts(texts("three", "FIVE!", "one", "six", "six", source="more")).texts
    assert added is not None
    assert added.rows == [("six",)]
    assert "4 of 5 rows of more are labelled rows or come twice" in capsys.readouterr().err
    with pytest.raises(InputError, match="all 1 rows of more are labelled rows"):
        splits.with_texts(texts("  three ", source="more"))
