"""The pages: every file, module, link, option and argument that they name is there."""

import ast
import dataclasses
import inspect
import json
import re
import subprocess
import sys
import tomllib
from pathlib import Path

import pytest
import typer
from verbs import run

import prunella
from compress.best_bundle import Compressed
from models.store.results import Delivered
from models.task import Task
from prunella.cli import main as cli
from tools import cli_page

pytest_plugins = ["serving"]  # the fixture tiny_bundle
ROOT = Path(__file__).resolve().parent.parent
DOCS = ROOT / "docs"
PACKAGES = ("models", "service", "export", "bench", "compress", "prunella", "loadtests", "tools")
FOLDERS = (*PACKAGES, "tests", "docs", "deploy")
PAGES = [ROOT / "README.md", *sorted(DOCS.glob("*.md"))]
ALL_PAGES = [*PAGES, *sorted((DOCS / "results").glob("*.md")), *sorted((DOCS / "learn").glob("*.md"))]
TASK = Task(labels=("negative", "positive"), max_tokens=32)
each_page = pytest.mark.parametrize("page", PAGES, ids=lambda page: page.name)


def prose(page: Path) -> str:
    """Return a page without its code blocks."""
    return re.sub(r"^```.*?^```", "", page.read_text(encoding="utf-8"), flags=re.DOTALL | re.MULTILINE)


def blocks(page: Path, language: str) -> list[str]:
    """Return the code blocks of a page in one language."""
    return re.findall(
        rf"^```{language}\n(.*?)^```", page.read_text(encoding="utf-8"), re.DOTALL | re.MULTILINE
    )  # fmt: skip


def section(page: Path, title: str) -> str:
    """Return what a page has under a heading of the second level."""
    return page.read_text(encoding="utf-8").split(f"\n## {title}\n")[1].split("\n## ")[0]


def quoted_words(page: Path) -> set[str]:
    """Return the words between backticks; placeholders such as NAME.py are none."""
    words = {word.strip(".,;:()") for code in re.findall(r"`([^`\n]+)`", prose(page)) for word in code.split()}
    return {word for word in words if "NAME" not in word}


@each_page
def test_every_file_that_a_page_names_exists(page):
    path = re.compile(rf"(?:{'|'.join(FOLDERS)})(?:/[\w.-]+)*/?")
    words = quoted_words(page)
    named = {word for word in words if "/" in word and path.fullmatch(word)}
    named |= {word for word in words if re.fullmatch(r"[\w./-]+\.py", word)}
    assert not sorted(word for word in named if not (ROOT / word).exists())


@each_page
def test_every_module_that_a_page_names_exists(page):
    text = page.read_text(encoding="utf-8")
    names = {name for name in re.findall(r"python3? -m ([\w.]+)", text) if name.split(".")[0] in PACKAGES}
    files = {name: ROOT / name.replace(".", "/") for name in names}
    assert not sorted(
        name for name, path in files.items() if not (path.with_suffix(".py").is_file() or path.is_dir())
    )  # fmt: skip


def anchors(page: Path) -> list[str]:
    """Return the anchors of a page's headings, as GitHub makes them for headings that differ."""
    titles = re.findall(r"^#+ (.+)$", prose(page), re.MULTILINE)
    return [re.sub(r"[^\w\- ]", "", title.lower()).replace(" ", "-") for title in titles]


@pytest.mark.parametrize("page", ALL_PAGES, ids=lambda page: str(page.relative_to(ROOT)))
def test_each_heading_of_a_page_can_be_linked_to(page):
    assert len(set(anchors(page))) == len(anchors(page))


@pytest.mark.parametrize("page", ALL_PAGES, ids=lambda page: str(page.relative_to(ROOT)))
def test_every_link_leads_somewhere(page):
    broken = []
    for link in re.findall(r"\]\(([^)\s]+)\)", prose(page)):
        if re.match(r"https?:", link):
            continue
        path, _, anchor = link.partition("#")
        target = page if not path else (page.parent / path).resolve()
        if not target.exists() or (anchor and anchor not in anchors(target)):
            broken.append(link)
    assert not broken


def test_the_page_of_the_commands_is_their_help(monkeypatch):
    for name in ("PRUNELLA_STORE", "PRUNELLA_DEVICE", "COLUMNS"):
        monkeypatch.delenv(name, raising=False)
    assert cli_page.PAGE.read_text(encoding="utf-8") == cli_page.page(), "run python -m tools.cli_page"
    commands = re.findall(r"^## prunella (\w+)", cli_page.page(), re.MULTILINE)
    assert {"finetune", "compress", "fetch", "serve", "loadtest", "store"} <= set(commands)


README = ROOT / "README.md"


def test_the_readme_is_read_in_a_minute():
    words = [word for word in README.read_text(encoding="utf-8").split() if re.search(r"[a-z]", word, re.IGNORECASE)]
    assert len(words) <= 700


@each_page
def test_every_command_that_a_page_shows_has_these_options(page):
    commands = typer.main.get_command(cli.app).commands
    lines = re.findall(r"^\$? ?prunella (\w[^#\n|;]*)", "\n".join(blocks(page, "")), re.MULTILINE)
    for line in lines:
        words = line.split()
        command = commands[words[0]] if words[0] != "store" else commands["store"].commands[words[1]]
        options = {name for param in command.params for name in (*param.opts, *param.secondary_opts)}
        if words[0] != "loadtest":
            assert {word for word in words if word.startswith("--")} <= options | {"--help"}, line


def test_the_readme_lets_compress_judge_on_rows_that_no_model_was_trained_on():
    (command,) = re.findall(r"^\$ prunella compress (.*)", README.read_text(encoding="utf-8"), re.MULTILINE)
    words = command.split()
    train, validation = (words[words.index(option) + 1] for option in ("--train", "--validation"))
    assert train != validation


COMPRESS = DOCS / "compression.md"


def test_the_page_on_compression_has_every_option_and_says_which_the_help_leaves_out():
    params = typer.main.get_command(cli.app).commands["compress"].params
    hidden = {option.opts[0]: option.hidden for option in params if option.opts[0].startswith("--")}
    rows = re.findall(r"^\| `(--[\w-]+)`([^|]*)\|", section(COMPRESS, "Options"), re.MULTILINE)
    assert {name: "*" in more for name, more in rows} == hidden


def test_the_example_of_a_config_file_works_and_so_does_what_is_printed(tmp_path, capsys, monkeypatch):
    calls = []

    def compress(model, train, validation, test, **options):
        calls.append(options | {"model": model, "train": train, "validation": validation})
        raise SystemExit(0)

    monkeypatch.setattr("compress.run.compress", compress)
    monkeypatch.chdir(tmp_path)
    monkeypatch.delenv("PRUNELLA_STORE", raising=False)
    (example,) = blocks(COMPRESS, "toml")
    Path("compress.toml").write_text(example)
    flags = ("compress", "classifier", "--config", "compress.toml", "--seed", 1)
    code, printed, err = run(capsys, monkeypatch, *flags, "--print-config")
    assert code == 0, err
    assert not calls
    assert (printed["model"], printed["family"], printed["max_loss"], printed["seed"]) == (
        "classifier", "2,4,8", 0.5, 1,
    )  # fmt: skip
    assert {key.replace("-", "_") for key in tomllib.loads(example)} <= printed.keys()
    Path("run.json").write_text(json.dumps(printed))
    for arguments in (flags, ("compress", "--config", "run.json")):
        code, _, err = run(capsys, monkeypatch, *arguments)
        assert code == 0, err
    assert len(calls) == 2
    assert calls[0] == calls[1]


FUNCTIONS = ("Classifier", "cascade", "compress", "evaluate", "finetune", "quantize")
API = DOCS / "api.md"


@pytest.mark.parametrize("page", [README, API], ids=lambda page: page.name)
def test_the_examples_in_python_call_what_there_is(page):
    examples = blocks(page, "python")
    assert examples
    calls = [
        node
        for example in examples
        for node in ast.walk(ast.parse(example))
        if isinstance(node, ast.Call) and isinstance(node.func, ast.Name) and node.func.id in FUNCTIONS
    ]
    assert {call.func.id for call in calls} == set(FUNCTIONS)
    for call in calls:
        named = dict.fromkeys((keyword.arg for keyword in call.keywords), "")
        inspect.signature(getattr(prunella, call.func.id)).bind(*[""] * len(call.args), **named)


@pytest.mark.parametrize("name", FUNCTIONS)
def test_the_page_on_the_api_names_every_argument(name):
    text = section(API, name)
    assert not [one for one in inspect.signature(getattr(prunella, name)).parameters if f"`{one}`" not in text]


@pytest.mark.parametrize("name", [name for name in FUNCTIONS if name != "compress"])  # its page has no defaults
def test_the_page_on_the_api_has_the_defaults_of_the_arguments(name):
    arguments = inspect.signature(getattr(prunella, name)).parameters
    told = {}
    for names, defaults in re.findall(r"^\| (`\w+`(?:, `\w+`)*) \| ([^|]+) \|", section(API, name), re.MULTILINE):
        of_row, values = re.findall(r"`(\w+)`", names), [value.strip(" `") for value in defaults.split(",")]
        values = values * len(of_row) if len(values) == 1 else values
        for argument, value in zip(of_row, values, strict=False):
            told.setdefault(argument, value)  # fields of the result may have the name of an argument
    for argument, parameter in arguments.items():
        default = parameter.default
        real = "required" if default is parameter.empty else str(default)
        assert told[argument].strip('"') == real, argument


@pytest.mark.parametrize(
    ("title", "fields"),
    [
        ("Classifier", [field.name for field in dataclasses.fields(prunella.Prediction)]),
        ("finetune", list(Delivered.model_fields)),
        ("compress", ["folder", "report", *Compressed.model_fields]),
    ],
)
def test_the_page_on_the_api_names_every_field_of_a_result(title, fields):
    assert not [field for field in fields if f"| `{field}` |" not in section(API, title)]


def test_a_classifier_imports_no_more_than_the_page_on_the_api_says(tiny_bundle):
    code = (
        "import sys; from prunella import Classifier; Classifier(sys.argv[1], device='cpu')('good film'); "
        "print(*{name.split('.')[0] for name in sys.modules})"
    )
    done = subprocess.run(
        [sys.executable, "-c", code, tiny_bundle], cwd=ROOT, capture_output=True, text=True, check=True
    )
    project = tomllib.loads((ROOT / "pyproject.toml").read_text())["project"]
    base = {re.match(r"[\w-]+", line)[0].replace("-", "_") for line in project["dependencies"]}
    assert base & set(done.stdout.split()) == {"numpy", "onnxruntime", "pydantic", "tokenizers"}
