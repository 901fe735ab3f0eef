"""read_json(): a JSON file of a foreign folder, of the kind that is wanted."""

import json
from pathlib import Path
from typing import Any

from models.errors import FolderError


def read_json(path: Path, kind: type[dict[str, Any]] | type[list[Any]] = dict) -> Any:
    """Return what a JSON file holds.

    Raises:
        FolderError: it cannot be read, or holds something else than `kind`.
    """
    try:
        document = json.loads(path.read_text(encoding="utf-8"))
    except (OSError, ValueError) as error:
        raise FolderError(f"{path} cannot be read: {error}") from None
    if not isinstance(document, kind):
        wanted = "a list" if kind is list else "an object"
        raise FolderError(f"{path} holds {type(document).__name__}, wanted {wanted}")
    return document
