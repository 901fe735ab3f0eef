"""Running a verb of the command line in this process."""

import json
import sys

import prunella


def run(capsys, monkeypatch, *arguments):
    """Return exit code, the last line on stdout as JSON (None when there is none), and stderr."""
    monkeypatch.setattr(sys, "argv", ["prunella", *map(str, arguments)])
    code = 0
    try:
        prunella.main()
    except SystemExit as end:
        code = end.code or 0
    told = capsys.readouterr()
    lines = told.out.strip().splitlines()
    return code, json.loads(lines[-1]) if lines else None, told.err
