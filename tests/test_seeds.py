"""Two series of models over several seeds: what is called a real difference."""

import json
import subprocess
import sys
from pathlib import Path

import numpy as np
import pytest
from labelled import make_texts, write_csv
from tiny import make_tiny_checkpoint

from bench.evaluate import evaluate
from bench.seeds import compare_seeds
from models.errors import InputError
from models.train.finetune import FinetuneConfig, Splits
from models.train.loop import TrainingConfig
from models.train.seeds import finetune_seeds

ROOT = Path(__file__).resolve().parent.parent


def answers(shares, rows=400):
    """Whether rows are answered right, (seeds, rows): each seed's share of them, drawn apart."""
    draw = np.random.default_rng(5)
    return np.stack([draw.permutation(np.arange(rows) < share * rows) for share in shares])


def test_a_gain_that_every_seed_shows_is_real_and_its_points_are_the_differences():
    found = compare_seeds(answers((0.70, 0.72, 0.71)), answers((0.80, 0.81, 0.82)))
    assert found.before == pytest.approx((0.70, 0.72, 0.71))
    assert found.points == pytest.approx((10, 9, 11))
    assert found.mean_points == pytest.approx(10)
    assert found.interval[0] < 10 < found.interval[1]
    assert found.is_real
    assert not compare_seeds(answers((0.7, 0.7)), answers((0.7, 0.7))).is_real


def test_a_loss_is_real_too_and_seeds_that_disagree_are_not():
    assert compare_seeds(answers((0.8, 0.8, 0.8)), answers((0.7, 0.7, 0.7))).interval[1] < 0
    agree, disagree = answers((0.73, 0.73, 0.73)), answers((0.60, 0.86, 0.73))
    before = answers((0.70, 0.70, 0.70))
    wide, narrow = (np.ptp(compare_seeds(before, after).interval) for after in (disagree, agree))
    assert wide > 2 * narrow


def test_series_of_unlike_length_and_single_seeds_are_refused():
    for before, after in (((0.7, 0.7), (0.7,)), ((0.7,), (0.8,))):
        with pytest.raises(InputError, match="two or more"):
            compare_seeds(answers(before), answers(after))


def test_folders_of_two_series_are_compared_by_the_command(tmp_path):
    make_tiny_checkpoint(tmp_path / "encoder")
    splits = Splits(make_texts(count=96, seed=1), make_texts(count=80, seed=2))
    series = []
    for epochs in (1, 12):
        training = TrainingConfig(epochs=epochs, batch_size=16, learning_rate=2e-3, precision="fp32")
        config = FinetuneConfig(max_tokens=32, training=training)
        _, told = finetune_seeds(str(tmp_path / "encoder"), splits, config, tmp_path / "store", 2)
        series.append([Path(folder) for folder in told["folders"]])
    data = write_csv(tmp_path / "dev.csv", splits.validation)
    flags = [part for flag, folders in zip(("--before", "--after"), series, strict=True)
             for folder in folders for part in (flag, str(folder))]  # fmt: skip
    done = subprocess.run([sys.executable, "-m", "bench.seeds", str(data), *flags],
                          cwd=ROOT, capture_output=True, text=True)  # fmt: skip
    assert done.returncode == 0, done.stderr
    found = json.loads(done.stdout.splitlines()[-1])
    for key, folders in zip(("before", "after"), series, strict=True):
        assert found[key] == [evaluate(folder, splits.validation).value for folder in folders]
    assert found["rows"] == 80
    assert found["seeds"] == 2
    assert found["mean_points"] > 10
    assert found["is_real"]
