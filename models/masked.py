"""MaskedLanguageModel: an encoder that guesses hidden tokens (Devlin et al. 2019), and its folder.

The head is BERT's: dense, GELU, norm, then one logit a token of the vocabulary, by the token embeddings themselves
(Press and Wolf 2017) plus a bias. Only the hidden positions go through it: at 15 % of the tokens that saves most of
the time of a small model, whose largest matrix is the vocabulary's.
"""

import math
from dataclasses import dataclass
from pathlib import Path

import torch
import torch.nn.functional as functional
from torch import Tensor, nn

from models.architecture import Architecture
from models.checkpoint import load_encoder, read_tensors, save_encoder
from models.encoder import Encoder
from models.errors import FolderError, InputError
from models.families import FAMILIES

STD = 0.02  # of new weights
_ROBERTA = {"dense": "lm_head.dense", "norm": "lm_head.layer_norm", "bias": "lm_head.bias"}
HEADS: dict[str, dict[str, str]] = {  # family → our part of the head → transformers' name
    "bert": {
        "dense": "cls.predictions.transform.dense",
        "norm": "cls.predictions.transform.LayerNorm",
        "bias": "cls.predictions.bias",
    },
    "roberta": _ROBERTA,
    "xlm-roberta": _ROBERTA,
    "distilbert": {"dense": "vocab_transform", "norm": "vocab_layer_norm", "bias": "vocab_projector.bias"},
}


@dataclass(frozen=True, slots=True)
class MaskedBatch:
    """Rows with hidden tokens, on one device."""

    ids: Tensor  # (batch, tokens), what the model sees
    mask: Tensor  # (batch, tokens), 1 on real tokens
    positions: Tensor  # (hidden,), where in the flattened ids a token is to be guessed
    targets: Tensor  # (hidden,), the token that it is


class PredictionHead(nn.Module):
    """BERT's head for hidden tokens, without the matrix that it shares with the token embeddings."""

    def __init__(self, architecture: Architecture) -> None:
        super().__init__()
        self.dense = nn.Linear(architecture.width, architecture.width)
        self.norm = nn.LayerNorm(architecture.width, eps=architecture.norm_epsilon)
        self.bias = nn.Parameter(torch.zeros(architecture.vocabulary))

    def forward(self, states: Tensor, table: Tensor) -> Tensor:
        """Return logits (hidden, vocabulary) of states (hidden, width) by the table (vocabulary, width)."""
        return functional.linear(self.norm(functional.gelu(self.dense(states))), table, self.bias)


class MaskedLanguageModel(nn.Module):
    """Tokens, some of them hidden → logits for the hidden ones."""

    def __init__(self, encoder: Encoder) -> None:
        super().__init__()
        self.encoder = encoder
        self.head = PredictionHead(encoder.architecture)
        initialize(self.head)

    @property
    def architecture(self) -> Architecture:
        """Shape of the encoder."""
        return self.encoder.architecture

    def forward(self, batch: MaskedBatch) -> Tensor:
        """Return logits (hidden, vocabulary), in the order of `batch.positions`."""
        states, _ = self.encoder(batch.ids, batch.mask, torch.zeros_like(batch.ids))
        return self.head(states.flatten(0, 1)[batch.positions], self.encoder.embeddings.tokens.weight)


def initialize(module: nn.Module) -> None:
    """Set matrices to normal(0, 0.02), biases to 0 and norms to 1, as BERT is begun."""
    for part in module.modules():
        if isinstance(part, nn.Linear | nn.Embedding):
            nn.init.normal_(part.weight, std=STD)
        if isinstance(part, nn.LayerNorm):
            nn.init.ones_(part.weight)
        if isinstance(part, nn.Linear | nn.LayerNorm):
            nn.init.zeros_(part.bias)


@torch.no_grad()
def set_waves(table: Tensor) -> None:
    """Set learned positions (positions, width) to the sines and cosines of Vaswani et al. (2017), as large as words.

    From random positions attention has to find out first which are neighbours, and for millions of tokens nothing but
    the frequency of words is learned (docs/results/training.md). They are learned on from there.
    """
    positions, width = table.shape
    speeds = 10_000 ** (-torch.arange(0, width, 2) / width)  # radians a position
    angles = torch.arange(positions)[:, None] * speeds  # (positions, ceil(width / 2))
    waves = torch.stack([angles.sin(), angles.cos()], dim=-1).flatten(1)
    table.copy_(waves[:, :width] * STD * math.sqrt(2))


def new_masked_model(architecture: Architecture, dropout: float, seed: int) -> MaskedLanguageModel:
    """Return a model that has learned nothing yet."""
    torch.manual_seed(seed)
    encoder = Encoder(architecture, dropout)
    initialize(encoder)
    set_waves(encoder.embeddings.positions.weight)
    return MaskedLanguageModel(encoder).eval()


def load_masked_model(folder: Path, dropout: float = 0.1, seed: int = 0) -> MaskedLanguageModel:
    """Return the model in a folder; where only an encoder is there, the head is new.

    Args:
        folder: a Hugging Face folder of one of the families in `HEADS`, masked-language model or not.
        dropout: part of the hidden states that training drops.
        seed: of a new head.

    Raises:
        FolderError: the folder cannot be read, or has a part of the head only.
        InputError: the encoder is of a family that is not pretrained.
    """
    encoder = load_encoder(folder, dropout)
    family = encoder.architecture.family
    if family not in HEADS or not isinstance(encoder, Encoder):
        raise InputError(f"{folder} is a {family!r} encoder: pretrained here are {', '.join(HEADS)}")
    torch.manual_seed(seed)
    model = MaskedLanguageModel(encoder)
    wanted, found = _named_head(model), read_tensors(folder)
    if wanted.keys() & found.keys():
        for name, tensor in wanted.items():
            if name not in found or found[name].shape != tensor.shape:
                raise FolderError(f"{folder} lacks {name} of shape {tuple(tensor.shape)} beside the rest of its head")
            tensor.copy_(found[name])
    return model.eval()


def save_masked_model(model: MaskedLanguageModel, folder: Path) -> None:
    """Write weights, `config.json` and `architecture.json`; transformers' ...ForMaskedLM loads the folder."""
    name = f"{FAMILIES[model.architecture.family].classes}ForMaskedLM"
    save_encoder(model.encoder, folder, extra=_named_head(model), architectures=name)


def _named_head(model: MaskedLanguageModel) -> dict[str, Tensor]:
    """Return the head's own tensors, no copies, by transformers' names."""
    parts = HEADS[model.architecture.family]
    named = {}
    for name, tensor in model.head.state_dict().items():
        part, _, end = name.partition(".")
        named[f"{parts[part]}.{end}" if end else parts[part]] = tensor
    return named
