"""Stage a bundle: copy a bundle folder or a tag to a private folder that workers open. Runs in its own process.

python -m service.process.staging [--into FOLDER] --base SPEC [--bundle SPEC | --known FINGERPRINT]

A worker that dies is restarted with the model accepted last, even if the folder that the model came from has changed
since; and a process that writes into that folder does not write into the memory of a running model. The command
prints one JSON object: `fingerprint` and `model` (null: nothing was copied), or `error` and `exit_code`. BentoML is
imported only for tags.
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

MANIFEST = "manifest.json"  # as in models/store/folder.py; importing it would delay the start by a tenth of a second
NOT_LISTED = (MANIFEST, "report.json")  # files of a bundle that its manifest does not list


def stage(into: Path | None, base: str, bundle: str | None = None, known: str | None = None) -> dict[str, Any]:
    """Return the fingerprint of the bundle that `base` names, and the model that was copied.

    The arguments have the meaning of the fields of service.process.actions.Stage; the copy is made under `into`.

    Raises:
        PrunellaError: the bundle to copy or to check does not exist, or the check fails.
    """
    if bundle is None and known is None:
        return {"fingerprint": fingerprint(base), "model": None}
    source = resolve(base if bundle is None else bundle)
    base_fingerprint = fingerprint(base)
    if bundle is None and base_fingerprint == known:
        from models.store.folder import ModelFolder

        ModelFolder.open(source)
        return {"fingerprint": base_fingerprint, "model": None}
    folder, warning = copy(source, into)
    model = {"folder": str(folder), "source": str(source), "id": _manifest(source).get("id", "unknown")}
    return {"fingerprint": base_fingerprint, "model": model, "warning": warning}


def resolve(spec: str) -> Path:
    """Return the real path of a bundle folder given as a path or as a tag.

    Raises:
        FolderError: it is neither a folder nor a tag.
    """
    folder = Path(spec)
    if not folder.is_dir():
        from service.process.publish import resolve as resolve_tag

        folder = resolve_tag(spec)
    return folder.resolve()


def fingerprint(spec: str) -> str:
    """Return a string that changes if `spec` names another folder or its manifest changes; empty: no such folder."""
    from models.errors import FolderError

    try:
        folder = resolve(spec)
        content = (folder / MANIFEST).read_bytes()
    except (FolderError, OSError):
        return ""
    return f"{folder} {hashlib.sha256(content).hexdigest()}"


def copy(source: Path, into: Path | None) -> tuple[Path, str | None]:
    """Copy a bundle to a folder under `into`; workers check the copy against the manifest.

    Returns:
        The folder to open, and a warning or None. A folder that is not a bundle is returned as it is: the worker
        that opens it reports the error. A bundle that cannot be copied is also returned as it is, with a warning.
    """
    files = _manifest(source).get("files")
    if not isinstance(files, dict):
        return source, None
    if into is None:
        return source, f"{source} is served from its place, because there is no temporary folder (set TMPDIR)"
    target = into / source.name
    try:
        for name in [*files, *NOT_LISTED]:
            if (source / name).is_file():  # the worker that opens the copy reports a missing file
                (target / name).parent.mkdir(parents=True, exist_ok=True)
                shutil.copyfile(source / name, target / name)
    except OSError as error:
        shutil.rmtree(into, ignore_errors=True)
        return source, f"{source} is served from its place, because it cannot be copied to {into} ({error.strerror})"
    return target, None


def _manifest(folder: Path) -> dict[str, Any]:
    """Return the JSON of a folder's manifest; empty if there is none or it is not a JSON object."""
    try:
        manifest = json.loads((folder / MANIFEST).read_text(encoding="utf-8"))
    except (OSError, ValueError):
        return {}
    return manifest if isinstance(manifest, dict) else {}


def main(arguments: Sequence[str] | None = None) -> int:
    """Stage a bundle and print the result; return 0 even if it is refused: the JSON object has the error."""
    from models.errors import PrunellaError

    parser = argparse.ArgumentParser(
        prog="python -m service.process.staging", description=(__doc__ or "").splitlines()[0]
    )
    parser.add_argument("--into", type=Path, help="new folder under which the copy is made; default: no copy is made")
    parser.add_argument("--base", required=True, help="bundle folder or tag that the server was started with")
    parser.add_argument("--bundle", help="bundle folder or tag to copy")
    parser.add_argument("--known", help="fingerprint of the base bundle that needs no new copy")
    options = parser.parse_args(arguments)
    out = os.fdopen(os.dup(1), "w")
    os.dup2(2, 1)  # anything else that is printed goes to stderr
    try:
        result = stage(options.into, options.base, options.bundle, options.known)
    except PrunellaError as error:
        result = {"error": str(error), "exit_code": error.exit_code}
    with out:
        json.dump(result, out)
    return 0


if __name__ == "__main__":
    sys.exit(main())
