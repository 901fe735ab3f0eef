import numpy as np
import pytest

from models.store.stage import scratch_folder
from models.teachers import answer_batches as module
from models.teachers.answer_batches import Outputs, answer_batches, write_answers
from models.tokenizer import Encoded


@pytest.fixture
def target(tmp_path):
    folder = tmp_path / "answers-1.partial"
    folder.mkdir()
    return folder


def test_a_killed_run_continues_after_the_last_saved_batch(target, monkeypatch):
    monkeypatch.setattr(module, "KEEP_EVERY", 2)
    encoded = [Encoded([0] * (1 + i % 7), [0] * (1 + i % 7)) for i in range(300)]
    batches, computed = answer_batches(encoded), []
    outputs = Outputs({"numbers.bin": 300 * 4, "lengths.bin": 300}, "the answers", "answer")

    def compute(number, rows, files):
        computed.append(number)
        if len(computed) == 6:
            raise KeyboardInterrupt
        for row in rows:
            files["numbers.bin"].put(row * 4, np.array([row], dtype=np.int32))
            files["lengths.bin"].put(row, np.array([len(encoded[row].ids)], dtype=np.int8))

    with pytest.raises(KeyboardInterrupt):
        write_answers(batches, outputs, target, compute)
    assert list(target.iterdir()) == []
    write_answers(batches, outputs, target, compute)
    assert computed == [0, 1, 2, 3, 4, 5, 4, 5, 6, 7, 8, 9]  # four were saved
    assert np.fromfile(target / "numbers.bin", dtype=np.int32).tolist() == list(range(300))
    assert np.fromfile(target / "lengths.bin", dtype=np.int8).tolist() == [len(one.ids) for one in encoded]
    assert [path.name for path in scratch_folder(target).glob("*.json")] == []
