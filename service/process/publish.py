"""publish() stores a bundle in BentoML's model store; resolve() finds a bundle by its path or tag.

The model store is the registry of the bundles that can be served. BentoML is imported only where it is needed: a
server that is started with a folder does not load it.
"""

import os
import shutil
from pathlib import Path

from models.errors import FolderError
from models.store.atomic import copy_file
from models.store.folder import REPORT
from service.model.bundle import Bundle

os.environ.setdefault("BENTOML_DO_NOT_TRACK", "True")


def publish(folder: Path, name: str = "prunella") -> str:
    """Store a bundle and return its tag `name:<bundle id>`; if it is stored already, only update its report."""
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
        FolderError: it is neither a folder nor a tag in the store.
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
