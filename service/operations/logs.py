"""Logs: one JSON object per line on stderr. A line that cannot be written never stops a response."""

import json
import logging
import sys
import time
from collections.abc import Callable
from typing import Any, Literal

from pydantic import ValidationError

PLAIN = set(logging.makeLogRecord({}).__dict__) | {"message", "asctime", "color_message", "taskName"}


class JsonFormatter(logging.Formatter):
    """Formats a record as one JSON object: time, level, logger, message, fields of `extra`, and the stack trace."""

    def format(self, record: logging.LogRecord) -> str:
        """Return the record as one line of JSON."""
        stamp = time.strftime("%Y-%m-%dT%H:%M:%S", time.gmtime(record.created))
        entry: dict[str, Any] = {
            "time": f"{stamp}.{int(record.msecs):03d}Z",
            "level": record.levelname.lower(),
            "logger": record.name,
            "message": record.getMessage(),
        }
        entry |= {key: value for key, value in record.__dict__.items() if key not in PLAIN}
        if record.exc_info:
            entry["error"] = self.formatException(record.exc_info)
        return json.dumps(entry, default=str, ensure_ascii=False)


class CarefulHandler(logging.StreamHandler[Any]):
    """Writes to stderr; a line that cannot be written (full disk, closed pipe) is dropped and counted."""

    def __init__(self, dropped: Callable[[], None]) -> None:
        super().__init__(sys.stderr)
        self._dropped = dropped

    def handleError(self, record: logging.LogRecord) -> None:  # noqa: ARG002
        """Count the line; an error message about it could not be written either."""
        self._dropped()


def is_no_client_error(record: logging.LogRecord) -> bool:
    """Return False for a BentoML record about a client error: it logs every refused request with a stack trace."""
    error = record.exc_info[1] if record.exc_info and record.name.startswith("bentoml") else None
    return not isinstance(error, ValidationError) and int(getattr(error, "error_code", 500)) >= 500


def set_up_logs(form: Literal["json", "text"], dropped: Callable[[], None]) -> None:
    """Send the lines of every logger to stderr in one format.

    Args:
        form: the format.
        dropped: called for each line that cannot be written.
    """
    handler = CarefulHandler(dropped)
    plain = logging.Formatter("%(asctime)s %(levelname)s %(name)s: %(message)s")
    handler.setFormatter(JsonFormatter() if form == "json" else plain)
    handler.addFilter(is_no_client_error)
    root = logging.getLogger()
    root.handlers[:] = [handler]
    root.setLevel(logging.WARNING)
    logging.getLogger("prunella").setLevel(logging.INFO)
    # at WARNING, a client that sends invalid HTTP would fill the log
    logging.getLogger("uvicorn.error").setLevel(logging.ERROR)
