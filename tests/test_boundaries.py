import ast
import re
import subprocess
import sys
import tomllib
from importlib.metadata import packages_distributions
from pathlib import Path

import pytest

ROOT = Path(__file__).resolve().parent.parent
ORDER = ["models", "service", "export", "bench", "compress"]  # each may import those before it, and itself
HEAVY = {
    "torch",
    "pyarrow",
    "datasets",
    "pandas",
    "transformers",
    "optimum",
    "accelerate",
    "onnx",
    "sklearn",
    "scipy",
    "safetensors",
}


def imports(path: Path) -> set[str]:
    found = set()
    for node in ast.walk(ast.parse(path.read_text())):
        if isinstance(node, ast.Import):
            found |= {alias.name.split(".")[0] for alias in node.names}
        elif isinstance(node, ast.ImportFrom) and node.module:
            found.add(node.module.split(".")[0])
    return found


@pytest.mark.parametrize("package", [*ORDER, "loadtests"])
def test_packages_import_leftward_only(package):
    allowed = set(ORDER[: ORDER.index(package) + 1]) if package in ORDER else {package}
    files = list((ROOT / package).rglob("*.py"))
    assert files
    wrong = {str(f): bad for f in files if (bad := imports(f) & {*ORDER, "loadtests", "prunella"} - allowed)}
    assert not wrong


def test_the_service_loads_nothing_that_trains():
    modules = sorted(str(p.relative_to(ROOT))[:-3].replace("/", ".") for p in (ROOT / "service").rglob("*.py"))
    lines = [f"import {name}" for name in modules if not name.endswith((".__init__", "service.service"))]
    code = "; ".join([*lines, "import sys; print(*sorted({m.split('.')[0] for m in sys.modules}))"])
    done = subprocess.run([sys.executable, "-c", code], cwd=ROOT, capture_output=True, text=True, check=True)
    assert not HEAVY & set(done.stdout.split())


def declared(project: dict, extra: str | None = None) -> set[str]:
    """The distributions that an install brings by name, with those of the extras that it names."""
    found = set()
    for line in project["dependencies"] if extra is None else project["optional-dependencies"][extra]:
        name, _, extras = re.match(r"([\w.-]+)(\[([\w,-]+)\])?", line).groups()
        found |= {re.sub(r"[-_.]+", "-", name).lower()}
        for other in (extras or "").split(","):
            found |= declared(project, other) if other and name == "prunella" else set()
    return found


@pytest.mark.parametrize(
    ("packages", "extras"),
    [
        (["service"], ["otel"]), (["models", "export", "bench", "compress", "prunella.py"], ["demo", "hub", "peers"]),
        (["loadtests"], ["loadtest", "loadtest-peers"]),
    ],
)  # fmt: skip
def test_what_is_imported_is_declared(packages, extras):
    """Not only installed because something else needs it today."""
    project = tomllib.loads((ROOT / "pyproject.toml").read_text())["project"]
    brought = declared(project).union(*(declared(project, extra) for extra in extras))
    providers = packages_distributions()
    files = [file for package in packages for file in ([*(ROOT / package).rglob("*.py")] or [ROOT / package])]
    wanted = {name for file in files for name in imports(file)} - sys.stdlib_module_names
    missing = {}
    elsewhere = {"mlserver"}  # wants an environment of its own (loadtests/peers/__init__.py)
    for name in wanted - {*ORDER, "loadtests", "prunella"} - elsewhere:
        by = {re.sub(r"[-_.]+", "-", one).lower() for one in providers.get(name, [name])}
        if not by & brought:
            missing[name] = by
    assert not missing


def test_the_base_install_and_the_image_hold_nothing_that_trains():
    wanted = (ROOT / "service" / "requirements.txt").read_text().splitlines()
    pinned = (ROOT / "constraints.txt").read_text().splitlines()
    assert set(wanted) <= set(pinned)
    assert not HEAVY & {line.split("==")[0] for line in wanted}


STAMPS = {("supervisor.py", "_log"), ("tracing.py", "span")}  # of log lines and traces: the time of day, rightly


def test_the_server_takes_no_deadline_from_a_clock_that_jumps():
    found = set()
    for path in (ROOT / "service").rglob("*.py"):
        tree = ast.parse(path.read_text())
        assert not [n for n in ast.walk(tree) if isinstance(n, ast.ImportFrom) and n.module == "time"]  # by full name
        for function in ast.walk(tree):
            if isinstance(function, ast.FunctionDef | ast.AsyncFunctionDef):
                called = {ast.unparse(n.func) for n in ast.walk(function) if isinstance(n, ast.Call)}
                if called & {"time.time", "time.time_ns", "datetime.now", "datetime.datetime.now"}:
                    found.add((path.name, function.name))
    assert found == STAMPS
