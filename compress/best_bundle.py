"""deliver_best(): report the evaluated bundles, and deliver the fastest within `max_loss`, with a gate if wanted."""

from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from compress.candidate_report import summary, write_candidates
from compress.candidates import Candidate, missed_target, select_best
from compress.cascade.add_gate import add_gate
from compress.cascade.gate_plan import GatePlan
from compress.config import CompressConfig
from models.schema import Record
from models.store.folder import identity
from models.store.results import Delivered, deliver
from models.store.stage import StageResult


class Compressed(Record):
    """The delivered bundle and its report."""

    delivered: Delivered
    missed: str | None = None  # message if the final measurement misses the target; None: within the tolerance

    @property
    def folder(self) -> Path:
        """The bundle's folder."""
        return Path(self.delivered.folder)

    @property
    def report(self) -> dict[str, Any]:
        """The JSON object that the command prints as its last line."""
        return self.delivered.summary("compress")


@dataclass(frozen=True, slots=True)
class Ending:
    """What is delivered, and what the report says besides the settings."""

    results: Sequence[tuple[StageResult, Candidate]]
    unreached: dict[str, str]  # the error message of each target that was not reached
    rows: dict[str, Any]  # keys about the origin of the rows
    out: Path | None  # folder to which the bundle is copied
    is_family: bool  # whether several targets were given
    gate: GatePlan | None  # how the bundle gets a gate


def deliver_best(
    end: Ending, more: dict[str, Any], full_model: Path, config: CompressConfig, store: Path
) -> Compressed:
    """Report the candidates, select the best, add its gate if one is wanted, and deliver it.

    Args:
        end: the candidates, and what is wanted besides the settings.
        more: further keys of the report.
        full_model: folder of the model that was compressed: the gate learns from its answers.
        config: settings of the compression.
        store: folder of finished stages.

    Raises:
        TargetError: every bundle loses more than `config.max_loss`.
    """
    candidates, max_loss = [candidate for _, candidate in end.results], config.max_loss
    parents = [candidate.id for candidate in candidates]
    report = store / f"family-{identity(parents, 'family', 1, {'max_loss': max_loss})}"
    write_candidates(candidates, None, max_loss, report, end.rows)
    best = select_best(candidates, max_loss)
    write_candidates(candidates, best, max_loss, report, end.rows)
    more = {"report": str(report), **more}
    if end.is_family:
        more["family"] = [summary(c, max_loss) | {"folder": c.folder} for c in candidates]
        more["unreached"] = end.unreached
    result = end.results[candidates.index(best)][0]
    if end.gate is not None:
        cascade = add_gate(result.folder, end.gate.texts, full_model, end.gate.config, store)
        result, more = cascade.result or result, more | cascade.summary
    delivered = deliver(result, end.out, more)
    return Compressed(delivered=delivered, missed=missed_target(candidates, best, config.tolerance))
