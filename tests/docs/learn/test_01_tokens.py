"""Answers to the exercises of docs/learn/01_tokens.py."""

from models.data.builtin import minilm_folder
from models.data.texts import read_texts
from models.pretraining.wordpiece import train_wordpiece
from models.tokenizer import Tokenizer

SENTENCE = "An unwatchably tedious, overlong film."


def test_exercise_1_frequent_words_are_one_token_and_unwatchably_is_not_in_the_vocabulary():
    minilm = Tokenizer.open(minilm_folder(), max_tokens=128)
    words = SENTENCE.lower().replace(",", " ,").replace(".", " .").split()
    whole = [word for word, pieces in zip(words, minilm.pieces(words), strict=True) if len(pieces) == 1]
    assert whole == ["an", ",", "film", "."]
    # the texts on which the vocabulary was learned had `un`, `watch` and `ably` often, but not this word
    (pieces,) = minilm.pieces(["unwatchably"])
    assert minilm.token_strings(pieces) == ["un", "##watch", "##ably"]


def test_exercise_2_both_directions_keep_the_special_tokens_only_the_text_is_cut():
    minilm = Tokenizer.open(minilm_folder(), max_tokens=8)
    long = max((row for row in read_texts("builtin:film-reviews:train").rows), key=lambda row: len(row[0]))
    (right,), (left,) = (minilm.encode([long], direction=direction) for direction in ("right", "left"))
    everything = Tokenizer.open(minilm_folder(), max_tokens=10_000).encode([long])[0].ids
    assert right.ids == [everything[0], *everything[1:7], everything[-1]]  # the beginning of the text
    assert left.ids == [everything[0], *everything[-7:-1], everything[-1]]  # its end
    assert minilm.token_strings([right.ids[0], right.ids[-1]]) == ["[CLS]", "[SEP]"]


def test_exercise_3_a_vocabulary_with_capitals_needs_more_tokens_because_words_have_several_forms(tmp_path):
    rows = read_texts("builtin:film-reviews:train").rows
    file = tmp_path / "reviews.txt"
    file.write_text("\n".join(row[0] for row in rows), encoding="utf-8")
    tokens = {}
    for lowercase in (True, False):
        tokenizer = Tokenizer(train_wordpiece([file], 1000, lowercase), max_tokens=10_000)
        tokens[lowercase] = sum(len(row.ids) for row in tokenizer.encode(rows))
    assert tokens[False] > tokens[True]
