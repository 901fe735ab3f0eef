"""forget_times(): remove latencies that were measured on this machine, and what they decided (`--remeasure`)."""

from pathlib import Path

from models.messages import say
from models.processor import cpu_name
from models.store.folder import MANIFEST, Manifest, ModelFolder
from models.store.inventory import remove_finished

TIMED_STAGES = ("latency", "prune", "bundle")


def forget_times(store: Path, source: ModelFolder) -> list[str]:
    """Remove the folders of the store that depend on latencies of this processor, so that they are measured again.

    These are the latency tables (which belong to an architecture), and the shapes and the bundles with a timed recipe
    that were made from `source`. Folders that do not depend on the processor stay, and so do folders that another
    command uses.

    Returns:
        The names of the folders that were removed.
    """
    removed = []
    for manifest in sorted(store.glob(f"*/{MANIFEST}")):
        lineage = Manifest.read(manifest).lineage
        step = lineage[-1]
        if step.stage not in TIMED_STAGES or step.config.get("processor") != cpu_name():
            continue
        if step.stage == "latency" or any(source.id in ancestor.parents for ancestor in lineage):
            if remove_finished(manifest.parent):
                removed.append(manifest.parent.name)
            else:
                say(f"{manifest.parent} is in use: it stays, and is not measured again")
    say(f"--remeasure: removed {', '.join(removed) or 'nothing'}; what was removed is measured again")
    return removed
