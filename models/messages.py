"""Messages and progress bars for people, on stderr, through `logging`.

`prunella --quiet`, `--verbose` and `--log-json` call configure(). A Python caller may configure the logger `prunella`
instead; where nobody has, the first message does, so that a long run is never silent.
"""

import json
import logging
import sys
from datetime import UTC, datetime
from typing import Any

from models.distributed import rank

WARNING = "WARNING: "  # begins a message that is one
log = logging.getLogger("prunella")


class _ConsoleHandler(logging.Handler):
    """Writes to the stderr of the moment; a progress bar on the screen moves below the message."""

    def emit(self, record: logging.LogRecord) -> None:
        text = self.format(record) + "\n"
        bars = sys.modules.get("tqdm")
        if bars is None:
            sys.stderr.write(text)
        else:
            with bars.tqdm.external_write_mode(file=sys.stderr):
                sys.stderr.write(text)


class _Plain(logging.Formatter):
    def format(self, record: logging.LogRecord) -> str:
        return f"prunella: {WARNING if record.levelno == logging.WARNING else ''}{record.getMessage()}"


class _Json(logging.Formatter):
    def format(self, record: logging.LogRecord) -> str:
        moment = datetime.fromtimestamp(record.created, UTC).isoformat(timespec="milliseconds")
        return json.dumps({"time": moment, "level": record.levelname.lower(), "message": record.getMessage()})


def configure(quiet: bool = False, verbose: bool = False, json_lines: bool = False) -> None:
    """Choose which messages are written, and how.

    Args:
        quiet: warnings and errors only, and no progress bars.
        verbose: also which stages are reused.
        json_lines: one JSON object a line, and no progress bars.
    """
    handler = _ConsoleHandler()
    handler.setFormatter(_Json() if json_lines else _Plain())
    log.handlers = [handler]
    log.setLevel(logging.WARNING if quiet else logging.DEBUG if verbose else logging.INFO)


def say(message: str) -> None:
    """Write a message for people; with several processes, only the main one does. WARNING at its start is a level."""
    if rank() == 0:
        level = logging.WARNING if message.startswith(WARNING) else logging.INFO
        _configured().log(level, "%s", message.removeprefix(WARNING))


def detail(message: str) -> None:
    """Write a message that only `--verbose` shows."""
    if rank() == 0:
        _configured().debug("%s", message)


def fail(message: str) -> None:
    """Write the sentence with which a command ends."""
    _configured().error("%s", message)


def progress(iterable: Any = None, disable: bool = False, **options: Any) -> Any:
    """Return a tqdm bar on stderr, which --quiet and --log-json switch off; `options` are tqdm's."""
    from tqdm import tqdm

    plain = all(not isinstance(handler.formatter, _Json) for handler in _configured().handlers)
    shown = plain and log.isEnabledFor(logging.INFO)
    return tqdm(iterable, file=sys.stderr, disable=disable or not shown, **options)


def _configured() -> logging.Logger:
    if not log.handlers:
        configure()
    return log
