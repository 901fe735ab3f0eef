"""Lines of a corpus that are nearest to the training texts: which are taken, and which never are."""

from zlib import crc32

import numpy as np
import pytest
import torch
from labelled import make_texts
from tiny import BAD, GOOD, make_tiny_checkpoint

from models.data.columns import Columns
from models.data.texts import Texts, read_texts
from models.errors import InputError
from models.retrieval import nearest_texts as module
from models.retrieval.nearest_texts import nearest_texts
from models.retrieval.ngram_filter import most_typical
from models.retrieval.sentence_embeddings import embed

TRAIN = Texts([("a good film with bright music",), ("the plot was dull and cold",)], None, "train.csv")
HELD_OUT = Texts([("it was a lovely story of the scene and very warm",)], None, "test.csv")


@pytest.fixture(scope="module")
def encoder(tmp_path_factory):
    folder = tmp_path_factory.mktemp("encoder") / "tiny"
    make_tiny_checkpoint(folder, seed=3)
    return folder


def by_words(rows, *_) -> torch.Tensor:
    """Stand in for the encoder: mean of random vectors of the words. Those of a random encoder are all alike."""
    vectors = [
        np.mean([np.random.default_rng(crc32(w.encode())).normal(size=64) for w in " ".join(row).split()], axis=0)
        for row in rows
    ]
    return torch.nn.functional.normalize(torch.tensor(np.array(vectors), dtype=torch.float32).reshape(-1, 64))


@pytest.fixture
def nearest(encoder, tmp_path, monkeypatch):
    monkeypatch.setattr(module, "embed", by_words)

    def take(lines, count, training=TRAIN, held_out=(HELD_OUT,)):
        corpus = Texts([(line,) for line in lines], None, "corpus.txt")
        return [row[0] for row in nearest_texts(corpus, training, held_out, count, tmp_path, str(encoder)).rows]

    return take


def test_known_rows_and_repetitions_are_left_out(nearest):
    lines = [
        "A good film, with bright music!", "x y z", "X  y z.", "q r s t",
        "It was a LOVELY story of the scene and very warm.",
        "it was a nice story of the scene and very warm",  # one word of eleven is another
        "☃ ☃", "☃☃",
    ]  # fmt: skip
    assert sorted(nearest(lines, 10)) == ["q r s t", "x y z", "☃ ☃"]


def test_lines_like_the_training_texts_come_first(nearest):
    near = ["a good film with warm music", "the plot was dull and weak"]
    far = ["x y z x y z", "q w q w e", "j k l m n o p", "u v u v"]
    assert sorted(nearest([far[0], near[0], *far[1:3], near[1], far[3]], 2)) == sorted(near)


def test_each_training_text_gets_its_nearest_line_before_one_gets_two(nearest):
    many = [f"a good film with bright {word} music" for word in GOOD if word != "bright"]
    taken = nearest([*many, "plot was dull and cold so"], 2)
    assert "plot was dull and cold so" in taken


def test_lines_that_are_nearly_the_same_are_taken_once(nearest, monkeypatch):
    monkeypatch.setattr(module, "BLOCK", 2)  # known lines of earlier blocks count, and those of the same one
    lines = ["x y z a b", "b a z y x", "y x a z b", "the bad scene"]
    assert len(nearest(lines, 4)) == 2


def test_words_are_compared_first_when_the_corpus_is_large(nearest, monkeypatch):
    draw = np.random.default_rng(0)
    far = [" ".join(draw.choice(list("uvwxyz"), 12)) for _ in range(200)]
    near = [f"a good film with {word} music and plot" for word in (*GOOD[:3], *BAD[:3])]
    embedded = []
    monkeypatch.setattr(module, "embed", lambda rows, *rest: embedded.append(len(rows)) or by_words(rows))
    taken = nearest([*far[:100], *near, *far[100:]], 4)
    assert set(taken) <= set(near)
    assert embedded[0] == 12
    assert most_typical(["u v w", "a film", "☃"], ["a good film"], 1) == [1]


def test_a_text_alone_has_the_vector_that_it_has_in_a_batch(encoder):
    rows = make_texts(count=150, seed=5).rows
    together = embed(rows, encoder, "rows")
    alone = torch.cat([embed([row], encoder, "rows") for row in rows[:20]])
    torch.testing.assert_close(together[:20], alone, atol=1e-5, rtol=0)
    torch.testing.assert_close(together.norm(dim=1), torch.ones(150))


def test_the_same_choice_is_made_once(nearest, monkeypatch):
    first = nearest(["x y z", "q r s"], 1)
    monkeypatch.setattr(module, "embed", lambda *_: pytest.fail("embedded again"))
    assert nearest(["x y z", "q r s"], 1) == first
    with pytest.raises(pytest.fail.Exception):
        nearest(["x y z", "q r s"], 1, held_out=())


def test_what_is_wrong_is_one_sentence(nearest, encoder, tmp_path):
    with pytest.raises(InputError, match=r"no row of corpus\.txt is left"):
        nearest([HELD_OUT.rows[0][0], TRAIN.rows[0][0]], 3)
    with pytest.raises(InputError, match="--nearest is 0: wanted 1 line or more"):
        nearest(["x"], 0)
    pairs = Texts([("a", "b")], None, "pairs.csv")
    with pytest.raises(InputError, match=r"pairs\.csv has pairs, train\.csv single texts"):
        nearest_texts(pairs, TRAIN, [], 1, tmp_path, str(encoder))


def test_pairs_are_compared_as_pairs(encoder, tmp_path):
    pairs = [("a good film", "it was bright"), ("x y z", "u v w"), ("a good film", "it was warm")]
    training = Texts(pairs[:1], None, "train.csv")
    taken = nearest_texts(Texts(pairs, None, "pairs.csv"), training, [], 1, tmp_path, str(encoder))
    assert taken.rows == [pairs[2]]


def test_lines_of_a_text_file_are_texts_without_labels(tmp_path):
    path = tmp_path / "corpus.txt"
    path.write_text("one line\n\n  another, with a comma \n", encoding="utf-8")
    texts = read_texts(path, Columns().unlabelled())
    assert (texts.rows, texts.labels) == ([("one line",), ("another, with a comma",)], None)
    with pytest.raises(InputError, match=r"ends in '\.txt': wanted \.csv"):
        read_texts(path)
