"""mask_tokens(): which tokens the model must guess, and what it sees in their place.

Of the tokens 15 % are chosen; of these 80 % become [MASK], 10 % another token, 10 % stay (Devlin et al. 2019, section
3.1). The choice is made anew in each epoch (Liu et al. 2019, "dynamic masking"). With `whole_words` all pieces of a
word are chosen together (the authors' later release of BERT).
"""

import numpy as np
from numpy.typing import NDArray
from pydantic import Field

from models.data.wordpiece import Vocabulary
from models.record import Settings

IGNORED = -100  # the label of a token that is not to be guessed: what cross_entropy leaves out
AS_MASK, AS_RANDOM = 0.8, 0.1  # the rest keeps its token, so that a token's own state is of use too


class MaskingConfig(Settings):
    """How much is hidden."""

    share: float = Field(0.15, gt=0, lt=1, description="part of the tokens to guess; special tokens are never hidden")
    whole_words: bool = Field(False, description="hide all pieces of a word together (WordPiece's ##)")


def generator_of(seed: int, epoch: int, row: int) -> np.random.Generator:
    """Return the random source of one row in one epoch: the order in which rows are asked for has no part in it."""
    return np.random.default_rng([seed, epoch, row])


def mask_tokens(
    ids: NDArray[np.integer], vocabulary: Vocabulary, config: MaskingConfig, generator: np.random.Generator
) -> tuple[NDArray[np.int64], NDArray[np.int64]]:
    """Return what the model sees and what it must guess, both (tokens,); labels are -100 where nothing is asked.

    `share` of the row's ordinary tokens is chosen, rounded, and at least one where there is one. With `whole_words`
    it may be fewer, never more, except that the one word of a row may be longer than its share.
    """
    seen = ids.astype(np.int64)
    labels = np.full_like(seen, IGNORED)
    candidates = np.flatnonzero(~vocabulary.special[seen])
    if not len(candidates):
        return seen, labels
    count = max(1, round(config.share * len(candidates)))
    if config.whole_words:
        chosen = _whole_words(candidates, vocabulary.inside[seen[candidates]], count, generator)
    else:
        chosen = generator.permutation(candidates)[:count]
    labels[chosen] = seen[chosen]
    fate = generator.random(len(chosen))
    replaced = (fate >= AS_MASK) & (fate < AS_MASK + AS_RANDOM)
    seen[chosen[fate < AS_MASK]] = vocabulary.mask
    seen[chosen[replaced]] = generator.choice(vocabulary.ordinary, size=int(replaced.sum()))
    return seen, labels


def _whole_words(
    candidates: NDArray[np.int64], inside: NDArray[np.bool_], count: int, generator: np.random.Generator
) -> NDArray[np.int64]:
    """Return the positions of words in random order, each that still fits into `count`.

    Args:
        candidates: positions of ordinary tokens, ascending.
        inside: of each, whether it goes on with the word before it.
        count: most positions to return.
        generator: decides the order.
    """
    goes_on = inside[1:] & (np.diff(candidates) == 1)  # a special token between ends the word
    words = np.split(candidates, np.flatnonzero(~goes_on) + 1)
    chosen: list[NDArray[np.int64]] = []
    room = count
    order = generator.permutation(len(words))
    for index in order:
        if len(words[index]) <= room:
            chosen.append(words[index])
            room -= len(words[index])
        if room == 0:
            break
    return np.concatenate(chosen or [words[order[0]]])
