from collections import Counter

import numpy as np
import pytest
from tiny import make_tiny_checkpoint, tiny_texts

from compress.healing.augment import augment
from models.tokenizer import Tokenizer

CLS, SEP = 2, 3


@pytest.fixture(params=[False, True], ids=["single", "pair"])
def rows(request, tmp_path):
    make_tiny_checkpoint(tmp_path)
    tokenizer = Tokenizer.open(tmp_path, 12)  # some rows are cut
    assert tokenizer.special_ids == {CLS, SEP}
    return tokenizer.encode(tiny_texts(80, request.param).rows)


def test_variants_keep_the_form_of_their_row(rows):
    found, _ = augment(rows, [*range(80)] * 3, {CLS, SEP}, seed=0)
    assert len(found) == 240
    for number, variant in enumerate(found):
        row = rows[number % 80]
        assert len(variant.ids) == len(variant.types) <= len(row.ids)
        assert [i for i in variant.ids if i in (CLS, SEP)] == [i for i in row.ids if i in (CLS, SEP)]
        assert variant.ids[0] == CLS
        assert variant.ids[-1] == SEP
        forms = (list(zip(e.ids, e.types, strict=True)) for e in (variant, row))
        kept, had = ([pair for pair in form if pair[0] in (CLS, SEP)] for form in forms)
        assert kept == had  # segments end where they ended
        assert variant.types == sorted(variant.types)


def test_variants_differ_from_their_row_and_use_the_tokens_of_the_rows(rows):
    found, _ = augment(rows, [*range(80)] * 4, {CLS, SEP}, seed=0)
    assert np.mean([variant.ids != rows[n % 80].ids for n, variant in enumerate(found)]) > 0.7
    had, has = (Counter(i for e in some for i in e.ids if i not in (CLS, SEP)) for some in (rows, found))
    assert set(has) <= set(had)
    shares = [np.array([c[i] for i in had]) / c.total() for c in (had, has)]
    assert np.corrcoef(*shares)[0, 1] > 0.9  # drawn by frequency


def test_the_same_seed_gives_the_same_and_more_variants_begin_with_fewer(rows):
    once, twice = [*range(80)], [*range(80)] * 2
    two, donors = augment(rows, twice, {CLS, SEP}, seed=0)
    assert augment(rows, twice, {CLS, SEP}, seed=0) == (two, donors)
    assert augment(rows, once, {CLS, SEP}, seed=0) == (two[:80], donors[:80])
    assert augment(rows, twice, {CLS, SEP}, seed=1)[0] != two
    assert two[:80] != two[80:]
    assert augment(rows, [], {CLS, SEP}, seed=0) == ([], [])


def test_a_variant_says_whose_end_it_may_have(rows):
    """Every token of a variant that is not its own row's is the donor's, or one of the tenth that were replaced."""
    found, donors = augment(rows, [*range(80)] * 4, {CLS, SEP}, seed=0)
    foreign = total = 0
    for number, (variant, donor) in enumerate(zip(found, donors, strict=True)):
        known = set(rows[number % 80].ids) | set(rows[donor].ids)
        foreign += sum(token not in known for token in variant.ids)
        total += len(variant.ids)
    assert foreign < 0.1 * total
    own = [donor == number % 80 for number, donor in enumerate(donors)]
    assert 0.1 < np.mean(own) < 0.7  # those that lost a span have no donor
