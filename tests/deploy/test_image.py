"""The image's bentofile, template and requirements agree with each other and with the installed packages."""

import re
import shutil
import subprocess
import sys
from importlib.metadata import requires
from pathlib import Path

import pytest
import yaml
from _bentoml_impl.docker import generate_dockerfile
from _bentoml_sdk.images import populate_image_from_build_config
from bentoml._internal.bento.bento import ImageInfo
from bentoml._internal.bento.build_config import BentoBuildConfig
from packaging.requirements import Requirement
from packaging.utils import canonicalize_name
from rendering import ROOT

from service.process.image import container_image
from service.settings import Settings

BENTOFILE = ROOT / "bentofile.yaml"
sys.path.insert(0, str(ROOT / "deploy" / "image"))
from check import accepted_findings, complaints  # noqa: E402


def pins(text: str) -> dict[str, str]:
    """Return the packages of a requirements file with their versions."""
    return {canonicalize_name(name): version for name, version in re.findall(r"^([\w.-]+)==([^\s;\\]+)", text, re.M)}


@pytest.fixture(scope="module")
def dockerfile() -> str:
    """The Dockerfile that BentoML writes for the image, after it has merged bentofile.yaml into it."""
    image = container_image(Path("/store/prunella/5eed"))
    config = BentoBuildConfig.load(yaml.safe_load(BENTOFILE.read_text()))
    merged = populate_image_from_build_config(image, config, str(ROOT))
    names = ("base_image", "python_version", "commands", "python_requirements", "post_commands")
    info = ImageInfo(**{name: getattr(merged, name) for name in names})
    return generate_dockerfile(info, ROOT, enable_buildkit=False, envs=config.envs, secret_envs=[])


def test_every_package_is_pinned_with_hashes_to_the_version_that_the_tests_use():
    text = (ROOT / "service" / "requirements.txt").read_text()
    locked, constraints = pins(text), pins((ROOT / "constraints.txt").read_text())
    assert {name: constraints.get(name) for name in locked} == locked
    entries = re.split(r"^(?=[\w.-]+==)", text, flags=re.M)[1:]
    assert [entry for entry in entries if "--hash=sha256:" not in entry] == []
    assert pins((ROOT / "service" / "requirements.in").read_text()).items() <= locked.items()


def test_the_requirements_are_complete():
    locked = pins((ROOT / "service" / "requirements.txt").read_text())
    needed = set()
    for name in locked:
        for line in requires(name) or []:
            requirement = Requirement(line)
            if requirement.marker is None or requirement.marker.evaluate({"extra": ""}):
                needed.add(canonicalize_name(requirement.name))
    assert needed <= locked.keys()


def test_the_image_serves_the_packed_bundle_with_the_default_settings(dockerfile):
    last = dockerfile.split("FROM scratch")[1]
    variables = dict(re.findall(r"\b([A-Z_]+)=(\S+)", last))
    ours = {name: value for name, value in variables.items() if name.startswith("PRUNELLA_")}
    assert Settings.from_environment(ours) == Settings(bundle="/home/bentoml/bento/models/prunella/5eed")
    for entry in yaml.safe_load(BENTOFILE.read_text())["envs"]:
        assert variables[entry["name"]] == entry["value"]
    assert re.search(r"^USER bentoml$", last, re.M)
    assert 'CMD ["python", "-m", "service.process.launch", "--host", "0.0.0.0"]' in last


def test_bentoml_adds_no_compiler_and_installs_the_locked_packages(dockerfile):
    assert (
        dockerfile.startswith("FROM python:3.11-slim AS base-container") or "\nFROM python:3.11-slim AS" in dockerfile
    )
    assert not re.search(r"apt-get (update|install)|build-essential", dockerfile)
    merged = container_image(None)
    assert merged.python_requirements == (ROOT / "service" / "requirements.txt").read_text()
    assert merged.lock_python_packages is False
    assert "PRUNELLA_BUNDLE" not in merged.post_commands[0]


def packed_files() -> set[Path]:
    config = yaml.safe_load(BENTOFILE.read_text())
    return {path for pattern in config["include"] for path in ROOT.glob(pattern)}


def test_the_image_has_every_file_of_the_service():
    wanted = {path for kind in ("py", "html", "js") for path in (ROOT / "service").rglob(f"*.{kind}")}
    assert wanted <= packed_files()


def test_the_image_has_what_the_service_imports(tmp_path):
    for path in packed_files():
        copy = tmp_path / path.relative_to(ROOT)
        copy.parent.mkdir(parents=True, exist_ok=True)
        shutil.copyfile(path, copy)
    modules = [
        ".".join(path.relative_to(ROOT).with_suffix("").parts)
        for path in packed_files()
        if path.is_relative_to(ROOT / "service")
        and path.suffix == ".py"
        and "grpc" not in path.parts  # an extra that the image does not install
        and path.name != "service.py"  # it opens a bundle; test_a_built_bento_serves... serves it
    ]
    program = (
        "import importlib, sys\n"
        "for name in sys.argv[1:]: importlib.import_module(name)\n"
        "print(sys.modules['service.web.app'].__file__)"
    )
    ended = subprocess.run(
        [sys.executable, "-c", program, *sorted(modules)], cwd=tmp_path, capture_output=True, text=True, check=False
    )
    assert ended.returncode == 0, ended.stderr
    assert ended.stdout.splitlines()[-1] == str(tmp_path / "service" / "web" / "app.py")


def audit(*packages: dict) -> dict:
    return {"dependencies": list(packages), "fixes": []}


CLEAN = {"name": "numpy", "version": "2.4.6", "vulns": []}
FINDING = {"id": "PYSEC-2026-1", "aliases": ["CVE-2026-1"], "fix_versions": ["2.5"], "description": ""}


def test_the_image_check_fails_for_a_finding_unless_it_is_accepted_under_one_of_its_names():
    found = audit(CLEAN, {"name": "jinja2", "version": "3.1.6", "vulns": [FINDING]})
    assert complaints(audit(CLEAN), {}) == []
    assert complaints(found, {}) == ["jinja2 3.1.6: PYSEC-2026-1 (2.5)"]
    assert complaints(found, {"CVE-2026-1": "not called"}) == []
    assert complaints(found, {"PYSEC-2026-2": "another one"}) != []


def test_the_image_check_fails_for_packages_that_were_not_checked():
    unknown = {"name": "numpy", "skip_reason": "Dependency not found"}
    assert complaints(audit(CLEAN, unknown), {}) == ["1 of 2 packages were not checked: Dependency not found"]
    assert complaints(audit(), {}) == ["pip-audit checked no package"]


def test_a_finding_is_accepted_with_a_reason_only():
    assert accepted_findings("# why\n\nCVE-2026-1  not called (A. Name)\n") == {"CVE-2026-1": "not called (A. Name)"}
    with pytest.raises(ValueError, match=r"CVE-2026-1 .* has no reason"):
        accepted_findings("CVE-2026-1\n")
    accepted_findings((ROOT / "deploy" / "image" / "accepted-findings.txt").read_text())
