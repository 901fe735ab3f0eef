"""find_reference(): the classifier that a bundle was made from."""

from itertools import pairwise
from pathlib import Path

from models.errors import InputError
from models.store.folder import ModelFolder, find_folder
from service.model.bundle import Bundle

CLASSIFIERS = ("finetune", "import")  # stages whose result is an unpruned classifier


def find_reference(bundle: Bundle, store: Path) -> ModelFolder:
    """Return the fine-tuned or imported classifier that the bundle was made from, from the store.

    Of a bundle that was distilled into a small encoder (`compress --student`), it is the large model.

    Raises:
        InputError: It is not in the store.
    """
    lineage = bundle.folder.manifest.lineage
    steps = [(step.stage, after.parents[0]) for step, after in pairwise(lineage) if step.stage in CLASSIFIERS]
    if not steps:
        raise InputError(f"{bundle.folder.path} has no fine-tuned model in its lineage: give --reference FOLDER")
    large = [
        (stage, step.config["baseline"]) for step in lineage if "baseline" in step.config for stage in CLASSIFIERS
    ]
    places = (store, bundle.folder.path.parent)
    path = next((path for one in large or steps[-1:] if (path := find_folder(places, *one))), None)
    if path is None:
        stage, folder_id = (large or steps)[-1]
        raise InputError(
            f"{store} has no '{stage}' folder with id {folder_id}, the model that the bundle was made from: "
            "give its folder with --reference"
        )
    return ModelFolder.open(path)
