"""Running a verb of the command line in this process."""

import json
import sys

from prunella.cli import main as cli


def run(capsys, monkeypatch, *arguments):
    """Return exit code, the last line on stdout as JSON (None when there is none), and stderr."""
    code, out, err = run_plain(capsys, monkeypatch, *arguments)
    lines = out.strip().splitlines()
    return code, json.loads(lines[-1]) if lines else None, err


def run_plain(capsys, monkeypatch, *arguments):
    """Return exit code, stdout and stderr."""
    monkeypatch.setattr(sys, "argv", ["prunella", *map(str, arguments)])
    capsys.readouterr()
    code = 0
    try:
        cli.main()
    except SystemExit as end:
        code = end.code or 0
    told = capsys.readouterr()
    return code, told.out, told.err
