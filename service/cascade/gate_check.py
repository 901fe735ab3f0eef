"""GateCheck: the student also answers a share of the texts that the gate answered, and disagreements are counted.

The student's answer is computed after the gate's was sent, one text at a time, on a runner that has no other work: a
live text waits for at most one of them. If too many texts wait already, new ones are skipped.
"""

import logging
import random
from collections import deque
from collections.abc import Sequence
from functools import partial

from models.tokenizer import Encoded
from service.cascade.drift_detector import DriftDetector, disagreement_bound
from service.inference.background import answer_in_background
from service.inference.runners import Runners
from service.model.engine import Engine
from service.operations.model_slots import ModelSlots
from service.operations.prometheus_metrics import Telemetry

log = logging.getLogger("prunella")
MOST = 64  # texts that wait in the background; further texts are not checked
RECENT = 1000  # texts of the running estimate


class GateCheck:
    """Compares the gate's best label with the student's.

    Args:
        model_slots: the current model; a new one begins with no comparisons.
        runners: run the student in the background.
        telemetry: counts.
        share: of the texts that the gate answered, in [0, 1].
    """

    def __init__(self, model_slots: ModelSlots, runners: Runners, telemetry: Telemetry, share: float) -> None:
        self._model_slots, self._runners, self._telemetry, self._share = model_slots, runners, telemetry, share
        self._random = random.Random(0)
        self._serial = -1  # of the engine that is compared
        self._detector: DriftDetector | None = None
        self._recent: deque[bool] = deque(maxlen=RECENT)

    def restart(self) -> None:
        """Forget all comparisons, because another model has become the current one."""
        self._serial = -1  # a single assignment: a swap may be made in another thread

    def maybe(self, engine: Engine, encoded: Sequence[Encoded], rows: Sequence[list[float] | None]) -> None:
        """Let the student answer a random share of the texts of one request; called after the answer was sent.

        Args:
            engine: the model that answered.
            encoded: the texts.
            rows: the gate's logits; None where the student has answered.
        """
        if engine is not self._model_slots.current:
            return  # another model has been swapped in
        if engine.serial != self._serial:
            self._begin(engine)
        for text, row in zip(encoded, rows, strict=True):
            if row is None or self._random.random() >= self._share:
                continue
            compare = partial(self.compare, engine.serial, _best(row))
            if not answer_in_background(self._runners, engine, text, MOST, compare):
                self._telemetry.gate_skipped.inc()

    def compare(self, serial: int, label: int, row: list[float] | None) -> None:
        """Compare the gate's best label of a text with the student's logits, and count; None: the student failed."""
        if serial != self._serial:
            return  # an answer of a model that has been replaced
        if row is None:
            self._telemetry.gate_check_failures.inc()
            return
        disagrees = _best(row) != label
        self._recent.append(disagrees)
        self._telemetry.gate_checked.inc()
        self._telemetry.gate_disagreed.inc(disagrees)
        self._telemetry.gate_disagreement.set(sum(self._recent) / len(self._recent))
        if self._detector is not None and self._detector.observe(disagrees):
            self._report(self._detector)

    def _begin(self, engine: Engine) -> None:
        """Start with no comparisons, for a new model."""
        assert engine.gate is not None, "called for texts that a gate answered"
        self._serial = engine.serial
        bound = disagreement_bound(engine.gate.info)
        self._detector = None if bound is None else DriftDetector(bound)
        if self._detector is None:
            log.warning("gate.json has no number of disagreements: they are counted here, and no drift is reported")
        self._recent.clear()
        self._telemetry.gate_disagreement.set(0)
        self._telemetry.gate_drift.set(0)

    def _report(self, detector: DriftDetector) -> None:
        """Write the metric and a line of the log when a drift begins or ends."""
        self._telemetry.gate_drift.set(detector.drifts)
        fields = {"disagreement": round(sum(self._recent) / len(self._recent), 4), "bound": round(detector.bound, 4)}
        if detector.drifts:
            log.warning(
                "drift: the gate's answers differ from the student's more often than on the rows on which its "
                "threshold was found: make a new gate from recent texts, or turn it off with PRUNELLA_CASCADE=0",
                extra=fields,
            )
        else:
            log.info("the drift has ended: the gate agrees with the student within its bound again", extra=fields)


def _best(row: Sequence[float]) -> int:
    return max(range(len(row)), key=row.__getitem__)
