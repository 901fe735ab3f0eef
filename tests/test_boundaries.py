import ast
import re
import subprocess
import sys
import tokenize
import tomllib
from importlib.metadata import packages_distributions
from pathlib import Path

import pytest

ROOT = Path(__file__).resolve().parent.parent
ORDER = [
    "models",
    "service",
    "export",
    "bench",
    "compress",
    "prunella",
]  # each may import those before it, and itself
ROOMS = [
    "inputs",
    "vocabulary",
    "quantization",
    "pruning",
    "search",
    "healing",
    "cascade",
]  # of compress, in the order of the data
MOST_FILES = 14  # in a folder
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
    lazy = {"loadtests"} if package == "prunella" else set()  # `prunella loadtest` starts it
    wrong = {str(f): bad for f in files if (bad := imports(f) & {*ORDER, "loadtests", "tools"} - allowed - lazy)}
    assert not wrong


def modules(path: Path) -> set[str]:
    """The full names of the modules that a file may import: `from a.b import c` may be a.b or a.b.c."""
    found = set()
    for node in ast.walk(ast.parse(path.read_text())):
        if isinstance(node, ast.Import):
            found |= {alias.name for alias in node.names}
        elif isinstance(node, ast.ImportFrom) and node.module:
            found |= {node.module, *(f"{node.module}.{alias.name}" for alias in node.names)}
    return found


@pytest.mark.parametrize("room", ROOMS)
def test_rooms_of_compress_import_leftward_only(room):
    """A stage never imports a later stage, nor the pipeline; all may read the configuration and the context."""
    allowed = {*ROOMS[: ROOMS.index(room) + 1], "config", "context"}
    files = list((ROOT / "compress" / room).glob("*.py"))
    assert files
    wrong = {}
    for file in files:
        named = {name.split(".")[1] for name in modules(file) if name.startswith("compress.")}
        if bad := named - allowed:
            wrong[file.name] = bad
    assert not wrong


def test_what_all_rooms_of_compress_read_imports_no_stage_after_the_inputs():
    for name in ("config", "context"):
        named = {m.split(".")[1] for m in modules(ROOT / "compress" / f"{name}.py") if m.startswith("compress.")}
        assert named <= {"config", "inputs"}, name


def test_compress_takes_only_measuring_from_bench():
    for file in (ROOT / "compress").rglob("*.py"):
        named = {name for name in modules(file) if name == "bench" or name.startswith("bench.")}
        assert all(name.startswith("bench.measure") for name in named), file


def test_no_folder_holds_more_files_than_a_reader_can_survey():
    folders = {path.parent for package in [*ORDER, "loadtests", "tools"] for path in (ROOT / package).rglob("*.py")}
    counts = {str(f.relative_to(ROOT)): sum(1 for p in f.glob("*.py") if p.name != "__init__.py") for f in folders}
    assert {f: n for f, n in counts.items() if n > MOST_FILES} == {}


def test_tests_mirror_the_code():
    """A folder of tests has the name of the folder of code that it tests."""
    folders = {path.parent.relative_to(ROOT / "tests") for path in (ROOT / "tests").rglob("test_*.py")}
    assert {str(f) for f in folders if not (ROOT / f).is_dir()} == set()


def test_the_service_loads_nothing_that_trains():
    modules = sorted(str(p.relative_to(ROOT))[:-3].replace("/", ".") for p in (ROOT / "service").rglob("*.py"))
    lines = [f"import {name}" for name in modules if not name.endswith((".__init__", "service.service"))]
    code = "; ".join([*lines, "import sys; print(*sorted({m.split('.')[0] for m in sys.modules}))"])
    done = subprocess.run([sys.executable, "-c", code], cwd=ROOT, capture_output=True, text=True, check=True)
    assert not HEAVY & set(done.stdout.split())


def test_the_supervisor_imports_the_standard_library_only():
    code = (
        "import service.process.launch, sys; "
        "print(*{name.split('.')[0] for name in sys.modules} - sys.stdlib_module_names)"
    )
    done = subprocess.run([sys.executable, "-S", "-c", code], cwd=ROOT, capture_output=True, text=True, check=True)
    assert set(done.stdout.split()) == {"__main__", "models", "service"}


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
        (["service"], ["grpc", "otel"]),
        (
            ["models", "export", "bench", "compress", "prunella"],
            ["demo", "hub", "peers", "peft", "skops", "score", "spark", "ray"],
        ),
        (["loadtests"], ["grpc", "loadtest", "loadtest-peers"]),
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
    # mlserver wants an environment of its own; mlcommons-loadgen, of the extra loadgen, has no wheel for ARM
    elsewhere = {"mlserver", "mlperf_loadgen"}
    for name in wanted - {*ORDER, "loadtests"} - elsewhere:
        by = {re.sub(r"[-_.]+", "-", one).lower() for one in providers.get(name, [name])}
        if not by & brought:
            missing[name] = by
    assert not missing


def test_the_base_install_and_the_image_hold_nothing_that_trains():
    locked = (ROOT / "service" / "requirements.txt").read_text()  # tests/deploy/test_image.py checks the versions
    assert not HEAVY & set(re.findall(r"^([\w.-]+)==", locked, re.MULTILINE))


# of log lines, traces and answers: the time of day, rightly
STAMPS = {("supervisor.py", "_log"), ("tracing.py", "span"), ("openai.py", "created")}


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


NAMELESS = {"told", "found", "asked", "made"}  # say what a thing is, not what happened to it


def test_names_say_what_a_thing_is():
    allowed = {("service/model/session.py", "asked")}  # a key of /info
    wrong = set()
    for package in [*ORDER, "loadtests", "tools"]:
        for path in (ROOT / package).rglob("*.py"):
            with path.open("rb") as file:
                names = {t.string for t in tokenize.tokenize(file.readline) if t.type == tokenize.NAME}
            wrong |= {(str(path.relative_to(ROOT)), name) for name in names & NAMELESS}
    assert wrong <= allowed
