"""Texts for the requests of a load test: read from a file, or generated with a realistic spread of lengths."""

import csv
import json
import random
from pathlib import Path

WORDS = """
the of and to in a is that it was for on are as with they at be this from have or by one had not but what all
were when we there can an your which their said if do will each about how up out them then she many some so
these would other into has more her two like him see time could no make than first been its who now people my
made over did down only way find use may water long little very after words called just where most know market
price minister team season goal company shares growth film music phone network software government election
""".split()  # noqa: SIM905
SHORTEST, LONGEST = 5, 300  # words


class TextsError(Exception):
    """The file of texts cannot be used."""


def made_up_texts(count: int = 500, seed: int = 0) -> list[str]:
    """Return texts of 5 to 300 words; the lengths are log-normal, with a median of 25 words."""
    generator = random.Random(seed)
    lengths = (round(generator.lognormvariate(3.2, 0.8)) for _ in range(count))
    return [" ".join(generator.choices(WORDS, k=min(max(n, SHORTEST), LONGEST))) for n in lengths]


def read_texts(path: Path) -> list[str]:
    """Return the column `text` of a CSV or JSONL file.

    Raises:
        TextsError: the file is missing, is not CSV or JSONL with that column, or has an empty text.
    """
    if not path.is_file():
        raise TextsError(f"{path} is not a file: give a CSV or JSONL file with a column text")
    try:
        with path.open(encoding="utf-8", newline="") as file:
            records = [json.loads(line) for line in file] if path.suffix == ".jsonl" else list(csv.DictReader(file))
        texts = [record["text"] for record in records]
    except (ValueError, KeyError, TypeError) as error:
        raise TextsError(f"{path} is not a CSV or JSONL file with a column text: {error!r}") from None
    if not texts or not all(isinstance(text, str) and text.strip() for text in texts):
        raise TextsError(f"{path} has no texts, or has a row with an empty text")
    return texts
