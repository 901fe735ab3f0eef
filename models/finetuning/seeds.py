"""finetune_seeds(): repeats a fine-tuning with several seeds and returns mean and standard deviation."""

import json
import statistics
from dataclasses import replace
from pathlib import Path
from typing import Any

from models.distributed import rank
from models.finetuning.finetune import FinetuneConfig, Splits, finetune
from models.finetuning.finetune_config import complete
from models.finetuning.metrics import METRICS
from models.store.atomic import write_text
from models.store.folder import REPORT
from models.store.stage import StageResult
from models.teachers.teacher import SERIES


def finetune_seeds(
    encoder: str, splits: Splits, config: FinetuneConfig, store: Path, seeds: int
) -> tuple[StageResult, dict[str, Any]]:
    """Train `seeds` models with consecutive seeds, starting at that of `config`; existing folders are reused.

    The report of the best one names all folders, so that it can teach as their mean (`--teacher`).

    Returns:
        The model that is best by the task's default metric on the validation rows used for selection; and a dict with
        the seeds, the folders in the same order, and for each metric the mean, the sample standard deviation and the
        values on the rows that are reported.
    """
    config = complete(encoder, splits, config, store)
    splits = replace(splits, is_held_out=False)  # said once
    first = config.training.seed
    numbers = range(first, first + seeds)
    results = [finetune(encoder, splits, _with_seed(config, seed), store) for seed in numbers]
    reports = [json.loads((r.folder.path / REPORT).read_text(encoding="utf-8")) for r in results]
    default_metric = METRICS[splits.train.kind][0]
    best = max(range(seeds), key=lambda i: reports[i]["details"]["choosing"][default_metric])
    names = [n for n in reports[0] if n.removeprefix("test_") in METRICS[splits.train.kind]]
    spread = {
        name: {
            "mean": statistics.fmean(r[name] for r in reports),
            "deviation": statistics.stdev(r[name] for r in reports),
            "values": [r[name] for r in reports],
        }
        for name in names
    }
    folders = [str(r.folder.path) for r in results]
    if rank() == 0:
        reports[best]["details"][SERIES] = {str(r.folder.path.resolve()): r.folder.id for r in results}
        write_text(results[best].folder.path / REPORT, json.dumps(reports[best], indent=2) + "\n")
    return results[best], {"seeds": list(numbers), "folders": folders, "chosen_seed": numbers[best], "spread": spread}


def _with_seed(config: FinetuneConfig, seed: int) -> FinetuneConfig:
    training = config.training.model_copy(update={"seed": seed})
    return config.model_copy(update={"one_of_several": True, "training": training})
