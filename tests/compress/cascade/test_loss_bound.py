"""The exact bound of a paired loss: it is valid on few rows, and it is as strict as the rows allow."""

import itertools

import numpy as np
import pytest
from scipy.stats import multinomial

from compress.cascade.loss_bound import fewest_rows, p_value, shows, upper_limit

LEVEL = 0.95


@pytest.mark.parametrize(("rows", "limit"), [(12, 0.1), (20, 0.2)])
def test_the_test_errs_in_at_most_five_percent_of_all_results_whatever_the_rates_are(rows, limit):
    results = [(lost, won) for lost, won in itertools.product(range(rows + 1), repeat=2) if lost + won <= rows]
    rejected = [(lost, won, rows - lost - won) for lost, won in results if p_value(lost, won, rows, limit) <= 0.05]
    assert rejected  # else the test could not fail
    for p_won in np.linspace(0, (1 - limit) / 2, 60):
        rates = [p_won + limit, p_won, max(1 - limit - 2 * p_won, 0)]
        assert multinomial.pmf(rejected, rows, rates).sum() <= 0.05


def test_the_test_is_not_needlessly_careful():
    # a loss of 0 where 1 point is allowed, 2 % of 5,000 rows differ: the normal test rejects in 0.9998 of the draws
    generator = np.random.default_rng(0)
    draws = generator.multinomial(5000, [0.01, 0.01, 0.98], size=40)
    assert sum(p_value(int(lost), int(won), 5000, 0.01) <= 0.05 for lost, won, _ in draws) >= 39


def test_the_first_look_decides_as_the_exact_one_does():
    results = [(lost, won) for lost in range(12) for won in range(0, 9, 4)]
    found = [shows(lost, won, 700, 0.01, LEVEL) for lost, won in results]
    assert found == [p_value(lost, won, 700, 0.01) <= 0.05 for lost, won in results]
    assert 0 < sum(found) < len(found)


def test_more_lost_rows_speak_against_the_model_and_won_rows_for_it():
    by_lost = [p_value(lost, 2, 800, 0.01) for lost in range(0, 12, 3)]
    by_won = [p_value(6, won, 800, 0.01) for won in range(0, 12, 3)]
    assert by_lost == sorted(by_lost)
    assert by_won == sorted(by_won, reverse=True)


def test_a_looser_limit_is_easier_to_show():
    values = [p_value(4, 1, 700, limit) for limit in (0.005, 0.01, 0.02, 0.05)]
    assert values == sorted(values, reverse=True)
    assert values[-1] < 0.05 < values[0]


def test_the_upper_limit_is_where_the_test_changes():
    limit = upper_limit(4, 1, 700, LEVEL)
    assert p_value(4, 1, 700, limit) <= 0.05
    assert p_value(4, 1, 700, limit - 2e-4) > 0.05
    assert 3 / 700 < limit < 0.02


@pytest.mark.parametrize("limit", [0.005, 0.02, 0.1])
def test_the_fewest_rows_suffice_and_clearly_fewer_do_not(limit):
    rows = fewest_rows(limit, LEVEL)
    assert p_value(0, 0, rows, limit) <= 0.05
    assert p_value(0, 0, int(0.95 * rows), limit) > 0.05


@pytest.mark.parametrize("wrong", [(-1, 0, 10, 0.1), (6, 5, 10, 0.1), (0, 0, 0, 0.1), (0, 0, 10, 0.0)])
def test_impossible_counts_are_an_error(wrong):
    with pytest.raises(ValueError, match="wanted counts"):
        p_value(*wrong)
