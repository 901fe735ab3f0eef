"""Learning a gate: it learns words and word pairs, from labels or scores, and knows how sure it is."""

import numpy as np
import pytest

from compress.cascade.learn_gate import LearnConfig, Lesson, answers, gate_logits, learn_gate
from models.errors import InputError

VOCABULARY = 60
FIRST, LAST = 1, 2  # special tokens


def texts_of_pairs(count: int, seed: int = 0) -> tuple[list[list[int]], np.ndarray]:
    """Return texts whose label is whether tokens 10 and 11 come in this order: no single token tells."""
    generator = np.random.default_rng(seed)
    tokens, truth = [], generator.integers(0, 2, count)
    for label in truth:
        filler = generator.integers(20, VOCABULARY, 6).tolist()
        filler[2:4] = (10, 11) if label else (11, 10)
        tokens.append([FIRST, *filler, LAST])
    return tokens, truth


def texts_of_words(count: int, labels: int = 3, seed: int = 0) -> tuple[list[list[int]], np.ndarray]:
    """Return texts with one token of their label, and in a fifth of them of another one."""
    generator = np.random.default_rng(seed)
    truth = generator.integers(0, labels, count)
    shown = np.where(generator.random(count) < 0.2, generator.integers(0, labels, count), truth)
    return [[FIRST, 5 + int(k), *generator.integers(20, VOCABULARY, 4).tolist(), LAST] for k in shown], truth


def lesson(tokens, truth, labels=3, scores=None) -> Lesson:
    return Lesson(tokens, np.asarray(truth, dtype=np.int64), scores, labels, VOCABULARY, len(tokens))


def test_pairs_of_tokens_tell_what_tokens_cannot():
    tokens, truth = texts_of_pairs(800)
    new, wanted = texts_of_pairs(300, seed=1)
    with_pairs = learn_gate(lesson(tokens, truth, 2), LearnConfig(), "x").gate
    without = learn_gate(lesson(tokens, truth, 2), LearnConfig(bigrams=False), "x").gate
    assert (answers(with_pairs, new)[0] == wanted).mean() > 0.95
    assert (answers(without, new)[0] == wanted).mean() < 0.65
    assert without.info.bigram_bits == 0


def test_its_confidence_is_about_how_often_it_is_right():
    tokens, truth = texts_of_words(2000)
    gate = learn_gate(lesson(tokens, truth), LearnConfig(), "x").gate
    new, wanted = texts_of_words(2000, seed=1)
    label, confidence = answers(gate, new)
    assert abs((label == wanted).mean() - confidence.mean()) < 0.06


def test_it_learns_a_models_scores_where_there_are_no_labels():
    tokens, truth = texts_of_words(1000)
    scores = np.full((1000, 3), 0.02, np.float32)
    scores[np.arange(1000), truth] = 0.96
    gate = learn_gate(lesson(tokens, np.full(1000, -1), scores=scores), LearnConfig(), "x").gate
    new, wanted = texts_of_words(500, seed=1)
    assert (answers(gate, new)[0] == wanted).mean() > 0.8


def test_labels_and_scores_count_the_same():
    scores = np.array([[0.6, 0.4], [0.2, 0.8]], np.float32)
    targets = Lesson([[1], [1]], np.array([1, -1]), scores, 2, VOCABULARY, 2).targets()
    np.testing.assert_allclose(targets, [[0.3, 0.7], [0.2, 0.8]], rtol=1e-6)


def test_extra_texts_are_never_held_out():
    tokens, truth = texts_of_words(400)
    learned = learn_gate(
        Lesson(tokens, truth.astype(np.int64), None, 3, VOCABULARY, train_rows=200), LearnConfig(), "x"
    )
    assert len(learned.held_out) == 20
    assert learned.held_out.max() < 200


def test_its_rows_stay_within_the_limit():
    tokens, truth = texts_of_words(300)
    gate = learn_gate(lesson(tokens, truth), LearnConfig(bytes=4096, trigrams=True), "x").gate
    assert gate.table.nbytes <= 4096
    assert gate.info.trigram_bits > 0


def test_a_limit_without_room_for_pairs_is_an_error():
    tokens, truth = texts_of_words(300)
    with pytest.raises(InputError, match="no room for n-grams in 4,096 bytes"):
        learn_gate(Lesson(tokens, truth.astype(np.int64), None, 40, VOCABULARY, 300), LearnConfig(bytes=4096), "x")


def test_too_few_texts_are_an_error():
    tokens, truth = texts_of_words(99)
    with pytest.raises(InputError, match="100 training texts or more, found 99"):
        learn_gate(lesson(tokens, truth), LearnConfig(), "x")


def test_a_label_that_no_text_has_is_never_a_confident_answer():
    tokens, truth = texts_of_words(600)
    gate = learn_gate(lesson(tokens, truth, labels=4), LearnConfig(), "x").gate
    label, _ = answers(gate, texts_of_words(300, seed=1)[0])
    assert 3 not in label


def test_the_same_seed_gives_the_same_gate_and_it_is_closed():
    tokens, truth = texts_of_words(300)
    first, second = (learn_gate(lesson(tokens, truth), LearnConfig(seed=3), "x") for _ in range(2))
    assert first.gate.info == second.gate.info
    assert (first.gate.table == second.gate.table).all()
    assert not any(first.gate.decide(ids).answered for ids in tokens)
    held_out = [tokens[i] for i in first.held_out]
    assert (gate_logits(first.gate, held_out).argmax(axis=1) == first.label).all()
