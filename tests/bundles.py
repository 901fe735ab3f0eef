"""Tiny bundles, made: fine-tuned for one epoch and converted."""

import shutil
from pathlib import Path

from tiny import make_tiny_checkpoint, tiny_texts

from compress.bundle import BundleConfig, BundleTexts, make_bundle
from models.folder import MANIFEST, Manifest, record_files
from models.train.finetune import FinetuneConfig, Splits, finetune
from models.train.loop import TrainingConfig
from service.bundle import GOLDEN, Golden


def make_tiny_bundle(store: Path, pair: bool = False) -> Path:
    """Return the folder of a `dynamic` bundle (int8 and fp32) under `store`."""
    encoder = store / "encoder"
    make_tiny_checkpoint(encoder)
    texts = tiny_texts(pair=pair)
    config = FinetuneConfig(max_tokens=32, training=TrainingConfig(epochs=1))
    classifier = finetune(str(encoder), Splits(texts, texts), config, store)
    bundle = BundleConfig(recipe="dynamic", max_loss=100)
    return make_bundle(classifier.folder, BundleTexts.of(texts), bundle, store).folder.path


def copy_with_other_golden_logits(bundle: Path, target: Path) -> Path:
    """Copy a bundle so that it is whole, and its stored logits are 1 away from what its model answers."""
    shutil.copytree(bundle, target)
    golden = Golden.read(target / GOLDEN)
    moved = {name: tuple(tuple(x + 1 for x in row) for row in rows) for name, rows in golden.logits.items()}
    Golden(rows=golden.rows, logits=moved).write(target / GOLDEN)
    manifest = Manifest.read(target / MANIFEST)
    manifest.model_copy(update={"files": record_files(target)}).write(target / MANIFEST)
    return target
