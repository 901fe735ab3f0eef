"""frequent_tokens(): the tokens that stay although no training text has them, because other texts will."""

import unicodedata
from collections import Counter, defaultdict
from collections.abc import Mapping, Sequence
from functools import cache

import numpy as np
from numpy.typing import NDArray

SPLIT_SHARE = 0.01  # share of the validation tokens that may be dropped, and so be split into shorter tokens
Ints = NDArray[np.int64]


def frequent_tokens(names: Mapping[int, str], used: set[int], held_out: Sequence[int]) -> set[int]:
    """Return tokens to keep besides `used`, so that at most SPLIT_SHARE of the held-out tokens are dropped.

    Vocabularies list frequent tokens first: WordPiece and Unigram by count, BPE by order of merges. So the first
    tokens stay; how many is decided for each script, because most of the first tokens of a vocabulary of many
    languages are of other scripts than the texts. The tokens are dropped that free most rows of the token table for
    each held-out token that is lost.

    Args:
        names: text of each token by its id.
        used: ids of the tokens that stay in any case.
        held_out: ids of all tokens in the validation texts, with repetitions.
    """
    unused: dict[str, list[int]] = defaultdict(list)
    for token, name in sorted(names.items()):
        if token not in used:
            unused[script(name)].append(token)
    occurrences = Counter(token for token in held_out if token not in used and token in names)
    scripts = [_Script(tokens, occurrences) for tokens in unused.values()]
    allowed = int(len(held_out) * SPLIT_SHARE)
    while True:
        freed, lost, dropped, best = max(
            ((*one.best_drop(allowed), number) for number, one in enumerate(scripts)), default=(0.0, 0, 0, 0)
        )
        if not freed:
            return {token for one in scripts for token in one.kept()}
        scripts[best].drop(dropped)
        allowed -= lost


class _Script:
    """The unused tokens of one script; those up to the last one that a held-out text needs stay."""

    def __init__(self, tokens: Sequence[int], occurrences: Mapping[int, int]) -> None:
        self._tokens: Ints = np.array(tokens)  # in ascending order
        self._needed: Ints = np.array([token for token in tokens if token in occurrences], dtype=np.int64)
        self._counts: Ints = np.array([occurrences[int(token)] for token in self._needed], dtype=np.int64)

    def best_drop(self, allowed: int) -> tuple[float, int, int]:
        """Return the drop that frees most: tokens freed for each one lost, tokens lost, needed tokens dropped.

        Args:
            allowed: held-out tokens that may be lost.

        Returns:
            Zeros if nothing can be dropped.
        """
        lost = np.cumsum(self._counts[::-1])
        lost = lost[lost <= allowed]
        if not len(lost):
            return 0.0, 0, 0
        last = np.append(self._needed[::-1], -1)  # the last token that stays, by the number of needed tokens dropped
        stays = np.searchsorted(self._tokens, last[: len(lost) + 1], side="right")
        freed = (stays[0] - stays[1:]) / lost
        best = int(freed.argmax())
        return float(freed[best]), int(lost[best]), best + 1

    def drop(self, number: int) -> None:
        """Drop the last `number` tokens that held-out texts need, and all between them."""
        self._needed, self._counts = self._needed[:-number], self._counts[:-number]

    def kept(self) -> list[int]:
        """Return the tokens that stay."""
        return self._tokens[self._tokens <= self._needed[-1]].tolist() if len(self._needed) else []


def script(name: str) -> str:
    """Return the script of a token's first letter, such as LATIN or CJK; without a letter, an empty string."""
    return next((_script(character) for character in name if character.isalpha()), "")


@cache
def _script(character: str) -> str:
    return unicodedata.name(character, "").split(" ")[0].split("-")[0]
