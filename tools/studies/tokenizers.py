"""`python -m tools.studies.tokenizers FOLDER --texts FILE`: other tokenizers beside the one that serves.

nanotoken and tokie (packages of PyPI) promise the token ids of Hugging Face's `tokenizers` in less time. Here they
split the same texts: those of the files, and random ones in many scripts. The ids of each are counted as equal or
not; then all take turns on the texts of the files, one text at a time on one core, as a lone request is tokenized.
"""

import json
import random
import sys
import time
from collections.abc import Callable, Iterator, Sequence
from importlib.metadata import version
from pathlib import Path
from typing import Annotated, Any

import numpy as np
import typer

from bench.measure.latency.timing import machine_card, rotated
from models.data.columns import Columns
from models.data.texts import read_texts
from models.errors import InputError
from models.messages import progress
from models.store.atomic import write_text
from models.tokenizer import Tokenizer
from service.model.wordpiece_cache import WordPieceCache

Encode = Callable[[str], Sequence[int]]  # from a text to its token ids
REFERENCE = "tokenizers"
BLOCKS = {  # first and last character
    "ASCII": (0x21, 0x7E), "Latin": (0xC0, 0x24F), "Greek": (0x370, 0x3FF), "Cyrillic": (0x400, 0x4FF),
    "Armenian": (0x531, 0x587), "Hebrew": (0x590, 0x5F4), "Arabic": (0x600, 0x6FF), "Devanagari": (0x900, 0x97F),
    "Bengali": (0x980, 0x9FE), "Tamil": (0xB82, 0xBFA), "Thai": (0xE01, 0xE5B), "Georgian": (0x10A0, 0x10FF),
    "Hangul": (0xAC00, 0xD7A3), "Jamo": (0x1100, 0x11FF), "Ethiopic": (0x1200, 0x137C), "Kana": (0x3041, 0x30FF),
    "Han": (0x4E00, 0x9FFF), "rare Han": (0x20000, 0x2A6DF), "marks": (0x300, 0x36F), "signs": (0x2000, 0x2BFF),
    "emoji": (0x1F300, 0x1FAFF), "full width": (0xFF01, 0xFFEE), "controls": (0x1, 0x1F), "spaces": (0x2000, 0x200F),
}  # fmt: skip
EXAMPLES = 5  # texts with other ids that the result quotes


def random_texts(count: int, seed: int) -> Iterator[str]:
    """Draw texts of 1 to 12 words, each word of one script or, one in five, of two."""
    drawn, ranges = random.Random(seed), list(BLOCKS.values())
    for _ in range(count):
        words = []
        for _ in range(drawn.randint(1, 12)):
            blocks = drawn.choices(ranges, k=2 if drawn.random() < 0.2 else 1) * drawn.randint(1, 5)
            words.append("".join(chr(drawn.randint(low, high)) for low, high in blocks))
        yield " ".join(words)


def open_tokenizers(folder: Path) -> dict[str, Encode]:
    """Return what tokenizes, by name: the library that serves, with and without the cache of words, and the others.

    Raises:
        InputError: a package is not installed.
    """
    tokenizer = Tokenizer.open(folder, max_tokens=100_000)  # the others do not truncate
    cache, text = WordPieceCache.of(tokenizer), (folder / "tokenizer.json").read_text(encoding="utf-8")
    try:
        import nanotoken
        import tokie
    except ImportError as error:
        raise InputError(f"{error.name} is not installed: pip install nanotoken tokie") from None
    nano, other = nanotoken.Tokenizer.from_json(text), tokie.Tokenizer.from_json(str(folder / "tokenizer.json"))
    other.no_truncation()
    other.no_padding()

    def reference(text: str) -> Sequence[int]:
        return tokenizer.encode([(text,)])[0].ids

    def cached(text: str) -> Sequence[int]:
        known = None if cache is None else cache.encode(text)
        return reference(text) if known is None else known.ids

    return {
        REFERENCE: reference, "tokenizers and the cache of words": cached,
        "nanotoken": lambda text: nano.encode(text).tolist(), "tokie": lambda text: list(other.encode(text).ids),
    }  # fmt: skip


def count_differences(encoders: dict[str, Encode], texts: Iterator[str], total: int) -> dict[str, dict[str, Any]]:
    """Return for each tokenizer but the reference how many texts have other ids, how many raise, and examples."""
    counts: dict[str, dict[str, Any]] = {
        name: {"differ": 0, "raise": 0, "examples": []} for name in encoders if name != REFERENCE
    }
    for text in progress(texts, total=total, desc="compare ids", unit="text"):
        wanted = list(encoders[REFERENCE](text))
        for name, count in counts.items():
            kind, quoted = "differ", text
            try:
                if list(encoders[name](text)) == wanted:
                    continue
            except Exception as error:  # of a package that is on trial: an answer like another
                kind, quoted = "raise", f"{type(error).__name__}: {text}"
            count[kind] += 1
            count["examples"] += [quoted] if len(count["examples"]) < EXAMPLES else []
    return counts


def time_tokenizers(encoders: dict[str, Encode], texts: Sequence[str], rounds: int) -> dict[str, list[float]]:
    """Return the microseconds of a text, one for each round; the tokenizers take turns in each."""
    seconds: dict[str, list[float]] = {name: [] for name in encoders}
    for number in range(rounds + 1):
        for name in rotated(list(encoders), number):
            encode, begun = encoders[name], time.perf_counter()
            for text in texts:
                encode(text)
            seconds[name].append(1e6 * (time.perf_counter() - begun) / len(texts))
    return {name: [round(value, 2) for value in values[1:]] for name, values in seconds.items()}  # the first warms up


def main(  # noqa: PLR0913  # its options
    folder: Annotated[Path, typer.Argument(help="folder with tokenizer.json")],
    texts: Annotated[list[str], typer.Option(help="file of texts; may be repeated")],
    drawn: Annotated[int, typer.Option("--random", help="number of random texts in many scripts")] = 1_000_000,
    timed: Annotated[int, typer.Option(min=1, help="texts that are timed")] = 2000,
    rounds: Annotated[int, typer.Option(min=3)] = 7,
    seed: int = 0,
    out: Annotated[Path | None, typer.Option(help="JSON file of the results; default: stdout only")] = None,
) -> None:
    """Compare the token ids and the time of tokenizers."""
    encoders = open_tokenizers(folder)
    read = [row[0] for source in texts for row in read_texts(source, Columns()).rows]
    real = count_differences(encoders, iter(read), len(read))
    in_many_scripts = count_differences(encoders, random_texts(drawn, seed), drawn)
    picked = [read[i] for i in np.random.default_rng(seed).permutation(len(read))[:timed]]
    result = {
        "texts": len(read), "random_texts": drawn, "differences": real, "differences_random": in_many_scripts,
        "microseconds": time_tokenizers(encoders, picked, rounds), "timed_texts": len(picked),
        "characters": round(float(np.mean([len(text) for text in picked])), 1), "machine": machine_card(),
        "versions": {name: version(name) for name in ("tokenizers", "nanotoken", "tokie")},
    }  # fmt: skip
    if out is not None:
        write_text(out, json.dumps(result, indent=2) + "\n")
    sys.stdout.write(json.dumps(result) + "\n")


if __name__ == "__main__":
    typer.run(main)
