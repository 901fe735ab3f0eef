"""mask_tokens(): selects the tokens that the model must predict, and replaces them in its input.

15 % of the tokens are selected; of these 80 % are replaced with [MASK], 10 % with a random token, and 10 % are kept
(Devlin et al. 2019, section 3.1). The selection differs in each epoch (Liu et al. 2019, "dynamic masking"). With
`whole_words` all pieces of a word are selected together (the authors' later release of BERT).
"""

import numpy as np
from numpy.typing import NDArray
from pydantic import Field

from models.pretraining.wordpiece import Vocabulary
from models.schema import Settings

IGNORED = -100  # label of a token that is not to be predicted; the value that cross_entropy ignores
AS_MASK, AS_RANDOM = 0.8, 0.1  # shares; the rest is kept, so that the state of an unmasked token is trained, too


class MaskingConfig(Settings):
    """Settings of the masking."""

    share: float = Field(0.15, gt=0, lt=1, description="share of the tokens to predict, without special tokens")
    whole_words: bool = Field(False, description="mask all pieces of a word together (WordPiece's ##)")


def generator_of(seed: int, epoch: int, row: int) -> np.random.Generator:
    """Return the random generator of one row in one epoch; it does not depend on the order of the rows."""
    return np.random.default_rng([seed, epoch, row])


def mask_tokens(
    ids: NDArray[np.integer], vocabulary: Vocabulary, config: MaskingConfig, generator: np.random.Generator
) -> tuple[NDArray[np.int64], NDArray[np.int64]]:
    """Return the model's input and the labels, both (tokens,); a label is -100 if the token is not to be predicted.

    The number of selected tokens is the rounded `share` of the row's ordinary tokens, and at least one if there is
    one. With `whole_words` it can be lower. It is higher only if no word fits: then one word is selected.
    """
    inputs = ids.astype(np.int64)
    labels = np.full_like(inputs, IGNORED)
    candidates = np.flatnonzero(~vocabulary.special[inputs])
    if not len(candidates):
        return inputs, labels
    count = max(1, round(config.share * len(candidates)))
    if config.whole_words:
        selected = _select_words(candidates, vocabulary.inside[inputs[candidates]], count, generator)
    else:
        selected = generator.permutation(candidates)[:count]
    labels[selected] = inputs[selected]
    draws = generator.random(len(selected))
    randomized = (draws >= AS_MASK) & (draws < AS_MASK + AS_RANDOM)
    inputs[selected[draws < AS_MASK]] = vocabulary.mask
    inputs[selected[randomized]] = generator.choice(vocabulary.ordinary, size=int(randomized.sum()))
    return inputs, labels


def _select_words(
    candidates: NDArray[np.int64], inside: NDArray[np.bool_], count: int, generator: np.random.Generator
) -> NDArray[np.int64]:
    """Return the positions of randomly selected words: at most `count`, or those of one word if none fits.

    Args:
        candidates: positions of ordinary tokens, ascending.
        inside: for each, whether it continues the word before it.
        count: maximum number of positions.
        generator: determines the order in which words are tried.
    """
    continues = inside[1:] & (np.diff(candidates) == 1)  # a special token in between ends the word
    words = np.split(candidates, np.flatnonzero(~continues) + 1)
    selected: list[NDArray[np.int64]] = []
    remaining = count
    order = generator.permutation(len(words))
    for index in order:
        if len(words[index]) <= remaining:
            selected.append(words[index])
            remaining -= len(words[index])
        if remaining == 0:
            break
    return np.concatenate(selected or [words[order[0]]])
