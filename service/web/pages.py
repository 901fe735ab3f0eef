"""The playground page, and the version of the server."""

import base64
import hashlib
from functools import cache
from importlib.metadata import PackageNotFoundError
from importlib.metadata import version as installed
from pathlib import Path

from service.web.http import Reply

HTML, SCRIPT = (Path(__file__).with_name(f"playground.{suffix}") for suffix in ("html", "js"))
PLACE = b"<script></script>"


def _source(content: bytes) -> bytes:
    """Return the Content-Security-Policy source that allows one inline script or style and no other."""
    return b"'sha256-" + base64.b64encode(hashlib.sha256(content).digest()) + b"'"


def playground() -> Reply:
    """Return the page of GET /ui: scores, words that matter, times, the model, and lines to copy.

    The page sends requests to this server only and loads nothing else.
    """
    script, html = SCRIPT.read_bytes(), HTML.read_bytes()
    style = html.partition(b"<style>")[2].partition(b"</style>")[0]
    policy = (
        b"default-src 'none'; script-src %s; style-src %s; connect-src 'self'; "
        b"frame-ancestors 'none'; base-uri 'none'; form-action 'none'"
    ) % (_source(script), _source(style))
    headers = [
        (b"content-security-policy", policy),
        (b"x-content-type-options", b"nosniff"),
        (b"referrer-policy", b"no-referrer"),
    ]
    page = html.replace(PLACE, b"<script>" + script + b"</script>")
    return Reply(page, 200, headers, b"text/html; charset=utf-8")


@cache
def version() -> str:
    """Return Prunella's version; `unknown` if the package is not installed, as in an image with copied sources."""
    try:
        return installed("prunella")
    except PackageNotFoundError:
        return "unknown"
