"""Teachers made once, and the command that trains a student of them."""

import pytest
from teaching import Given
from verbs import run


@pytest.fixture(scope="session")
def given(tmp_path_factory) -> Given:
    return Given(tmp_path_factory.mktemp("given"))


@pytest.fixture
def student(given, capsys, monkeypatch, tmp_path):
    """Run `prunella finetune`; return exit code, the last line and stderr. Answers come from the shared store."""

    def train(*arguments: object, kind: str = "single", **changed: object):
        flags = {
            "train": given.path("train", kind), "validation": given.path("validation", kind), "task": kind,
            "encoder": given.folder / "encoder", "max-tokens": 32, "batch-size": 16, "learning-rate": 2e-3,
            "precision": "fp32", "epochs": 1, "store": given.store,
        } | {name.replace("_", "-"): value for name, value in changed.items()}  # fmt: skip
        pairs = (part for name, value in flags.items() for part in (f"--{name}", value))
        return run(capsys, monkeypatch, "finetune", *pairs, *arguments)

    return train
