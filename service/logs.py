"""Logs: one JSON object a line on stderr. A log that cannot be written never stops an answer."""

import json
import logging
import sys
import time
from collections.abc import Callable
from typing import Any, Literal

PLAIN = set(logging.makeLogRecord({}).__dict__) | {"message", "asctime", "color_message", "taskName"}


class JsonFormatter(logging.Formatter):
    """Formats a record as one JSON object: time, level, logger, message, fields of `extra`, the error's stack."""

    def format(self, record: logging.LogRecord) -> str:
        """Return the line."""
        stamp = time.strftime("%Y-%m-%dT%H:%M:%S", time.gmtime(record.created))
        told: dict[str, Any] = {
            "time": f"{stamp}.{int(record.msecs):03d}Z",
            "level": record.levelname.lower(),
            "logger": record.name,
            "message": record.getMessage(),
        }
        told |= {key: value for key, value in record.__dict__.items() if key not in PLAIN}
        if record.exc_info:
            told["error"] = self.formatException(record.exc_info)
        return json.dumps(told, default=str, ensure_ascii=False)


class CarefulHandler(logging.StreamHandler[Any]):
    """Writes to stderr; a line that cannot be written (full disk, closed pipe) is dropped and counted."""

    def __init__(self, dropped: Callable[[], None]) -> None:
        super().__init__(sys.stderr)
        self._dropped = dropped

    def handleError(self, record: logging.LogRecord) -> None:  # noqa: ARG002
        """Count the line: to write about it is what just failed."""
        self._dropped()


def set_up_logs(form: Literal["json", "text"], dropped: Callable[[], None]) -> None:
    """Send every logger's lines to stderr in one form; `dropped` is called for each that cannot be written."""
    handler = CarefulHandler(dropped)
    plain = logging.Formatter("%(asctime)s %(levelname)s %(name)s: %(message)s")
    handler.setFormatter(JsonFormatter() if form == "json" else plain)
    root = logging.getLogger()
    root.handlers[:] = [handler]
    root.setLevel(logging.WARNING)
    logging.getLogger("prunella").setLevel(logging.INFO)
    logging.getLogger("uvicorn.error").setLevel(logging.ERROR)  # else whoever sends garbage fills the log
