"""film_classifier(): the classifier that chapters 5 to 8 work on; the first of them that runs trains it."""

from dataclasses import dataclass
from pathlib import Path

from models.data.texts import Texts, read_texts
from models.finetuning.finetune import FinetuneConfig, Splits, finetune
from models.store.folder import ModelFolder
from tools.course.output import WORK, sized

STORE = WORK / "film-classifier"


@dataclass(frozen=True, slots=True)
class FilmClassifier:
    """MiniLM fine-tuned on film reviews, and the texts."""

    folder: ModelFolder
    train: Texts
    validation: Texts
    test: Texts

    @property
    def path(self) -> Path:
        """The folder of the model."""
        return self.folder.path


def film_classifier() -> FilmClassifier:
    """Return the classifier, fine-tuned in one epoch on a part of the film reviews; chapter 3 explains how."""
    train, validation, test = (read_texts(f"builtin:film-reviews:{part}") for part in ("train", "validation", "test"))
    train, validation = train.take(range(sized(1600, small=64))), validation.take(range(sized(300, small=40)))
    test = test.take(range(sized(1000, small=40)))
    training = {"epochs": 1, "learning_rate": 2e-4, "layer_decay": 0.95}
    config = FinetuneConfig.model_validate({"max_tokens": 64, "training": training})
    result = finetune("builtin:minilm-l6", Splits(train, validation), config, STORE)
    return FilmClassifier(result.folder, train, validation, test)
