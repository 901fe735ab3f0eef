"""The recipe that is chosen from the data and the encoder, and what of it the user may set."""

import json
from pathlib import Path

import pytest
from labelled import make_texts
from tiny import make_tiny_checkpoint

from models.errors import InputError
from models.finetuning.finetune import FinetuneConfig, Splits, finetune
from models.finetuning.finetune_config import complete
from models.finetuning.metrics import standard_error
from models.finetuning.recipe import (
    EVALUATION_SHARE,
    EVALUATIONS,
    FEWEST_STEPS,
    MOST_RATE,
    Facts,
    choose_recipe,
    explain_recipe,
)
from models.train.loop import TrainingConfig

STORE = Path("store")  # only a built-in encoder is put there
MINILM = {"width": 384, "table": 30_522 * 384}
# rows, labels, mean tokens and the recipe that was best: epochs and peak rate of a linear schedule
BEST = {
    "trec": (5_452, 6, 14, 10, 1e-4),
    "clinc150": (15_000, 150, 12, 8, 2e-4),
    "intents": (10_003, 77, 15, 8, 2e-4),
    "mrpc": (3_668, 2, 53, 8, 1e-4),
    "sst2": (67_349, 2, 14, 3, 1e-4),
    "ag_news": (42_092, 4, 53, 2, 1e-4),
    "imdb": (25_000, 2, 236, 3, 1e-4),
}


def facts(rows: int, labels: int = 2, tokens: float = 20, **changed: int) -> Facts:
    return Facts(rows=rows, labels=labels, tokens=tokens, **({"held_out": rows // 20} | MINILM | changed))


@pytest.mark.parametrize("name", BEST)
def test_it_is_near_the_best_known_recipe(name):
    rows, labels, tokens, epochs, rate = BEST[name]
    recipe = choose_recipe(facts(rows, labels, tokens), 32)
    assert epochs <= recipe.epochs <= 1.5 * epochs + 1  # a maximum
    assert recipe.learning_rate == pytest.approx(rate)
    assert (recipe.layer_decay, recipe.freeze_embeddings, recipe.while_it_helps) == (0.95, False, True)


@pytest.mark.parametrize("width", [32, 128, 256, 384, 768, 1024, 4096])
def test_a_wider_encoder_learns_at_a_smaller_rate(width):
    rate = choose_recipe(facts(10_000, width=width), 32).learning_rate
    assert rate <= MOST_RATE
    assert rate > choose_recipe(facts(10_000, width=2 * width), 32).learning_rate or rate == MOST_RATE
    if width in (768, 1024):
        assert 2e-5 <= rate <= 5e-5  # Devlin et al. 2019


@pytest.mark.parametrize("rows", [2, 10, 99, 500, 999, 1_000, 20_000, 10**6, 10**8])
@pytest.mark.parametrize("labels", [1, 2, 500])
@pytest.mark.parametrize("tokens", [3, 512])
@pytest.mark.parametrize("held_out", [0, 99, 100, 10**6])
def test_any_set_has_a_recipe(rows, labels, tokens, held_out):
    given = facts(rows, labels, tokens, held_out=held_out)
    recipe = choose_recipe(given, 32)
    assert 3 <= recipe.epochs <= 40
    assert recipe.epochs == 40 or recipe.epochs * (rows / 32 + 1) >= FEWEST_STEPS or rows >= 1_000
    assert recipe.while_it_helps == (held_out >= 100)
    assert EVALUATIONS[0] <= recipe.evaluations <= EVALUATIONS[1]
    share = recipe.evaluations * held_out / (rows * recipe.epochs)
    assert share <= EVALUATION_SHARE or recipe.evaluations == EVALUATIONS[0]
    assert f"{rows:,} rows of {tokens} tokens" in explain_recipe(given, recipe)


def test_a_large_table_is_frozen_and_the_reason_is_named():
    given = facts(10_000, table=250_037 * 384)
    recipe = choose_recipe(given, 32)
    assert recipe.freeze_embeddings
    assert "an embedding table of 96 million parameters" in explain_recipe(given, recipe)


@pytest.fixture(scope="module")
def encoder(tmp_path_factory) -> str:
    folder = tmp_path_factory.mktemp("encoder")
    make_tiny_checkpoint(folder)
    return str(folder)


def config(minutes: float | None = None, **given: object) -> FinetuneConfig:
    training = TrainingConfig(precision="fp32", batch_size=16, **given)
    return FinetuneConfig(max_tokens=32, training=training, automatic=True, minutes=minutes)


def splits(train: int = 320, validation: int = 240) -> Splits:
    return Splits(make_texts(count=train, seed=1), make_texts(count=validation, seed=2))


def test_what_is_given_wins(encoder):
    chosen = complete(encoder, splits(), config(), STORE)
    assert chosen.while_it_helps
    assert (chosen.training.metric, chosen.training.layer_decay) == ("accuracy", 0.9)
    given = {"learning_rate": 3e-3, "layer_decay": 0.8, "freeze_embeddings": True, "metric": "macro_f1"}
    mixed = complete(encoder, splits(), config(**given, patience=3, evaluate_every=5), STORE)
    assert {name: getattr(mixed.training, name) for name in given} == given
    assert (mixed.training.patience, mixed.training.evaluate_every) == (3, 5)
    assert mixed.while_it_helps
    assert mixed.training.epochs == chosen.training.epochs
    fixed = complete(encoder, splits(), config(epochs=2), STORE)
    assert (fixed.training.epochs, fixed.while_it_helps, fixed.training.metric) == (2, False, None)
    assert fixed.training.learning_rate == chosen.training.learning_rate
    with pytest.raises(InputError, match="no metric is watched"):
        complete(encoder, splits(), config(epochs=2, patience=2), STORE)


def test_few_held_out_rows_decide_nothing(encoder):
    chosen = complete(encoder, splits(validation=60), config(), STORE)
    assert (chosen.while_it_helps, chosen.training.metric) == (False, None)
    assert chosen.training.epochs == 20  # steps of 16 rows: 20 in an epoch
    watched = complete(encoder, splits(validation=60), config(patience=3), STORE)
    assert (watched.training.metric, watched.training.patience) == ("accuracy", 3)


def test_one_line_says_what_was_chosen_and_why(encoder, capsys):
    complete(encoder, splits(), config(minutes=5), STORE)
    (line,) = capsys.readouterr().err.splitlines()
    for part in ("at most 20 epochs", "learning rate 0.0005", "layer decay 0.9", "embeddings trained", "320 rows of",
                 "as long as accuracy on held-out rows rises", "3 labels", "5 minutes at most"):  # fmt: skip
        assert part in line
    complete(encoder, splits(), config(epochs=2, learning_rate=1e-4, layer_decay=1.0, freeze_embeddings=True), STORE)
    assert capsys.readouterr().err == ""  # nothing was chosen


def test_the_training_goes_on_while_it_helps(encoder, tmp_path):
    given = config(evaluate_every=10, learning_rate=2e-3)
    result = finetune(encoder, splits(), given, tmp_path / "store")
    report = json.loads((result.folder.path / "report.json").read_text(encoding="utf-8"))
    history = report["details"]["history"]
    values = {one["step"]: one["metrics"]["accuracy"] for one in history["evaluations"]}
    least = max(values.values()) - standard_error("accuracy", max(values.values()), 120)
    assert report["best_step"] == max(step for step, value in values.items() if value >= least)
    assert report["choosing_rows"] == 120
    assert 40 <= history["steps"] <= 400
    rates = [line["learning_rate"] for line in map(json.loads, open_log(result.folder.path)) if "loss" in line]
    assert max(rates) == pytest.approx(2e-3)
    assert rates[-1] < 0.1 * max(rates)
    again = finetune(encoder, splits(), given, tmp_path / "other")
    assert again.folder.id == result.folder.id  # the same seed, the same weights
    recorded = result.folder.manifest.lineage[-1].config
    assert recorded["while_it_helps"] is True
    assert not {"automatic", "minutes"} & recorded.keys()


def test_minutes_end_the_training_with_a_rate_of_zero(encoder, tmp_path):
    result = finetune(encoder, splits(), config(minutes=0.02, evaluate_every=4), tmp_path)
    report = json.loads((result.folder.path / "report.json").read_text(encoding="utf-8"))
    assert 1 <= report["steps"] <= 400
    assert report["seconds"] < 60 * 0.02 * 10
    assert result.folder.manifest.lineage[-1].config["minutes"] == 0.02


def open_log(folder: Path) -> list[str]:
    return (folder / "log.jsonl").read_text(encoding="utf-8").splitlines()
