"""choose_recipe(): how long and how fast to train, from the size of the data and of the encoder.

The numbers are those of the recipes that were best on the sets in docs/results/training.md. They are limits: while
the metric on the held-out rows rises, training goes on at the peak rate, for half of the epochs at most, and then the
rate falls to 0 in as many steps (`warm_hold_linear`). The best step is kept.
"""

import math

from pydantic import Field

from models.schema import Record

ROW_PASSES = 60_000  # rows times epochs
MANY_LABELS = 20  # from here on each label is seen rarely: twice the passes and twice the learning rate
LONG_TEXTS = 100  # tokens; from here on each row teaches more, and costs more: two thirds of the passes
EPOCHS = (3, 10)  # fewest and most
FEW_ROWS = 1_000  # with fewer rows: more epochs, so that there are FEWEST_STEPS, and a stronger layer decay
FEWEST_STEPS, MOST_EPOCHS = 400, 40
RATE, RATE_WIDTH, MOST_RATE = 1e-4, 384, 5e-4  # the rate of an encoder of this width; a wider one needs a smaller
LAYER_DECAY, LAYER_DECAY_FEW_ROWS = 0.95, 0.9
LARGE_TABLE = 64_000_000  # parameters; the moments of a larger embedding table would take half a gigabyte
FEWEST_HELD_OUT = 100  # rows; with fewer, the metric cannot tell whether training helps
EVALUATIONS = (4, 12)  # fewest and most in a training
EVALUATION_SHARE = 0.1  # of the rows that pass through the model in training


class Facts(Record):
    """What a recipe depends on."""

    rows: int = Field(ge=1, description="training rows")
    labels: int = Field(ge=1, description="labels; 1 for a regression")
    tokens: float = Field(gt=0, description="mean number of tokens of a row")
    held_out: int = Field(ge=0, description="rows on which a step can be chosen")
    width: int = Field(ge=1, description="width of the encoder's hidden state")
    table: int = Field(ge=0, description="parameters of the embedding table of the tokens")


class Recipe(Record):
    """Settings of a training."""

    epochs: int = Field(description="at most, if `while_it_helps`")
    learning_rate: float
    layer_decay: float
    freeze_embeddings: bool
    while_it_helps: bool = Field(description="whether the held-out rows decide how long the training goes on")
    evaluations: int = Field(description="number of evaluations in `epochs`, if `while_it_helps`")


def choose_recipe(facts: Facts, batch_size: int) -> Recipe:
    """Return the recipe for a training set, an encoder and a batch size (rows of a step, over all processes)."""
    while_it_helps = facts.held_out >= FEWEST_HELD_OUT
    epochs = _epochs(facts, batch_size)
    passes_in_an_evaluation = facts.held_out / (EVALUATION_SHARE * facts.rows * epochs)
    fewest, most = EVALUATIONS
    return Recipe(
        epochs=epochs,
        learning_rate=_learning_rate(facts),
        layer_decay=LAYER_DECAY if facts.rows >= FEW_ROWS else LAYER_DECAY_FEW_ROWS,
        freeze_embeddings=facts.table > LARGE_TABLE,
        while_it_helps=while_it_helps,
        evaluations=min(max(int(1 / max(passes_in_an_evaluation, 1e-9)), fewest), most),
    )


def explain_recipe(facts: Facts, recipe: Recipe) -> str:
    """Return which properties of the data and the encoder decided the recipe."""
    reasons = [f"{facts.rows:,} rows of {facts.tokens:.0f} tokens"]
    many = " (many: twice the rate and the passes)" if facts.labels >= MANY_LABELS else ""
    reasons += [f"{facts.labels} label{'s' if facts.labels > 1 else ''}{many}"]
    reasons += [f"an encoder {facts.width} wide"]
    if recipe.freeze_embeddings:
        reasons += [f"an embedding table of {facts.table / 1e6:.0f} million parameters"]
    return ", ".join(reasons)


def _epochs(facts: Facts, batch_size: int) -> int:
    passes = ROW_PASSES * (2 if facts.labels >= MANY_LABELS else 1)
    if facts.tokens >= LONG_TEXTS:
        passes = passes * 2 // 3
    fewest, most = EPOCHS
    epochs = min(max(round(passes / facts.rows), fewest), most)
    if facts.rows >= FEW_ROWS:
        return epochs
    steps_in_an_epoch = math.ceil(facts.rows / batch_size)
    return min(max(epochs, math.ceil(FEWEST_STEPS / steps_in_an_epoch)), MOST_EPOCHS)


def _learning_rate(facts: Facts) -> float:
    """Return 1e-4 for MiniLM, 3.5e-5 for a base model (Devlin et al. 2019: 2e-5 to 5e-5), with few labels."""
    rate = RATE * (RATE_WIDTH / facts.width) ** 1.5 * (2 if facts.labels >= MANY_LABELS else 1)
    return float(f"{min(rate, MOST_RATE):.1e}")
