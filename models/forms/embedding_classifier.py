"""A classifier whose head reads sentence embeddings, as a SetFit folder: its shape, and the tensors of its head."""

from dataclasses import dataclass
from functools import cache
from pathlib import Path

import torch
from torch import Tensor

from models.architecture import Architecture
from models.errors import FolderError, InputError
from models.forms.embedding_settings import MODULES, settings_files
from models.forms.linear_head import PICKLE, SETFIT, LinearHead, head_file, normalizes, read_linear_head
from models.forms.sentence_transformers import Modules, read_modules
from models.messages import say


@dataclass(frozen=True, slots=True)
class EmbeddingClassifier:
    """The modules after the encoder, and the linear head, if there is one."""

    folder: Path
    modules: Modules

    @classmethod
    def open(cls, folder: Path) -> "EmbeddingClassifier | None":
        """Return what a sentence-transformers folder does after the encoder; None: it is another folder."""
        modules = read_modules(folder)
        if modules is None and _is_bare_setfit(folder):
            _say_mean(folder)
            modules = Modules("mean", None, normalize=False, files=())
        return None if modules is None else cls(folder, modules)

    def has_head(self) -> bool:
        """Return whether the folder has a linear head; without one it is an encoder."""
        return head_file(self.folder) is not None or (self.folder / PICKLE).is_file()

    def shaped(self, shape: Architecture) -> Architecture:
        """Return the shape of the encoder with the pooling and the head of the folder.

        Without a linear head it is an encoder for fine-tuning, whose new head is one of transformers, as are those of
        all encoders: transformers opens the result, and the last layer computes the first token only.

        Raises:
            InputError: the modules compute something that is not supported.
        """
        if not self.has_head():
            return shape
        shape = shape.model_copy(update={"pooling": self.modules.pooling})
        dense, is_unit = self.modules.dense, self.modules.normalize or normalizes(self.folder)
        if dense is None:
            return shape.model_copy(update={"head": "unit" if is_unit else "linear"})
        if is_unit:
            raise InputError(
                f"{self.folder / MODULES}: a Dense module before a normalization is not supported: train "
                "without one of them"
            )
        if dense.activation == "Identity":
            return shape.model_copy(update={"head": "linear"})  # folded into the head: one matrix
        is_square = tuple(dense.weight.shape) == (shape.width, shape.width)
        if is_square and dense.activation == "Tanh" and shape.head_activation == "tanh":
            return shape
        raise InputError(
            f"{self.folder / MODULES}: a Dense module of the shape {tuple(dense.weight.shape)} with the activation "
            f"{dense.activation} is not supported: wanted Identity, or the activation and the width of a "
            f"{shape.family}'s head ({shape.head_activation}, {shape.width})"
        )

    def head_tensors(self, shape: Architecture) -> dict[str, Tensor]:
        """Return the state of the head: `head.out`, and `head.dense` if the folder has one; none without a head."""
        head = read_linear_head(self.folder) if head_file(self.folder) is not None else None
        if head is None:
            return {}
        weight, bias, dense = torch.from_numpy(head.coef), torch.from_numpy(head.intercept), self.modules.dense
        given = shape.width if dense is None else len(dense.weight)
        if weight.shape[1] != given:
            raise FolderError(
                f"{head_file(self.folder)} reads embeddings of {weight.shape[1]} numbers, and {self.folder} makes "
                f"embeddings of {given}: wanted the head that was trained on this folder"
            )
        if dense is not None and shape.head == "dense":
            zero = torch.zeros(len(dense.weight))
            extra = {"head.dense.weight": dense.weight, "head.dense.bias": zero if dense.bias is None else dense.bias}
            return extra | {"head.out.weight": weight, "head.out.bias": bias}
        if dense is not None:
            bias = bias if dense.bias is None else bias + weight @ dense.bias
            weight = weight @ dense.weight
        return {"head.out.weight": weight, "head.out.bias": bias}


def embedding_head(folder: Path) -> LinearHead | None:
    """Return the linear head of a sentence-transformers or SetFit folder; None: it has none.

    Raises:
        FolderError: the head is a pickle, or cannot be read.
    """
    return read_linear_head(folder) if (folder / MODULES).is_file() or (folder / SETFIT).is_file() else None


def read_files(folder: Path) -> tuple[str, ...]:
    """Return the files of the folder, besides those of the encoder, on which the classifier depends."""
    modules = read_modules(folder)
    if modules is None and not _is_bare_setfit(folder):
        return tuple(settings_files(folder))
    head = head_file(folder)
    names = (SETFIT, head.name if head is not None else PICKLE)
    return (*(() if modules is None else modules.files), *(name for name in names if (folder / name).is_file()))


def _is_bare_setfit(folder: Path) -> bool:
    """Whether a SetFit folder has no modules.json, in place of which sentence-transformers takes the mean."""
    return (folder / SETFIT).is_file() and not (folder / MODULES).is_file()


@cache
def _say_mean(folder: Path) -> None:
    say(f"{folder} has {SETFIT} and no {MODULES}: the mean of the tokens is pooled, as sentence-transformers does")
