"""Two series of models over several seeds: what is called a real difference."""

import json
import subprocess
import sys
from pathlib import Path

import numpy as np
import pytest
from labelled import make_texts, write_csv
from tiny import make_tiny_checkpoint

from bench.measure.accuracy.evaluate import evaluate
from models.errors import InputError
from models.finetuning.finetune import FinetuneConfig, Splits
from models.finetuning.seeds import finetune_seeds
from models.train.loop import TrainingConfig
from tools.compare_seeds import compare_seeds

ROOT = Path(__file__).resolve().parents[3]


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


def test_two_seeds_that_differ_by_chance_alone_show_nothing():
    """One seed won 12 rows of 400 and the other 6: a bootstrap of the two gave an interval above zero."""
    before = answers((0.70, 0.70))
    after = before.copy()
    for seed, won in ((0, 12), (1, 6)):
        after[seed, np.flatnonzero(~before[seed])[:won]] = True
    found = compare_seeds(before, after)
    assert found.points == (3.0, 1.5)
    assert not found.is_real
    assert found.interval[1] - found.interval[0] > 15


@pytest.mark.parametrize("seeds", [2, 3, 8])
def test_series_that_answer_alike_are_not_shown_to_be_alike_beyond_their_rows(seeds):
    same = answers([0.7] * seeds, rows=100)
    found = compare_seeds(same, same)
    assert found.interval == pytest.approx((-3.7, 3.7), abs=0.05)  # 1.96² / (100 + 1.96²)
    assert not found.is_real


@pytest.mark.parametrize("seeds", [2, 3, 5])
def test_the_interval_covers_the_true_difference(seeds):
    """Drawn 400 times: how much better training is differs by seed, and rows are drawn too."""
    draw = np.random.default_rng(seeds)
    covered = 0
    for _ in range(400):
        gain = 0.03 + draw.normal(0, 0.04, seeds)[:, None]
        ease = draw.uniform(0.5, 0.9, 500)  # each row's chance of being right
        before, after = (draw.random((seeds, 500)) < ease + shift for shift in (0, gain))
        low, high = compare_seeds(before, after).interval
        covered += low <= 3.0 <= high
    assert covered >= 0.94 * 400  # 95 % less three standard errors would be 0.917


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
    done = subprocess.run([sys.executable, "-m", "tools.compare_seeds", str(data), *flags],
                          cwd=ROOT, capture_output=True, text=True)  # fmt: skip
    assert done.returncode == 0, done.stderr
    found = json.loads(done.stdout.splitlines()[-1])
    for key, folders in zip(("before", "after"), series, strict=True):
        assert found[key] == [evaluate(folder, splits.validation).value for folder in folders]
    assert found["rows"] == 80
    assert found["seeds"] == 2
    assert found["mean_points"] == pytest.approx(np.mean(found["points"]))
    assert found["mean_points"] > 10
    assert found["is_real"] == (found["interval"][0] > 0)  # two seeds: one degree of freedom
