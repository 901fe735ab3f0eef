"""learn_gate(): learn the rows of a gate, a linear model over tokens and n-grams, and scale its probabilities.

It is multinomial logistic regression on counts of hashed features (`service.cascade.gate.FeatureHash`, the code
that also answers). It learns labels, probabilities of a model, or the mean of both, by AdaGrad, whose steps are
larger for rare features (Duchi, Hazan and Singer 2011). A tenth of the training texts is held out: it ends the
training, chooses how much the length of a text counts, and gives the temperature (Guo et al. 2017) and the thresholds
to test.
"""

from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray
from pydantic import Field
from scipy.optimize import minimize_scalar
from scipy.sparse import csr_array
from scipy.special import logsumexp

from models.errors import InputError
from models.messages import detail
from models.schema import Settings
from service.cascade.gate import BYTES, FeatureHash, Gate, GateInfo

FEWEST_TEXTS = 100
MOST_HELD_OUT = 5000
BATCH = 64
PATIENCE = 2  # epochs without a smaller loss on the held-out texts
BITS = range(8, 21)  # of the numbers of n-gram rows
TINY = 1e-10  # first sum of the squares of AdaGrad: no division by 0
CLOSED = 2.0  # a threshold that no probability reaches
Tokens = Sequence[Sequence[int]]  # ids of each text
Floats = NDArray[np.float32]


class LearnConfig(Settings):
    """Settings of the learning of a gate."""

    bytes: int = Field(BYTES, ge=4096, description="limit of the int8 rows")
    bigrams: bool = Field(True, description="whether pairs of neighbouring tokens are features")
    trigrams: bool = Field(False, description="whether three neighbouring tokens are features")
    length_powers: tuple[float, ...] = Field((0.0, 0.5), min_length=1, description="of these, the best one is chosen")
    learning_rate: float = Field(0.5, gt=0)
    epochs: int = Field(20, ge=1, description="at most; fewer where the held-out texts say so")
    seed: int = 0


@dataclass(frozen=True, slots=True)
class Lesson:
    """What a gate learns from.

    Attributes:
        tokens: ids of each text.
        truth: label index (texts,), -1 where there is none.
        scores: probabilities of a model (texts, labels), or None: then every text has a label.
        train_rows: the first so many texts are training texts, of which some are held out; the others are extra.
    """

    tokens: Tokens
    truth: NDArray[np.int64]
    scores: Floats | None
    labels: int
    vocabulary: int
    train_rows: int

    def targets(self) -> Floats:
        """Return (texts, labels): the label, the probabilities, or the mean of both where both are known."""
        known = self.truth >= 0
        hard = np.zeros((len(self.truth), self.labels), dtype=np.float32)
        hard[known, self.truth[known]] = 1
        if self.scores is None:
            return hard
        return np.where(known[:, None], (hard + self.scores) / 2, self.scores).astype(np.float32)


@dataclass(frozen=True, slots=True)
class Learned:
    """A gate that is closed (its threshold is above 1), and its answers to the held-out texts."""

    gate: Gate
    held_out: NDArray[np.int64]  # indices of the held-out texts
    label: NDArray[np.int64]  # its answers to them
    confidence: NDArray[np.float64]


def learn_gate(lesson: Lesson, config: LearnConfig, tokenizer_sha256: str) -> Learned:
    """Learn a gate.

    Raises:
        InputError: there are fewer than FEWEST_TEXTS training texts, or the rows do not fit into the limit.
    """
    check_count(lesson.train_rows)
    order = np.random.default_rng(config.seed).permutation(lesson.train_rows)
    held_out = np.sort(order[: min(-(-lesson.train_rows // 10), MOST_HELD_OUT)])
    learned = np.setdiff1d(np.arange(len(lesson.tokens)), held_out)
    shape = _shape(lesson, config)
    features = _features(lesson.tokens, shape)
    targets = lesson.targets()
    fits = [_fit(features, targets, learned, held_out, power, config) for power in config.length_powers]
    best = min(fits, key=lambda fit: fit.loss)
    scales = np.maximum(np.abs(best.weights).max(axis=0), 1e-6) / 127
    info = GateInfo(
        **shape, scales=tuple(scales.tolist()), bias=tuple(best.bias.tolist()), length_power=best.power,
        temperature=1.0, thresholds=(CLOSED,), tokenizer_sha256=tokenizer_sha256, max_loss=0, bound_points=0,
        reference="student", share=0, rows=1,
    )  # fmt: skip
    gate = Gate.of(info, np.rint(best.weights / scales).astype(np.int8))
    own = [lesson.tokens[i] for i in held_out]
    logits = gate_logits(gate, own)
    known = lesson.truth[held_out] >= 0
    hard = np.eye(lesson.labels, dtype=np.float32)[np.maximum(lesson.truth[held_out], 0)]
    temperature = _temperature(logits, np.where(known[:, None], hard, targets[held_out]))
    gate = Gate.of(info.model_copy(update={"temperature": temperature}), gate.table)
    detail(
        f"gate: {info.row_count:,} rows of {lesson.labels} labels, {best.epochs} epochs, length to the power of "
        f"{best.power:g}, temperature {temperature:.2f}"
    )
    return Learned(gate, held_out, *answers(gate, own))


def check_count(texts: int) -> None:
    """Check the number of training texts.

    Raises:
        InputError: there are fewer than FEWEST_TEXTS.
    """
    if texts < FEWEST_TEXTS:
        raise InputError(f"a gate is learned from {FEWEST_TEXTS} training texts or more, found {texts}")


def gate_logits(gate: Gate, tokens: Tokens) -> Floats:
    """Return the gate's logits (texts, labels)."""
    return np.stack([gate.logits(ids) for ids in tokens])


def answers(gate: Gate, tokens: Tokens) -> tuple[NDArray[np.int64], NDArray[np.float64]]:
    """Return the label index and the confidence of each text, whether it is above a threshold or not."""
    decided = [gate.decide(ids) for ids in tokens]
    return np.array([one.label for one in decided]), np.array([one.confidence for one in decided])


@dataclass(frozen=True, slots=True)
class _Fit:
    weights: Floats  # (rows, labels)
    bias: Floats
    power: float
    epochs: int
    loss: float  # mean cross-entropy on the held-out texts


def _features(tokens: Tokens, shape: dict[str, int]) -> csr_array:
    """Return how often each feature is in each text, (texts, rows of the gate)."""
    hashing = FeatureHash(shape["tokens"], shape["bigram_bits"], shape["trigram_bits"])
    rows = [hashing.rows(ids) for ids in tokens]
    starts = np.cumsum([0, *(len(one) for one in rows)])
    count = shape["tokens"] + sum(2 ** shape[name] for name in ("bigram_bits", "trigram_bits") if shape[name])
    index = np.concatenate(rows) % count
    return csr_array((np.ones(len(index), dtype=np.float32), index, starts), shape=(len(tokens), count))


def _shape(lesson: Lesson, config: LearnConfig) -> dict[str, int]:
    """Return the numbers of rows: one for each token if half of the limit suffices, and as many n-grams as fit.

    Twice as many rows as there are different n-grams are enough.
    """
    most = config.bytes // lesson.labels
    kinds = config.bigrams + config.trigrams
    tokens = min(lesson.vocabulary, most // 2 if kinds else most)
    shape = {"tokens": tokens, "bigram_bits": 0, "trigram_bits": 0}
    for name, n in (("bigram_bits", 2), ("trigram_bits", 3)):
        if not {2: config.bigrams, 3: config.trigrams}[n]:
            continue
        seen = len({gram for ids in lesson.tokens for gram in zip(*(ids[k:] for k in range(n)), strict=False)})
        room = (most - tokens) // kinds
        fitting = [bits for bits in BITS if 2**bits <= room]
        if not fitting:
            raise InputError(
                f"a gate of {lesson.labels} labels has no room for n-grams in {config.bytes:,} bytes: allow more"
            )
        shape[name] = next((bits for bits in fitting if 2**bits >= 2 * seen), fitting[-1])
    return shape


def _fit(  # noqa: PLR0913
    features: csr_array,
    targets: Floats,
    learned: NDArray[np.int64],
    held_out: NDArray[np.int64],
    power: float,
    config: LearnConfig,
) -> _Fit:
    """Learn by AdaGrad until the cross-entropy on the held-out texts no longer falls; keep the best epoch."""
    weights = np.zeros((features.shape[1], targets.shape[1]), dtype=np.float32)
    bias = np.zeros(targets.shape[1], dtype=np.float32)
    squares, bias_squares = np.full_like(weights, TINY), np.full_like(bias, TINY)
    factors = np.maximum(features.sum(axis=1), 1) ** np.float32(-power)
    generator = np.random.default_rng(config.seed)
    best: _Fit | None = None
    for epoch in range(1, config.epochs + 1):
        order = generator.permutation(learned)
        for start in range(0, len(order), BATCH):
            texts = order[start : start + BATCH]
            used, counts = _used_columns(features[texts])
            logits = (counts @ weights[used]) * factors[texts, None] + bias
            slope = (_softmax(logits) - targets[texts]) / len(texts)
            step = counts.T @ (slope * factors[texts, None])
            squares[used] += step * step
            weights[used] -= config.learning_rate * step / np.sqrt(squares[used])
            bias_squares += slope.sum(axis=0) ** 2
            bias -= config.learning_rate * slope.sum(axis=0) / np.sqrt(bias_squares)
        logits = (features[held_out] @ weights) * factors[held_out, None] + bias
        loss = _cross_entropy(logits, targets[held_out])
        if best is None or loss < best.loss:
            best = _Fit(weights.copy(), bias.copy(), power, epoch, loss)
        elif epoch - best.epochs >= PATIENCE:
            break
    assert best is not None, "there is one epoch or more"
    return best


def _used_columns(features: csr_array) -> tuple[NDArray[np.int64], csr_array]:
    """Return the columns that have an entry, and the matrix with these columns only."""
    used, positions = np.unique(features.indices, return_inverse=True)
    return used, csr_array((features.data, positions, features.indptr), shape=(features.shape[0], len(used)))


def _temperature(logits: Floats, targets: Floats) -> float:
    """Return the number by which logits are divided so that the cross-entropy is smallest."""

    def loss(log_temperature: float) -> float:
        return _cross_entropy(logits / np.exp(log_temperature), targets)

    return float(np.exp(minimize_scalar(loss, bounds=(-3, 3), method="bounded").x))


def _softmax(logits: Floats) -> Floats:
    shifted = np.exp(logits - logits.max(axis=1, keepdims=True))
    return np.asarray(shifted / shifted.sum(axis=1, keepdims=True))


def _cross_entropy(logits: Floats, targets: Floats) -> float:
    """Return the mean over texts; a row of targets sums up to 1."""
    return float((logsumexp(logits, axis=1) - (targets * logits).sum(axis=1)).mean())
