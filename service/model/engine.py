"""Engine: computes logits of texts with the tokenizer and an open session. It is independent of HTTP."""

import logging
from collections.abc import Sequence
from itertools import count
from typing import Literal

import numpy as np
import onnxruntime as ort
from numpy.typing import NDArray

from models.errors import DisagreementError
from models.tokenizer import Encoded, Row, TokenBatch, Tokenizer
from service.model.bundle import Bundle
from service.model.isolation import Health
from service.model.latency_estimator import LatencyEstimator, TokenizerRate
from service.model.prefix_tokenizer import PrefixTokenizer
from service.model.session import (
    DeviceChoice,
    RuntimeSettings,
    choose_device,
    count_gpus,
    fall_back_to_cpu,
    open_session,
    runs_on,
)
from service.model.windows import TextWindows
from service.model.wordpiece_cache import WordPieceCache

log = logging.getLogger("prunella")
# the end at which a long text is truncated: at the model's limit, or at that of all windows
Cut = Literal["right", "left", "never", "windows", "windows_left"]
NO_LIMIT = 10**9  # tokens: longer than any text
_serials = count()


class Engine:
    """A bundle with an open session.

    All runners share one session. With one thread per operator, ONNX Runtime computes in the calling thread, so N
    runners compute in parallel as N one-thread sessions would, without N copies of the weights.
    """

    def __init__(
        self,
        bundle: Bundle,
        session: ort.InferenceSession,
        choice: DeviceChoice,
        settings: RuntimeSettings | None = None,
    ) -> None:
        self.bundle, self.session, self.choice = bundle, session, choice
        self.variant_name = choice.variant
        self.variant = bundle.info.variants[choice.variant]
        self.tokenizer: Tokenizer = bundle.tokenizer()
        if self.tokenizer.out_of_table:
            log.warning("%s: %s", bundle.folder.path, self.tokenizer.out_of_table_message())
        # dynamic int8 uses one activation scale per batch, so the other texts of a batch would change the answer
        self.single_row_only = self.variant.recipe == "dynamic"
        self.serial = next(_serials)  # unique in the process, also for two engines of the same bundle
        self.latency, self.rate, self.health = LatencyEstimator(), TokenizerRate(), Health()
        self._names = tuple(node.name for node in session.get_inputs())
        self._takes_types = "token_type_ids" in self._names
        self._tokenizers: dict[Cut, Tokenizer] = {"right": self.tokenizer}
        self._word_cache = WordPieceCache.of(self.tokenizer)
        self._prefix_tokenizer = PrefixTokenizer.of(self.tokenizer)
        settings = settings or RuntimeSettings()
        self.windows = TextWindows.of(bundle.task, self.tokenizer.affixes, settings.windows, settings.windows_combine)
        self.gate = bundle.gate  # answers easy texts in place of the session; None: the bundle has none
        if self.gate is not None and self.windows is not None:
            log.warning("the gate is off: its threshold was found for texts that are truncated, not cut into windows")
            self.gate = None
        self.probe = self.encode(bundle.golden.rows[:1])[0]

    @classmethod
    def open(
        cls, bundle: Bundle, settings: RuntimeSettings | None = None, available: list[str] | None = None
    ) -> "Engine":
        """Open the session that fits the device.

        Args:
            bundle: the bundle to serve.
            settings: device, variant and threads; default: the best device of this machine.
            available: execution providers; default: those that ONNX Runtime reports.

        Raises:
            InputError: `require_device` is set and the device cannot be used.
        """
        settings = settings or RuntimeSettings()
        providers = ort.get_available_providers() if available is None else available
        choice = choose_device(bundle.info, settings, providers, count_gpus())
        session = _open(bundle, choice, settings)
        if not runs_on(session, choice.got):
            reason = f"ONNX Runtime supports {choice.got}, but its libraries do not load (driver, CUDA, cuDNN)"
            choice = fall_back_to_cpu(bundle.info, settings, reason)
            session = _open(bundle, choice, settings)
        return cls(bundle, session, choice, settings)

    def encode(self, rows: Sequence[Row], direction: Literal["left", "right"] = "right") -> list[Encoded]:
        """Tokenize rows and truncate long ones at the end named by `direction`."""
        return self.tokenize(rows, direction)

    def tokenize(self, rows: Sequence[Row], cut: Cut) -> list[Encoded]:
        """Tokenize rows; with `never`, long rows are not truncated and may exceed the model's limit.

        With `windows` and `windows_left` they may have as many tokens as all windows together.

        Each truncation mode has its own tokenizer, so that threads can tokenize concurrently without changing each
        other's settings.
        """
        if cut == "right" and self._word_cache is not None and len(rows) == 1 and len(rows[0]) == 1:
            cached = self._word_cache.encode(rows[0][0])
            if cached is not None:
                return [cached]
        if cut == "right" and self._prefix_tokenizer is not None:
            return self._prefix_tokenizer.encode(rows)
        tokenizer = self._tokenizers.get(cut)
        if tokenizer is None:
            tokenizer = self.bundle.tokenizer(self._limit(cut))
            # sets the direction before other threads can use it
            tokenizer.encode([], "left" if cut.endswith("left") else "right")
            self._tokenizers[cut] = tokenizer
        return tokenizer.encode(rows, "left" if cut.endswith("left") else "right")

    def cut_of(self, end: Cut) -> Cut:
        """Return how texts are cut that the model answers with its windows, if it has some."""
        if self.windows is None or end == "never":
            return end
        return "windows_left" if end == "left" else "windows"

    @property
    def most_tokens(self) -> int:
        """Largest number of tokens of a text: the model's, or that of all windows."""
        return self.bundle.task.max_tokens if self.windows is None else self.windows.max_tokens

    def parts(self, texts: Sequence[Encoded]) -> list[list[Encoded]]:
        """Return the windows of each text; without windows, the text itself."""
        return [[text] if self.windows is None else self.windows.cut(text) for text in texts]

    def joined(self, parts: Sequence[list[Encoded]], rows: Sequence[list[float] | None]) -> list[list[float] | None]:
        """Return the logits of each text from those of its `parts`; None where the model failed on one of them."""
        return list(rows) if self.windows is None else self.windows.answers(parts, rows)

    def _limit(self, cut: Cut) -> int | None:
        if cut == "never":
            return NO_LIMIT
        return self.windows.max_tokens if self.windows is not None and cut.startswith("windows") else None

    def chars(self, rows: Sequence[Row], cut: Cut) -> int:
        """Estimate the number of characters that will be tokenized; of a prefix, only the first try counts."""
        if cut == "right" and self._prefix_tokenizer is not None:
            limit = self._prefix_tokenizer.chars
            return sum(min(len(row[0]), limit) if len(row) == 1 else len(row[0]) + len(row[1]) for row in rows)
        return sum(len(part) for row in rows for part in row)

    def infer(self, encoded: Sequence[Encoded]) -> NDArray[np.float32]:
        """Return logits (rows, labels). Rows run one by one where a batch would change the answer."""
        if self.single_row_only:
            return np.concatenate([self.run(self._batch([row])) for row in encoded])
        return self.run(self._batch(encoded))

    def _batch(self, encoded: Sequence[Encoded]) -> TokenBatch:
        """Return rows as one batch. Rows of equal length, the most frequent case, skip the padding."""
        length = len(encoded[0].ids)
        if any(len(row.ids) != length for row in encoded):
            return self.tokenizer.pad(encoded)
        ids = np.array([row.ids for row in encoded], dtype=np.int64)
        types = np.array([row.types for row in encoded], dtype=np.int64) if self._takes_types else ids  # not fed
        return TokenBatch(ids, np.ones_like(ids), types)

    def run(self, batch: TokenBatch) -> NDArray[np.float32]:
        """Return logits (rows, labels) of one padded batch."""
        arrays = {"input_ids": batch.ids, "attention_mask": batch.mask, "token_type_ids": batch.types}
        return np.asarray(self.session.run(["logits"], {name: arrays[name] for name in self._names})[0])

    def logits(self, rows: Sequence[Row]) -> NDArray[np.float32]:
        """Return logits (rows, labels) of texts, with the windows of long ones."""
        if self.windows is None:
            return self.infer(self.encode(rows))
        return self.windows.logits(self.tokenize(rows, "windows"), self.infer)

    def self_check(self) -> None:
        """Compare the logits of the golden rows with the stored ones.

        The rows run one by one. This also warms up the session and makes the first latency measurements.

        Raises:
            DisagreementError: a logit differs from the stored one by more than the variant's tolerance.
        """
        golden = self.bundle.golden
        stored = np.asarray(golden.logits[self.variant_name], dtype=np.float32)
        encoded = self.encode(list(golden.rows))
        logits = np.concatenate([self.latency.timed(self.infer, [row]) for row in encoded])
        if self.gate is not None:
            self.gate.decide(encoded[0].ids)
        difference = float(np.abs(logits - stored).max())
        if not difference <= self.variant.golden_tolerance:
            raise DisagreementError(
                f"{self.variant_name}: logits of the golden texts differ from the stored ones by {difference:.3g}, "
                f"at most {self.variant.golden_tolerance:.3g} is accepted: processor or runtime compute differently"
            )


def _open(bundle: Bundle, choice: DeviceChoice, settings: RuntimeSettings) -> ort.InferenceSession:
    variant = bundle.info.variants.get(choice.variant)
    return open_session(bundle.onnx_path(choice.variant), settings.threads, choice.got, variant)


def run_session(session: ort.InferenceSession, batch: TokenBatch) -> NDArray[np.float32]:
    """Return logits (rows, labels); only the inputs that the session has are fed."""
    arrays = {"input_ids": batch.ids, "attention_mask": batch.mask, "token_type_ids": batch.types}
    feed = {node.name: arrays[node.name] for node in session.get_inputs()}
    return np.asarray(session.run(["logits"], feed)[0])
