"""Record: the pydantic base class of configurations and of the JSON files that Prunella writes."""

from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager
from pathlib import Path
from typing import Any, Self

from pydantic import BaseModel, ConfigDict, ValidationError

from models.errors import FolderError, InputError

SECTIONS = {"teaching": "teacher_", "masking": "masked_"}  # sections whose name is in the names of their options


class Record(BaseModel):
    """An immutable record that rejects unknown keys."""

    model_config = ConfigDict(frozen=True, extra="forbid")

    @classmethod
    def read(cls, path: Path) -> Self:
        """Return the record in the JSON file at `path`.

        Raises:
            FolderError: the file is missing or is not a valid record of this class.
        """
        try:
            return cls.model_validate_json(path.read_bytes())
        except FileNotFoundError:
            raise FolderError(f"{path.parent} has no {path.name}: wanted a complete folder") from None
        except ValidationError as error:
            raise FolderError(f"{path} is not a valid {cls.__name__}: {explain(error)}") from None

    def write(self, path: Path) -> None:
        """Write the record as indented JSON."""
        path.write_text(self.model_dump_json(indent=2) + "\n", encoding="utf-8")


class Settings(Record):
    """A record of settings with finite numbers: infinity is not valid JSON and cannot be part of a stage's key."""

    model_config = ConfigDict(allow_inf_nan=False)


def explain(error: ValidationError) -> str:
    """Return the first five errors of a pydantic validation as one sentence, without the invalid values."""
    errors = error.errors(include_url=False, include_input=False, include_context=False)
    places = (".".join(map(str, one["loc"])) or "the document" for one in errors)
    return "; ".join(f"{place}: {sentence(one)}" for place, one in list(zip(places, errors, strict=True))[:5])


def explain_options(error: ValidationError) -> str:
    """Return the errors of settings as one sentence in which an option has its own name, without its section's."""
    errors = error.errors(include_url=False, include_input=False, include_context=False)
    return "; ".join(f"{_option(one['loc'])}: {sentence(one)}" if one["loc"] else sentence(one) for one in errors[:5])


def _option(place: Sequence[str | int]) -> str:
    """Return the name of an option: that of its field, with what the options of its section begin with."""
    return f"{SECTIONS.get(str(place[0]), '') if len(place) > 1 else ''}{place[-1]}"


def sentence(error: Mapping[str, Any]) -> str:
    """Return what is wrong at the place of an error."""
    return "unknown key" if error["type"] == "extra_forbidden" else str(error["msg"]).removeprefix("Value error, ")


@contextmanager
def wrong_values() -> Iterator[None]:
    """Turn a value that a Record does not allow into an InputError.

    Raises:
        InputError: says which value, and what was wanted.
    """
    try:
        yield
    except ValidationError as error:
        raise InputError(explain_options(error)) from None
