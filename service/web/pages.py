"""The playground page, and the version of the server."""

from functools import cache
from importlib.metadata import PackageNotFoundError
from importlib.metadata import version as installed
from pathlib import Path

from service.web.http import Reply

FILE = Path(__file__).with_name("playground.html")
POLICY = (
    b"default-src 'none'; script-src 'unsafe-inline'; style-src 'unsafe-inline'; connect-src 'self'; "
    b"frame-ancestors 'none'; base-uri 'none'; form-action 'none'"
)


def playground() -> Reply:
    """Return the page of GET /ui, which shows the labels and times of a text that the user types.

    The page sends requests to this server only and loads nothing else.
    """
    headers = [(b"content-security-policy", POLICY), (b"x-content-type-options", b"nosniff")]
    return Reply(FILE.read_bytes(), 200, headers, b"text/html; charset=utf-8")


@cache
def version() -> str:
    """Return Prunella's version; `unknown` if the package is not installed, as in an image with copied sources."""
    try:
        return installed("prunella")
    except PackageNotFoundError:
        return "unknown"
