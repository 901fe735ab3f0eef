"""Gate: a linear model over token ids that answers the easy texts of a bundle before its network is asked.

gate.json    settings: how features become rows, scales, temperature, thresholds; the bound, and the rows used
gate.npy     int8 (rows, labels): rows of hashed bigrams, then one row for each token, then rows of hashed trigrams

The logits of a text are the sum of the rows of its tokens, bigrams and trigrams, times one scale for each label. The
special tokens are features as the others are: they mark the start and the end of a text. Bigrams and trigrams share
rows by multiply-shift hashing (Dietzfelbinger et al. 1997; features by hashing: Weinberger et al. 2009). It
needs numpy only.
"""

from collections.abc import Sequence
from dataclasses import dataclass, field
from math import exp
from pathlib import Path
from typing import Annotated, Literal, NamedTuple, Self

import numpy as np
from numpy.typing import NDArray
from pydantic import Field, model_validator

from models.errors import FolderError
from models.schema import Settings
from models.tokenizer import Encoded

FILE, ROWS_FILE = "gate.json", "gate.npy"
BYTES = 4 * 2**20  # limit of the rows of a gate, unless another one is asked for
MOST_BYTES = 256 * 2**20  # no gate has more: the limit of what is read from a folder of strangers
# odd 64-bit constants of good spectral quality (Steele and Vigna 2022), one for each position of an n-gram
MULTIPLIERS = (0xD1342543DE82EF95, 0xAF251AF3B0F025B5, 0xB564EF22EC7AECE5)
Positive = Annotated[float, Field(gt=0)]
USUAL_TOKENS = 512  # of a text; what longer ones need is computed each time
FEW_LABELS = 16
LARGEST_SCALE, LARGEST_BIAS = 1e4, 1e6  # of a logit: sums over a text stay finite
Share = Annotated[float, Field(ge=0, le=1)]


class GateInfo(Settings):
    """Settings of a gate, and what is known of its loss."""

    version: Literal[1] = 1
    tokens: int = Field(
        ge=1, description="rows of single tokens; of a larger vocabulary the last tokens share rows with n-grams"
    )
    bigram_bits: int = Field(ge=0, le=24, description="2 to this power rows of bigrams; 0: none")
    trigram_bits: int = Field(0, ge=0, le=24, description="2 to this power rows of trigrams; 0: none")
    multipliers: tuple[int, int, int] = Field(MULTIPLIERS, description="of the hash, one for each token of an n-gram")
    scales: tuple[Positive, ...] = Field(description="factor of each label's column of int8 rows")
    bias: tuple[float, ...] = Field(description="added to the logit of each label")
    length_power: float = Field(0, ge=0, le=1, description="the sum is divided by the number of tokens to this power")
    temperature: Positive = Field(description="divides the logits")
    thresholds: tuple[Annotated[float, Field(ge=0)], ...] = Field(
        description="least probability of an answer, one for all labels or one for each; above 1: no answer"
    )
    tokenizer_sha256: str = Field(description="of the tokenizer.json for whose ids the rows were learned")
    max_loss: float = Field(ge=0, description="points that the cascade may lose against `reference`")
    bound_points: float = Field(description="with `confidence`, the cascade loses at most this many points")
    confidence: float = Field(0.95, gt=0, lt=1, description="probability that the loss is at most `max_loss`")
    reference: Literal["student", "full model"] = Field(description="the model against which the loss is bounded")
    share: Share = Field(description="share of `rows` that the gate answers")
    rows: int = Field(ge=1, description="rows on which the threshold was found, and nothing else")
    disagreements: int | None = Field(
        None, ge=0, description="of the rows that the gate answers, those with another label from the student"
    )

    @model_validator(mode="after")
    def _lengths_fit(self) -> Self:
        labels = len(self.scales)
        if labels < 2:
            raise ValueError(f"a gate has two labels or more, found {labels} scales")
        if len(self.bias) != labels or len(self.thresholds) not in (1, labels):
            raise ValueError(
                f"{labels} scales, {len(self.bias)} biases and {len(self.thresholds)} thresholds: wanted one each "
                "for every label, or one threshold"
            )
        if any(not 0 < one < 2**64 or one % 2 == 0 for one in self.multipliers):
            raise ValueError("the multipliers of the hash must be odd and below 2 to the power of 64")
        if max(self.scales) > LARGEST_SCALE * self.temperature or (
            max(map(abs, self.bias)) > LARGEST_BIAS * self.temperature
        ):
            raise ValueError("the scales or biases are so large that logits would overflow")
        return self

    @property
    def labels(self) -> int:
        """Number of labels."""
        return len(self.scales)

    @property
    def row_count(self) -> int:
        """Rows of `gate.npy`."""
        return self.tokens + sum(2**bits for bits in (self.bigram_bits, self.trigram_bits) if bits)

    @property
    def threshold(self) -> float:
        """The lowest threshold of a label."""
        return min(self.thresholds)


class GateAnswer(NamedTuple):
    """The gate's answer to one text.

    Attributes:
        label: index of the best label, the first one of equals.
        confidence: probability of that label.
        answered: whether the confidence reaches the threshold: then this is the answer of the cascade.
        logits: float32 (labels,), divided by the temperature; `Task.scores` of them are the probabilities.
    """

    label: int
    confidence: float
    answered: bool
    logits: NDArray[np.float32]

    @property
    def probabilities(self) -> NDArray[np.float32]:
        """float32 (labels,): softmax of the logits."""
        shifted = np.exp(self.logits - self.logits.max())
        return np.asarray(shifted / shifted.sum(), dtype=np.float32)


@dataclass(frozen=True, slots=True, eq=False)
class Gate:
    """An opened gate. Thread-safe: nothing changes after it was opened."""

    info: GateInfo
    table: NDArray[np.int8] = field(repr=False)
    _scales: NDArray[np.float32] = field(repr=False)
    _bias: NDArray[np.float32] = field(repr=False)
    _thresholds: tuple[float, ...] = field(repr=False)
    _hash: "FeatureHash" = field(repr=False)
    _ones: NDArray[np.float32] = field(repr=False)  # a product with them adds rows up, faster than a sum
    _factors: NDArray[np.float32] | None = field(repr=False)  # (tokens, 1), by number of tokens; None: all are 1

    @classmethod
    def of(cls, info: GateInfo, table: NDArray[np.int8]) -> "Gate":
        """Return the gate of settings and int8 rows (rows, labels)."""
        scales = np.asarray(info.scales, dtype=np.float64) / info.temperature
        bias = np.asarray(info.bias, dtype=np.float64) / info.temperature
        thresholds = info.thresholds if len(info.thresholds) > 1 else info.thresholds * info.labels
        hashing = FeatureHash(info.tokens, info.bigram_bits, info.trigram_bits, info.multipliers)
        power = info.length_power
        lengths = np.maximum(np.arange(USUAL_TOKENS + 1), 1)[:, None]
        factors = (lengths**-power).astype(np.float32) if power else None
        ones = np.ones(3 * USUAL_TOKENS, dtype=np.float32)
        scaled = scales.astype(np.float32), bias.astype(np.float32)
        return cls(info, table, *scaled, thresholds, hashing, ones, factors)

    @classmethod
    def open(cls, folder: Path) -> "Gate":
        """Open the gate of a bundle folder.

        Raises:
            FolderError: a file is missing or invalid, or the two do not belong together.
        """
        folder = Path(folder)
        info = GateInfo.read(folder / FILE)
        return cls.of(info, _read_rows(folder / ROWS_FILE, (info.row_count, info.labels)))

    def save(self, folder: Path) -> None:
        """Write `gate.json` and `gate.npy` into a folder."""
        self.info.write(folder / FILE)
        np.save(folder / ROWS_FILE, self.table, allow_pickle=False)

    def logits(self, ids: Sequence[int]) -> NDArray[np.float32]:
        """Return the logits (labels,) of one text, divided by the temperature.

        Args:
            ids: token ids as the tokenizer gives them for one text: truncated, with special tokens, not padded.
        """
        # out of bounds, as some tokens of a large vocabulary are, means from the first row on
        rows = self.table.take(self._hash.rows(ids), axis=0, mode="wrap").astype(np.float32)
        ones = self._ones[: len(rows)] if len(rows) <= len(self._ones) else np.ones(len(rows), dtype=np.float32)
        total: NDArray[np.float32] = ones.dot(rows)  # exact: sums of whole numbers below 2^24
        total *= self._scales
        if self._factors is not None:
            n = len(ids)
            total *= self._factors[n] if n <= USUAL_TOKENS else np.float32(n**-self.info.length_power)
        total += self._bias
        return total

    def decide(self, ids: Sequence[int]) -> GateAnswer:
        """Return the answer to one text, and whether it is confident enough to be the answer of the cascade."""
        logits = self.logits(ids)
        # in double precision: a confidence very near to 1 is not rounded to 1
        if len(logits) <= FEW_LABELS:  # Python is faster than numpy on a few numbers
            values = logits.tolist()
            best = max(values)
            label, total = values.index(best), sum([exp(value - best) for value in values])
        else:
            label = int(logits.argmax())
            total = float(np.exp(logits - logits[label], dtype=np.float64).sum())
        confidence = 1 / total
        return GateAnswer(label, confidence, confidence >= self._thresholds[label], logits)


def gate_answers(gate: Gate | None, texts: Sequence[Encoded]) -> dict[int, list[float]]:
    """Return the logits of the texts that a gate answers, by position; none without a gate."""
    if gate is None:
        return {}
    decided = ((i, gate.decide(text.ids)) for i, text in enumerate(texts))
    return {i: answer.logits.tolist() for i, answer in decided if answer.answered}


class FeatureHash:
    """Rows of the features of a text: its bigrams first, then its tokens, then its trigrams."""

    def __init__(
        self, tokens: int, bigram_bits: int, trigram_bits: int = 0, multipliers: Sequence[int] = MULTIPLIERS
    ) -> None:
        # arrays, because numpy needs a microsecond to convert a scalar
        first = 2**bigram_bits if bigram_bits else 0
        self._first_token, self._first_trigram = _unsigned(first), _unsigned(first + tokens)
        self._bigram_shift, self._trigram_shift = _unsigned(64 - bigram_bits), _unsigned(64 - trigram_bits)
        self._bigrams, self._trigrams = bigram_bits > 0, trigram_bits > 0
        self._multipliers = np.asarray(multipliers, dtype=np.uint64)[: 3 if trigram_bits else 2, None]

    def rows(self, ids: Sequence[int]) -> NDArray[np.int64]:
        """Return the row of each feature of a text, at most 3n - 3 for n tokens; the first row follows the last."""
        tokens, n = np.array(ids, dtype=np.uint64), len(ids)
        bigrams, trigrams = self._bigrams * max(n - 1, 0), self._trigrams * max(n - 2, 0)
        rows = np.empty(bigrams + n + trigrams, dtype=np.uint64)
        np.add(tokens, self._first_token, out=rows[bigrams : bigrams + n])
        if bigrams or trigrams:
            products = self._multipliers * tokens  # wraps around at 2^64
            pairs = products[0, :-1] + products[1, 1:]
            if bigrams:
                np.right_shift(pairs, self._bigram_shift, out=rows[:bigrams])
            if trigrams:
                hashes = (pairs[:-1] + products[2, 2:]) >> self._trigram_shift
                np.add(hashes, self._first_trigram, out=rows[bigrams + n :])
        return rows.view(np.int64)


def _unsigned(value: int) -> NDArray[np.uint64]:
    return np.array([value], dtype=np.uint64)


def _read_rows(path: Path, shape: tuple[int, int]) -> NDArray[np.int8]:
    """Return the int8 rows of a gate; the size is checked before anything is read.

    Raises:
        FolderError: the file is missing, or is not an array of this shape and type.
    """
    wanted = f"wanted int8 of shape {shape[0]:,} x {shape[1]:,}"
    if shape[0] * shape[1] > MOST_BYTES:
        raise FolderError(
            f"{path.parent / FILE} asks for {shape[0]:,} x {shape[1]:,} bytes: more than {MOST_BYTES:,}"
        )
    if not path.is_file():
        raise FolderError(f"{path.parent} has {FILE} and no {path.name}: {wanted}")
    try:
        mapped = np.load(path, mmap_mode="r", allow_pickle=False)
    except (ValueError, EOFError, OSError) as error:
        raise FolderError(f"{path} is not an array of numbers: {error}; {wanted}") from None
    if not isinstance(mapped, np.ndarray) or mapped.dtype != np.int8 or mapped.shape != shape:
        content = f"{mapped.dtype} of shape {mapped.shape}" if isinstance(mapped, np.ndarray) else "an archive"
        raise FolderError(f"{path} has {content}: {wanted}")
    return np.ascontiguousarray(mapped)
