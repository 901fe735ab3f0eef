"""finetune_seeds(): the same fine-tuning from several seeds, with mean and spread: one run is one draw."""

import json
import statistics
from pathlib import Path
from typing import Any

from models.folder import REPORT
from models.stage import Made
from models.train.finetune import FinetuneConfig, Splits, finetune
from models.train.metrics import METRICS


def finetune_seeds(
    encoder: str, splits: Splits, config: FinetuneConfig, store: Path, seeds: int
) -> tuple[Made, dict[str, Any]]:
    """Train `seeds` models, from `config`'s seed on; each is a folder of its own, reused when it is there.

    Returns:
        The one that is best by the task's usual metric on the validation rows that choose; and the seeds, the folders
        in their order, and for each metric the mean, the sample standard deviation and the values on the rows that
        are reported.
    """
    first = config.training.seed
    numbers = range(first, first + seeds)
    made = [finetune(encoder, splits, _with_seed(config, seed), store) for seed in numbers]
    reports = [json.loads((m.folder.path / REPORT).read_text(encoding="utf-8")) for m in made]
    usual = METRICS[splits.train.kind][0]
    best = max(range(seeds), key=lambda i: reports[i]["details"]["choosing"][usual])
    names = [n for n in reports[0] if n.removeprefix("test_") in METRICS[splits.train.kind]]
    spread = {
        name: {
            "mean": statistics.fmean(r[name] for r in reports),
            "deviation": statistics.stdev(r[name] for r in reports),
            "values": [r[name] for r in reports],
        }
        for name in names
    }
    folders = [str(m.folder.path) for m in made]
    return made[best], {"seeds": list(numbers), "folders": folders, "chosen_seed": numbers[best], "spread": spread}


def _with_seed(config: FinetuneConfig, seed: int) -> FinetuneConfig:
    several = {"one_of_several": True}
    return config.model_copy(update=several | {"training": config.training.model_copy(update={"seed": seed})})
