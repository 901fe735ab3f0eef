"""publish(): a bundle folder → BentoML's model store, the registry of what can be served.

BentoML is imported where it is needed: a server that is given a folder starts without it.
"""

import os
import shutil
from pathlib import Path

from models.atomic import copy_file
from models.errors import FolderError
from models.folder import REPORT
from service.bundle import Bundle

os.environ.setdefault("BENTOML_DO_NOT_TRACK", "True")


def publish(folder: Path, name: str = "prunella") -> str:
    """Return the tag `name:<bundle id>`; the same bundle published again only renews its report."""
    import bentoml
    from bentoml.exceptions import NotFound

    bundle = Bundle.open(folder)
    tag = f"{name}:{bundle.id}"
    try:
        stored = bentoml.models.get(tag)
    except NotFound:
        report = bundle.report() or {}
        labels = {"loss_points": str(report.get("loss_points", "not measured"))}
        with bentoml.models.create(tag, labels=labels) as created:
            shutil.copytree(folder, created.path, dirs_exist_ok=True)
        return tag
    if (folder / REPORT).is_file():
        copy_file(folder / REPORT, Path(stored.path) / REPORT)
    return tag


def resolve(bundle_or_tag: str) -> Path:
    """Return the folder of a bundle given as a path or as a tag.

    Raises:
        FolderError: there is neither.
    """
    path = Path(bundle_or_tag)
    if path.is_dir():
        return path
    import bentoml
    from bentoml.exceptions import BentoMLException, NotFound

    try:
        return Path(bentoml.models.get(bundle_or_tag).path)
    except (NotFound, BentoMLException, ValueError):
        raise FolderError(
            f"{bundle_or_tag} is neither a bundle folder nor a tag in BentoML's model store: run `prunella publish`, "
            "or set PRUNELLA_BUNDLE"
        ) from None
