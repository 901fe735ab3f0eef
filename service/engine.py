"""Engine: texts → logits, through the tokenizer and a running session. Knows no HTTP."""

from collections.abc import Sequence
from typing import Literal

import numpy as np
import onnxruntime as ort
from numpy.typing import NDArray

from models.errors import DisagreementError
from models.tokens import Encoded, Row, TokenBatch, Tokenizer
from service.bundle import Bundle
from service.runtime import DeviceChoice, RuntimeSettings, choose_device, open_session


class Engine:
    """A bundle with a running session."""

    def __init__(self, bundle: Bundle, session: ort.InferenceSession, choice: DeviceChoice) -> None:
        self.bundle, self.session, self.choice = bundle, session, choice
        self.variant_name = choice.variant
        self.variant = bundle.info.variants[choice.variant]
        self.tokenizer: Tokenizer = bundle.tokenizer()
        # dynamic int8 takes one activation scale a batch, so that batch mates would change the answer
        self.alone = self.variant.recipe == "dynamic"

    @classmethod
    def open(cls, bundle: Bundle, settings: RuntimeSettings | None = None) -> "Engine":
        """Open the session that fits the device."""
        settings = settings or RuntimeSettings()
        choice = choose_device(bundle.info, settings, ort.get_available_providers())
        path = bundle.onnx_path(choice.variant)
        session = open_session(path, settings.threads, choice.got, bundle.info.variants[choice.variant])
        return cls(bundle, session, choice)

    def encode(self, rows: Sequence[Row], direction: Literal["left", "right"] = "right") -> list[Encoded]:
        """Tokenize rows; long ones lose tokens at `direction`."""
        return self.tokenizer.encode(rows, direction)

    def infer(self, encoded: Sequence[Encoded]) -> NDArray[np.float32]:
        """Return logits (rows, labels); row by row where batch mates would change the answer."""
        if self.alone:
            return np.concatenate([self.run(self.tokenizer.pad([one])) for one in encoded])
        return self.run(self.tokenizer.pad(encoded))

    def run(self, batch: TokenBatch) -> NDArray[np.float32]:
        """Return logits (rows, labels) of one padded batch as it is."""
        return run_session(self.session, batch)

    def logits(self, rows: Sequence[Row]) -> NDArray[np.float32]:
        """Return logits (rows, labels) of texts."""
        return self.infer(self.encode(rows))

    def self_check(self) -> None:
        """Answer the golden rows.

        Raises:
            DisagreementError: an answer is further from the stored one than the variant's tolerance.
        """
        golden = self.bundle.golden
        stored = np.asarray(golden.logits[self.variant_name], dtype=np.float32)
        difference = float(np.abs(self.logits(list(golden.rows)) - stored).max())
        if not difference <= self.variant.golden_tolerance:
            raise DisagreementError(
                f"{self.variant_name} answers the golden texts {difference:.3g} away from its stored logits, at most "
                f"{self.variant.golden_tolerance:.3g} is accepted: this processor or runtime computes it differently"
            )


def run_session(session: ort.InferenceSession, batch: TokenBatch) -> NDArray[np.float32]:
    """Return logits (rows, labels), feeding only the inputs that the session has."""
    arrays = {"input_ids": batch.ids, "attention_mask": batch.mask, "token_type_ids": batch.types}
    feed = {node.name: arrays[node.name] for node in session.get_inputs()}
    return np.asarray(session.run(["logits"], feed)[0])
