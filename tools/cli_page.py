"""`python -m tools.cli_page`: write docs/cli.md from the help of the commands; a test fails if it is outdated."""

import argparse
import re
import sys
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import typer

from loadtests.loadtest import make_parser
from models.store.atomic import write_text
from prunella.cli.main import app

PAGE = Path(__file__).resolve().parents[1] / "docs" / "cli.md"
WIDTH = 110  # characters, of the help of `loadtest`
HEAD = """# Commands

This page is generated from the help of the commands (`python -m tools.cli_page`).

Every command prints messages for people on stderr, and one JSON object as the last line on stdout.
Exit codes: 0 success, 1 a check failed, 2 wrong use, 130 Ctrl-C. If a command ends with 1 or 2, the reason is on
stderr; the JSON object is printed only if there is a result, such as a bundle that misses its target.
"""


def page() -> str:
    """Return the text of docs/cli.md."""
    command = typer.main.get_command(app)
    context = typer.Context(command, info_name="prunella")
    parts = [HEAD, _options("Options before the name of any command", command, context)]
    for path, one, inner in _commands(command, context):
        parts.append(f"## {path}\n\n{_text(one.help)}\n")
        if path == "prunella loadtest":  # it parses its options itself
            parts.append(f"```\n{_loadtest_help()}```\n")
        else:
            parts.append(f"```\n{_usage(one, inner)}\n```\n")
            parts.append(_options("Options", one, inner))
    return "\n".join(part for part in parts if part)


def _commands(group: Any, context: Any) -> Iterator[tuple[str, Any, Any]]:
    """Yield the path, the command and its context for each command of a group, and of the groups in it."""
    for name, command in group.commands.items():
        inner = typer.Context(command, info_name=name, parent=context)
        if hasattr(command, "commands"):
            yield from _commands(command, inner)
        else:
            yield inner.command_path, command, inner


def _usage(command: Any, context: Any) -> str:
    return " ".join([context.command_path, *command.collect_usage_pieces(context)])


def _options(title: str, command: Any, context: Any) -> str:
    """Return a table of the arguments and options that the help of a command names."""
    records = [record for param in command.params if (record := param.get_help_record(context))]
    if not records:
        return ""
    rows = [f"| `{_cell(names)}` | {_cell(text)} |" for names, text in records]
    return "\n".join([f"| {title} | |", "| --- | --- |", *rows]) + "\n"


def _loadtest_help() -> str:
    parser = make_parser()
    parser.usage = "prunella loadtest --url URL [OPTIONS]"
    parser.formatter_class = lambda prog: argparse.HelpFormatter(prog, width=WIDTH)
    return parser.format_help()


def _text(text: str | None) -> str:
    """Return a help text in which each paragraph is one line, and names in angle brackets are code."""
    paragraphs = [" ".join(paragraph.split()) for paragraph in (text or "").split("\n\n")]
    return "\n\n".join(re.sub(r"<[^<>]+>", r"`\g<0>`", paragraph) for paragraph in paragraphs)


def _cell(text: str) -> str:
    return " ".join(text.split()).replace("|", "\\|")


def main() -> None:
    """Write the page, if it is outdated."""
    if not PAGE.is_file() or PAGE.read_text(encoding="utf-8") != page():
        write_text(PAGE, page())
        sys.stderr.write(f"renewed {PAGE}\n")


if __name__ == "__main__":
    main()
