"""The fixtures that other tests serve; a test file takes them with `pytest_plugins = ["serving"]`."""

from pathlib import Path

import pytest
from bundles import make_tiny_bundle


@pytest.fixture(scope="session")
def tiny_bundle(tmp_path_factory) -> Path:
    return make_tiny_bundle(tmp_path_factory.mktemp("single"))


@pytest.fixture(scope="session")
def pair_bundle(tmp_path_factory) -> Path:
    return make_tiny_bundle(tmp_path_factory.mktemp("pair"), pair=True)
