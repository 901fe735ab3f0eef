"""Engine: texts → logits, through the tokenizer and a running session. Knows no HTTP."""

import logging
from collections.abc import Sequence
from itertools import count
from typing import Literal

import numpy as np
import onnxruntime as ort
from numpy.typing import NDArray

from models.errors import DisagreementError
from models.tokens import Encoded, Row, TokenBatch, Tokenizer
from service.bundle import Bundle
from service.heads import Heads
from service.isolation import Health
from service.pace import Pace, Rate
from service.runtime import (
    DeviceChoice,
    RuntimeSettings,
    choose_device,
    count_gpus,
    fall_back,
    open_session,
    runs_on,
)
from service.words import Words

log = logging.getLogger("prunella")
Cut = Literal["right", "left", "never"]  # the end at which a long text loses tokens
UNCUT = 10**9  # tokens: no text is that long
_serials = count()


class Engine:
    """A bundle with a running session.

    One session serves every runner: with one thread an operator, ONNX Runtime computes in the thread that calls it,
    so that N runners are N one-thread sessions without N copies of the weights.
    """

    def __init__(self, bundle: Bundle, session: ort.InferenceSession, choice: DeviceChoice) -> None:
        self.bundle, self.session, self.choice = bundle, session, choice
        self.variant_name = choice.variant
        self.variant = bundle.info.variants[choice.variant]
        self.tokenizer: Tokenizer = bundle.tokenizer()
        if self.tokenizer.strangers:
            log.warning("%s: %s", bundle.folder.path, self.tokenizer.told_of_strangers())
        # dynamic int8 takes one activation scale a batch, so that batch mates would change the answer
        self.alone = self.variant.recipe == "dynamic"
        self.serial = next(_serials)  # tells engines of one process apart, also two of the same bundle
        self.pace, self.rate, self.health = Pace(), Rate(), Health()
        self._names = tuple(node.name for node in session.get_inputs())
        self._takes_types = "token_type_ids" in self._names
        self._tokenizers: dict[Cut, Tokenizer] = {"right": self.tokenizer}
        self._words, self._heads = Words.of(self.tokenizer), Heads.of(self.tokenizer)
        self.probe = self.encode(bundle.golden.rows[:1])[0]

    @classmethod
    def open(
        cls, bundle: Bundle, settings: RuntimeSettings | None = None, available: list[str] | None = None
    ) -> "Engine":
        """Open the session that fits the device.

        Args:
            bundle: what is served.
            settings: where and how; default: the best device that is there.
            available: the providers that ONNX Runtime is said to have; default: what it says itself.

        Raises:
            InputError: a device is required and cannot be had.
        """
        settings = settings or RuntimeSettings()
        told = ort.get_available_providers() if available is None else available
        choice = choose_device(bundle.info, settings, told, count_gpus())
        session = _open(bundle, choice, settings)
        if not runs_on(session, choice.got):
            provider = f"{choice.got} is on ONNX Runtime's list and its libraries do not load (driver, CUDA, cuDNN)"
            choice = fall_back(bundle.info, settings, provider)
            session = _open(bundle, choice, settings)
        return cls(bundle, session, choice)

    def encode(self, rows: Sequence[Row], direction: Literal["left", "right"] = "right") -> list[Encoded]:
        """Tokenize rows; long ones lose tokens at `direction`."""
        return self.tokenize(rows, direction)

    def tokenize(self, rows: Sequence[Row], cut: Cut) -> list[Encoded]:
        """Tokenize rows; with `never`, long ones stay longer than the model takes.

        Each way of cutting has a tokenizer of its own: threads may tokenize at once, and none changes another's.
        """
        if cut == "right" and self._words is not None and len(rows) == 1 and len(rows[0]) == 1:
            found = self._words.encode(rows[0][0])
            if found is not None:
                return [found]
        if cut == "right" and self._heads is not None:
            return self._heads.encode(rows)
        tokenizer = self._tokenizers.get(cut)
        if tokenizer is None:
            tokenizer = self.bundle.tokenizer(UNCUT if cut == "never" else None)
            tokenizer.encode([], "left" if cut == "left" else "right")  # before another thread can see it
            self._tokenizers[cut] = tokenizer
        return tokenizer.encode(rows, "left" if cut == "left" else "right")

    def chars(self, rows: Sequence[Row], cut: Cut) -> int:
        """Return how many characters of the rows will be tokenized, as far as one can say before."""
        if cut == "right" and self._heads is not None:
            most = self._heads.chars
            return sum(min(len(row[0]), most) if len(row) == 1 else len(row[0]) + len(row[1]) for row in rows)
        return sum(len(part) for row in rows for part in row)

    def infer(self, encoded: Sequence[Encoded]) -> NDArray[np.float32]:
        """Return logits (rows, labels); row by row where batch mates would change the answer."""
        if self.alone:
            return np.concatenate([self.run(self._batch([one])) for one in encoded])
        return self.run(self._batch(encoded))

    def _batch(self, encoded: Sequence[Encoded]) -> TokenBatch:
        """Return rows as one batch; rows of one length, the most frequent case, by a shorter way than padding."""
        length = len(encoded[0].ids)
        if any(len(one.ids) != length for one in encoded):
            return self.tokenizer.pad(encoded)
        ids = np.array([one.ids for one in encoded], dtype=np.int64)
        types = np.array([one.types for one in encoded], dtype=np.int64) if self._takes_types else ids
        return TokenBatch(ids, np.ones_like(ids), types)

    def run(self, batch: TokenBatch) -> NDArray[np.float32]:
        """Return logits (rows, labels) of one padded batch as it is."""
        arrays = {"input_ids": batch.ids, "attention_mask": batch.mask, "token_type_ids": batch.types}
        return np.asarray(self.session.run(["logits"], {name: arrays[name] for name in self._names})[0])

    def logits(self, rows: Sequence[Row]) -> NDArray[np.float32]:
        """Return logits (rows, labels) of texts."""
        return self.infer(self.encode(rows))

    def self_check(self) -> None:
        """Answer the golden rows, one by one: also the warm-up, and the first measure of the pace.

        Raises:
            DisagreementError: an answer is further from the stored one than the variant's tolerance.
        """
        golden = self.bundle.golden
        stored = np.asarray(golden.logits[self.variant_name], dtype=np.float32)
        encoded = self.encode(list(golden.rows))
        found = np.concatenate([self.pace.timed(self.infer, [one]) for one in encoded])
        difference = float(np.abs(found - stored).max())
        if not difference <= self.variant.golden_tolerance:
            raise DisagreementError(
                f"{self.variant_name} answers the golden texts {difference:.3g} away from its stored logits, at most "
                f"{self.variant.golden_tolerance:.3g} is accepted: this processor or runtime computes it differently"
            )


def _open(bundle: Bundle, choice: DeviceChoice, settings: RuntimeSettings) -> ort.InferenceSession:
    variant = bundle.info.variants.get(choice.variant)
    return open_session(bundle.onnx_path(choice.variant), settings.threads, choice.got, variant)


def run_session(session: ort.InferenceSession, batch: TokenBatch) -> NDArray[np.float32]:
    """Return logits (rows, labels), feeding only the inputs that the session has."""
    arrays = {"input_ids": batch.ids, "attention_mask": batch.mask, "token_type_ids": batch.types}
    feed = {node.name: arrays[node.name] for node in session.get_inputs()}
    return np.asarray(session.run(["logits"], feed)[0])
