"""forget_times(): what was decided by times on this machine is decided anew (`--remeasure`)."""

from pathlib import Path

from models.console import say
from models.folder import MANIFEST, Manifest, ModelFolder
from models.processor import cpu_name
from models.store import remove_finished

TIMED_STAGES = ("latency", "prune", "bundle")


def forget_times(store: Path, source: ModelFolder) -> list[str]:
    """Remove from the store what was measured on this processor: latency tables, and what was chosen by times.

    A table belongs to an architecture; a shape and a bundle whose recipe was timed belong to `source`. What does not
    depend on the processor stays, and so does a folder that another command uses.

    Returns:
        The names of the folders that were removed.
    """
    removed = []
    for manifest in sorted(store.glob(f"*/{MANIFEST}")):
        lineage = Manifest.read(manifest).lineage
        made = lineage[-1]
        if made.stage not in TIMED_STAGES or made.config.get("processor") != cpu_name():
            continue
        if made.stage == "latency" or any(source.id in step.parents for step in lineage):
            if remove_finished(manifest.parent):
                removed.append(manifest.parent.name)
            else:
                say(f"{manifest.parent} is in use: it stays, and is not measured again")
    say(f"--remeasure: {', '.join(removed) or 'nothing'} forgotten, to be measured again")
    return removed
