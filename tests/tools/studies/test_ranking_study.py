"""The study of ranked lists: candidates of a query, and how alike two rankings of them are."""

import numpy as np
import pytest

from models.data.texts import Texts
from models.errors import InputError
from tools.studies.ranking import compare_rankings, make_searches

SECOND = ["red cat", "red dog", "blue cat", "green bird", "red cat"]
PAIRS = Texts([(f"the {text}", text) for text in SECOND], ["1", "1", "0", "1", "1"], "pairs")


def test_the_partner_is_first_then_the_nearest_other_texts_and_no_text_twice_with_the_partner():
    searches = make_searches(PAIRS, queries=10, documents=3, seed=0)
    queries = [row[0] for row in searches.rows[::3]]
    assert sorted(queries) == ["the green bird", "the red cat", "the red cat", "the red dog"]
    for start in range(0, len(searches.rows), 3):
        group = searches.rows[start : start + 3]
        assert {query for query, _ in group} == {group[0][0]}
        assert group[0] == (group[0][0], group[0][0].removeprefix("the "))
        assert group[0][1] not in [document for _, document in group[1:]]
    nearest = searches.rows[3 * queries.index("the red dog") + 1]
    assert nearest == ("the red dog", "red cat")
    assert searches.shaped(np.arange(12, dtype=np.float32)[:, None]).shape == (4, 3)


def test_single_texts_or_too_few_rows_are_refused():
    with pytest.raises(InputError, match="pairs are wanted"):
        make_searches(PAIRS, queries=1, documents=9, seed=0)


def test_equal_lists_overlap_wholly_and_others_by_what_they_share():
    full = np.array([[4, 3, 2, 1], [1, 2, 3, 4]], dtype=np.float32)
    same = compare_rankings(full, full * 2, k=2)
    assert (same["overlap"], same["same_set"], same["same_order"], same["same_first"]) == (1, 1, 1, 1)
    assert same["partner_first"] == [0.5, 0.5]
    assert same["mrr"] == [0.625, 0.625]
    other = np.array([[4, 1, 3, 2], [1, 2, 4, 3]], dtype=np.float32)  # shares 1 of 2; swaps the first two
    found = compare_rankings(full, other, k=2)
    assert (found["overlap"], found["same_set"], found["same_order"], found["same_first"]) == (0.75, 0.5, 0, 0.5)
    constant = compare_rankings(full, np.zeros_like(full), k=2)
    assert constant["mrr"][1] == 0.25  # a model that tells nothing apart finds no partner
