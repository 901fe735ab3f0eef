"""Staging: a bundle folder or a tag -> a private copy that workers open, in a process of its own.

python -m service.staging --into FOLDER --base SPEC [--bundle SPEC | --known FINGERPRINT]

A worker that dies is started again with the model last accepted, whatever happened to the folder that it came from
meanwhile; and who writes into that folder does not write into the memory of a running model. Prints one JSON object:
`fingerprint`, and `model` (null: nothing was copied) or `error` and `exit_code`. BentoML is imported for tags only.
"""

import argparse
import hashlib
import json
import os
import shutil
import sys
from collections.abc import Sequence
from pathlib import Path
from typing import Any

MANIFEST = "manifest.json"  # as in models/folder.py, whose import would cost the start a tenth of a second
NOT_LISTED = (MANIFEST, "report.json")  # files of a bundle that its manifest does not list


def stage(into: Path, base: str, bundle: str | None = None, known: str | None = None) -> dict[str, Any]:
    """Return the fingerprint of what `base` names, and the model that was copied; see service.actions.Stage.

    Raises:
        PrunellaError: what is to be copied, or checked, cannot be had.
    """
    if bundle is None and known is None:
        return {"fingerprint": fingerprint(base), "model": None}
    source = resolve(base if bundle is None else bundle)
    mark = fingerprint(base)
    if bundle is None and mark == known:
        from models.folder import ModelFolder

        ModelFolder.open(source)
        return {"fingerprint": mark, "model": None}
    folder, warning = copy(source, into)
    model = {"folder": str(folder), "source": str(source), "id": _manifest(source).get("id", "unknown")}
    return {"fingerprint": mark, "model": model, "warning": warning}


def resolve(spec: str) -> Path:
    """Return the real folder of a bundle given as a path or as a tag.

    Raises:
        FolderError: there is neither.
    """
    folder = Path(spec)
    if not folder.is_dir():
        from service.publish import resolve as ask_store

        folder = ask_store(spec)
    return folder.resolve()


def fingerprint(spec: str) -> str:
    """Return what changes when `spec` names another folder, or the folder is written anew; empty: it names none."""
    from models.errors import FolderError

    try:
        folder = resolve(spec)
        content = (folder / MANIFEST).read_bytes()
    except (FolderError, OSError):
        return ""
    return f"{folder} {hashlib.sha256(content).hexdigest()}"


def copy(source: Path, into: Path) -> tuple[Path, str | None]:
    """Return a copy of a bundle under `into`, which its workers check against the manifest.

    What is no bundle is returned as it is, for a worker to say so. So is what cannot be copied, with a warning.
    """
    listed = _manifest(source).get("files")
    if not isinstance(listed, dict):
        return source, None
    target = into / source.name
    try:
        for name in [*listed, *NOT_LISTED]:
            if (source / name).is_file():  # what is missing is missed by the worker that opens the copy
                (target / name).parent.mkdir(parents=True, exist_ok=True)
                shutil.copyfile(source / name, target / name)
    except OSError as error:
        shutil.rmtree(into, ignore_errors=True)
        return source, f"{source} is served from its place, because it cannot be copied to {into} ({error.strerror})"
    return target, None


def _manifest(folder: Path) -> dict[str, Any]:
    try:
        found = json.loads((folder / MANIFEST).read_text(encoding="utf-8"))
    except (OSError, ValueError):
        return {}
    return found if isinstance(found, dict) else {}


def main(arguments: Sequence[str] | None = None) -> int:
    """Stage a bundle; return 0 also where it is refused, which the JSON object says."""
    from models.errors import PrunellaError

    parser = argparse.ArgumentParser(prog="python -m service.staging", description=(__doc__ or "").splitlines()[0])
    parser.add_argument("--into", type=Path, required=True, help="new folder under which the copy is made")
    parser.add_argument("--base", required=True, help="what the server was started with")
    parser.add_argument("--bundle", help="what is to be copied")
    parser.add_argument("--known", help="fingerprint of what needs no copy")
    options = parser.parse_args(arguments)
    out = os.fdopen(os.dup(1), "w")
    os.dup2(2, 1)  # whatever else is printed goes to stderr
    try:
        result = stage(options.into, options.base, options.bundle, options.known)
    except PrunellaError as error:
        result = {"error": str(error), "exit_code": error.exit_code}
    with out:
        json.dump(result, out)
    return 0


if __name__ == "__main__":
    sys.exit(main())
