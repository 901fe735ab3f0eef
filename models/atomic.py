"""write_text(): a file is there whole, or as it was before."""

import os
import tempfile
from pathlib import Path


def write_text(path: Path, content: str) -> None:
    """Write `content` beside `path` and rename it over: a reader, or a crash, never meets half a file."""
    handle, name = tempfile.mkstemp(dir=path.parent, prefix=f".{path.name}.")
    try:
        with os.fdopen(handle, "w", encoding="utf-8") as file:
            file.write(content)
            file.flush()
            os.fsync(file.fileno())
        os.chmod(name, 0o644)
        os.replace(name, path)
    except BaseException:
        os.unlink(name)
        raise
