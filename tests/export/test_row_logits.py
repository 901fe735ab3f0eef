"""Many rows on all cores."""

import threading

import numpy as np
import pytest

from export.row_logits import logits_of_rows


def test_answers_are_in_the_order_of_the_rows_whichever_thread_ends_first(monkeypatch):
    monkeypatch.setattr("export.row_logits.usable_cores", lambda: 2)
    second = threading.Event()

    def answer(row: int) -> np.ndarray:
        if row == 0:
            assert second.wait(60), "the second row waits for the first: one thread only"
        second.set()
        return np.full((1, 2), row, dtype=np.float32)

    assert logits_of_rows(answer, [0, 1, 2])[:, 0].tolist() == [0, 1, 2]


def test_an_error_of_one_row_is_raised():
    def answer(row: int) -> np.ndarray:
        raise ValueError(f"row {row}")

    with pytest.raises(ValueError, match="row 7"):
        logits_of_rows(answer, [7])
