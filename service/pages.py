"""The playground page, and the version of the server."""

from functools import cache
from importlib.metadata import PackageNotFoundError
from importlib.metadata import version as installed
from pathlib import Path

from service.wire import Reply

FILE = Path(__file__).with_name("playground.html")
POLICY = (
    b"default-src 'none'; script-src 'unsafe-inline'; style-src 'unsafe-inline'; connect-src 'self'; "
    b"frame-ancestors 'none'; base-uri 'none'; form-action 'none'"
)


def playground() -> Reply:
    """Return GET /ui: type a text, see labels and times. The page asks this server only and loads nothing else."""
    headers = [(b"content-security-policy", POLICY), (b"x-content-type-options", b"nosniff")]
    return Reply(FILE.read_bytes(), 200, headers, b"text/html; charset=utf-8")


@cache
def version() -> str:
    """Return Prunella's version; `unknown` where its sources were copied, as in an image."""
    try:
        return installed("prunella")
    except PackageNotFoundError:
        return "unknown"
