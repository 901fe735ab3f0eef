"""read_head_task(): what the outputs of a Hugging Face folder mean: kind of task, labels, and function of the score.

The kind follows the shape of the head and `problem_type`, by the rules of transformers. Cross-encoders of
sentence-transformers name the function of their single output in config.json.
"""

from dataclasses import dataclass
from pathlib import Path
from typing import Any, Literal

from models.checkpoint import CONFIG, PROBLEMS, label_names, read_architecture, read_config, read_names
from models.errors import FolderError, InputError
from models.families import FAMILIES
from models.families.stored_names import family_names
from models.forms.config_refusals import has_other_head
from models.forms.embedding_classifier import embedding_head
from models.forms.embedding_settings import CROSS_ENCODER, GENERAL, general_settings
from models.task import Kind, Task
from models.weights import read_shapes

LONG_ENOUGH = 512  # any maximum input length: the function does not depend on it
Activation = Literal["sigmoid"] | None
# sentence-transformers 4 to 5.3; earlier versions
ACTIVATION_KEYS = (("sentence_transformers", "activation_fn"), ("sbert_ce_default_activation_function",))
LATER_KEY = "activation_fn"  # in config_sentence_transformers.json of later versions
SUPPORTED: dict[str, Activation] = {"Sigmoid": "sigmoid", "Identity": None}


@dataclass(frozen=True, slots=True)
class HeadTask:
    """What the outputs of a model mean."""

    kind: Kind
    labels: tuple[str, ...]
    activation: Activation = None

    def task(self, pair: bool, max_tokens: int) -> Task:
        """Return the task of a model that takes texts or pairs of `max_tokens` tokens at most."""
        return Task(kind=self.kind, labels=self.labels, pair=pair, max_tokens=max_tokens, activation=self.activation)

    @property
    def function(self) -> str:
        """Function of the outputs that gives the scores: softmax, sigmoid or none."""
        return self.task(pair=False, max_tokens=LONG_ENOUGH).function

    def score_sentence(self) -> str:
        """Return what a served score is, for a model with one output; nothing for others."""
        if self.kind != "regression":
            return ""
        is_raw = self.activation is None
        return (
            "; a score is the output itself" if is_raw else "; a score is the sigmoid of the output (activation_fn)"
        )


def read_head_task(folder: Path) -> HeadTask | None:
    """Return what the outputs of a Hugging Face folder mean; None: it has no classification head.

    Raises:
        FolderError: the config cannot be read, or its labels or its problem type do not fit the head.
        InputError: the function of the score is not supported.
    """
    if (linear := embedding_head(folder)) is not None:
        return HeadTask(linear.kind, linear.labels)
    config, shape = read_config(folder), read_architecture(folder)
    if has_other_head(config):
        return None
    family, shapes = FAMILIES[shape.family].names, read_shapes(folder)
    names = family_names(shapes, family, len(shape.layers), folder)
    head = next((shapes[stored] for stored, name in names.items() if name == f"{family.head['out']}.weight"), None)
    if head is None:
        return None
    settings = general_settings(folder)
    if settings.get("model_type") == CROSS_ENCODER and settings.get(LATER_KEY) is not None:
        config = config | {ACTIVATION_KEYS[0][0]: {LATER_KEY: settings[LATER_KEY]}}
        return head_task(config, head[0], f"{folder / CONFIG}, with {GENERAL},")
    return head_task(config, head[0], str(folder / CONFIG))


def head_task(config: dict[str, Any], outputs: int, source: str) -> HeadTask:
    """Return what the outputs of a classification head mean, by a config.json.

    Args:
        config: its content.
        outputs: number of outputs.
        source: path of the config, for messages.

    Raises:
        FolderError: its labels or its problem type do not fit the head.
        InputError: the function of the score is not supported.
    """
    kind = _kind(config, outputs, source)
    return HeadTask(kind, _labels(config, outputs, source), _activation(config, kind, source))


def _kind(config: dict[str, Any], outputs: int, source: str) -> Kind:
    problem = config.get("problem_type")
    if problem not in (None, *PROBLEMS.values()):
        raise FolderError(f"{source} has problem_type = {problem!r}: wanted {', '.join(PROBLEMS.values())}, or none")
    if problem == PROBLEMS["multi"]:
        return "multi"
    if problem == PROBLEMS["regression"] and outputs > 1:
        raise FolderError(f"{source} answers with {outputs} numbers: wanted labels, or one number")
    return "regression" if outputs == 1 else "single"


def _labels(config: dict[str, Any], outputs: int, source: str) -> tuple[str, ...]:
    """Return the names of the outputs; the default names of transformers if the config has none."""
    names = read_names(config, source)
    if outputs == 1 and len(names) != 1:  # of a head with one output transformers writes none, or its default of two
        names = {}
    positions = [str(i) for i in range(outputs)]
    if names and set(names) != set(positions):
        raise FolderError(
            f"{source} names the labels {', '.join(sorted(map(str, names)))} in id2label, and the head has {outputs} "
            f"outputs: wanted names for {positions[0]} to {positions[-1]}"
        )
    labels = label_names(names, outputs)
    if len(set(labels)) < outputs:
        raise FolderError(f"{source} gives two labels the same name in id2label: wanted {outputs} different names")
    return labels


def _activation(config: dict[str, Any], kind: Kind, source: str) -> Activation:
    """Return the function of the score that a cross-encoder's config.json names.

    Raises:
        InputError: it is another than the score function of the kind.
    """
    for key, *inner in ACTIVATION_KEYS:
        value = config.get(key)
        if inner:
            value = value.get(inner[0]) if isinstance(value, dict) else None
        if value is not None:
            name = str(value).rpartition(".")[2]
            break
    else:
        return None
    if kind == "regression" and name in SUPPORTED:
        return SUPPORTED[name]
    if kind == "regression":
        raise InputError(f"{source} computes scores with {value}: supported are {' and '.join(SUPPORTED)}")
    if kind == "single" and name == "Sigmoid":
        raise InputError(
            f"{source} has several outputs and computes scores with {value}: set problem_type to "
            f"{PROBLEMS['multi']!r} if a text may have several labels; else remove activation_fn"
        )
    return None
