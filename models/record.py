"""Record: the base of every configuration and of every JSON file that Prunella writes."""

from pathlib import Path
from typing import Self

from pydantic import BaseModel, ConfigDict, ValidationError

from models.errors import FolderError


class Record(BaseModel):
    """A frozen record that refuses keys it does not know."""

    model_config = ConfigDict(frozen=True, extra="forbid")

    @classmethod
    def read(cls, path: Path) -> Self:
        """Return the record in the JSON file at `path`.

        Raises:
            FolderError: the file is missing, or does not hold this record.
        """
        try:
            return cls.model_validate_json(path.read_bytes())
        except FileNotFoundError:
            raise FolderError(f"{path.parent} has no {path.name}: wanted a complete folder") from None
        except ValidationError as error:
            raise FolderError(f"{path} is not a valid {cls.__name__}: {explain(error)}") from None

    def write(self, path: Path) -> None:
        """Write the record as JSON that a person can read."""
        path.write_text(self.model_dump_json(indent=2) + "\n", encoding="utf-8")


class Settings(Record):
    """A record of settings, whose numbers are finite: an infinite one is not JSON, and no identity can name it."""

    model_config = ConfigDict(allow_inf_nan=False)


def explain(error: ValidationError) -> str:
    """Return pydantic's findings as one sentence, without the values it was given."""
    findings = error.errors(include_url=False, include_input=False, include_context=False)
    return "; ".join(f"{'.'.join(map(str, f['loc'])) or 'the document'}: {f['msg']}" for f in findings[:5])
