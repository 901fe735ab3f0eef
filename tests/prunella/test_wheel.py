"""The wheel, installed alone into a bare environment, works without the checkout: it contains all that it needs."""

import json
import os
import socket
import subprocess
import sys
import sysconfig
import urllib.request
import venv
import zipfile
from pathlib import Path

import pytest
from tiny import make_tiny_checkpoint, tiny_texts

ROOT = Path(__file__).resolve().parents[2]


@pytest.fixture(scope="module")
def wheel(tmp_path_factory):
    folder = tmp_path_factory.mktemp("dist")
    pip = [sys.executable, "-m", "pip", "wheel", "--quiet", "--no-index", "--no-deps", "--no-build-isolation"]
    subprocess.run([*pip, "--wheel-dir", folder, ROOT], check=True, timeout=120)
    (path,) = folder.glob("prunella-*.whl")
    return path


@pytest.fixture(scope="module")
def prunella(wheel, tmp_path_factory):
    """Return a function that starts the installed command, outside of the checkout.

    The environment sees the packages that prunella depends on, but no checkout: a .pth file adds the folder of these
    packages to the path, and .pth files in that folder, such as that of the editable installation, are not read.
    """
    folder = tmp_path_factory.mktemp("environment")
    venv.create(folder, with_pip=False)
    python = folder / "bin" / "python"
    install = ["install", "--quiet", "--no-index", "--no-deps", "--no-compile", wheel]
    subprocess.run([sys.executable, "-m", "pip", "--python", python, *install], check=True, timeout=120)
    packages = folder / "lib" / f"python{sysconfig.get_python_version()}" / "site-packages"
    (packages / "dependencies.pth").write_text(sysconfig.get_path("purelib") + "\n")
    environment = {k: v for k, v in os.environ.items() if k != "PYTHONPATH" and not k.startswith("PRUNELLA_")}

    def start(*arguments):
        return subprocess.Popen(
            [folder / "bin" / "prunella", *map(str, arguments)], cwd=folder, env=environment, text=True,
            stdout=subprocess.PIPE, stderr=subprocess.PIPE,
        )  # fmt: skip

    found = subprocess.check_output(
        [python, "-c", "import prunella; print(prunella.__file__)"], cwd=folder, env=environment, text=True
    )
    assert Path(found.strip()).is_relative_to(folder)
    return start


def last_line(process):
    out, err = process.communicate(timeout=180)
    assert process.returncode == 0, err
    return json.loads(out.splitlines()[-1])


def test_it_contains_every_file_of_the_packages_and_nothing_else(wheel):
    packages = ("models", "service", "export", "bench", "compress", "prunella", "loadtests")
    files = subprocess.check_output(["git", "ls-files", "--", *packages], cwd=ROOT, text=True).split()
    names = [name for name in zipfile.ZipFile(wheel).namelist() if ".dist-info/" not in name]
    if files:  # none in a checkout without git
        assert set(files) <= set(names)
    assert {Path(name).parts[0] for name in names} == set(packages)
    assert {"bench/report/report.html.j2", "service/web/playground.html"} <= set(names)


def test_it_inspects_compresses_and_serves(prunella, tmp_path):
    make_tiny_checkpoint(tmp_path / "model", layers=12)
    data = tiny_texts(64)
    numbers = [("negative", "positive").index(label) for label in data.labels]  # LABEL_0 and LABEL_1
    rows = [json.dumps({"text": row[0], "label": label}) for row, label in zip(data.rows, numbers, strict=True)]
    (tmp_path / "dev.jsonl").write_text("\n".join(rows))
    assert last_line(prunella("inspect", tmp_path / "model"))["labels"] == ["LABEL_0", "LABEL_1"]
    made = last_line(prunella(
        "compress", tmp_path / "model", "--train", tmp_path / "dev.jsonl", "--validation", tmp_path / "dev.jsonl",
        "--mode", "instant", "--size-mb", 0.3, "--max-loss", 100, "--weak-teacher",
        "--store", tmp_path / "store", "--out", tmp_path / "bundle",
    ))  # fmt: skip
    assert (Path(made["report"]) / "pareto.svg").is_file()
    with socket.create_server(("127.0.0.1", 0)) as listener:
        port = listener.getsockname()[1]
    server = prunella("serve", tmp_path / "bundle", "--device", "cpu", "--port", port)
    try:
        url = json.loads(server.stdout.readline())["url"]
        body = json.dumps({"text": "good film"}).encode()
        request = urllib.request.Request(f"{url}/v1/classify", body, {"Content-Type": "application/json"})
        with urllib.request.urlopen(request, timeout=30) as answer:
            assert json.load(answer)["predictions"][0]["label"] in ("LABEL_0", "LABEL_1")
        with urllib.request.urlopen(f"{url}/ui", timeout=30) as page:
            assert b"<html" in page.read()
    finally:
        server.terminate()
        server.communicate(timeout=60)
