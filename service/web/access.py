"""Access control: API key, admin token and CORS. Secrets are compared in constant time and never logged."""

import hmac
from typing import Protocol

from pydantic import SecretStr

from service.protocols import BadRequest
from service.web.http import Call, Headers, Reply


class HasHeaders(Protocol):
    """A request over HTTP or gRPC."""

    def header(self, name: bytes) -> bytes | None:
        """Return the value of a header, or of a metadata key, by its name in lower case; None if it has none."""


METHODS = b"DELETE, GET, HEAD, POST"  # of all routes
REQUEST_HEADERS = b"authorization, content-type, traceparent, tracestate, x-api-key, x-cascade, x-request-timeout-ms"
# every response header that scripts cannot read by default
# (https://fetch.spec.whatwg.org/#cors-safelisted-response-header-name)
EXPOSED = (
    b"allow, date, inference-header-content-length, retry-after, retry-after-ms, www-authenticate, x-cascade-stage, "
    b"x-compute-characters, x-compute-time, x-compute-tokens, x-compute-type, x-inference-time, x-queue-time, "
    b"x-tokenization-time, x-total-time, x-windows"
)


def check_key(call: HasHeaders, secret: SecretStr | None, name: str = "API key") -> None:
    """Check that the request carries the key, as `Authorization: Bearer …` or `X-API-Key: …`.

    Args:
        call: the request.
        secret: the key that is required; None: no key is required.
        name: what the error calls the key.

    Raises:
        BadRequest: 401, the key is missing or wrong.
    """
    if secret is None:
        return
    key = call.header(b"x-api-key")
    if key is None:
        scheme, _, credentials = (call.header(b"authorization") or b"").partition(b" ")
        key = credentials.strip() if scheme.lower() == b"bearer" else b""
    if not hmac.compare_digest(key, secret.get_secret_value().encode()):
        raise BadRequest(
            401,
            f"{name} missing or wrong: send it as Authorization: Bearer KEY or X-API-Key: KEY",
            "Unauthorized",
            close=True,
        )


def cors_headers(origin: bytes | None, origins: frozenset[str]) -> Headers:
    """Return the CORS headers of a response; an allowed origin may read it, errors included.

    Args:
        origin: the request's Origin header.
        origins: the allowed origins; `*` allows every origin.
    """
    if not origins:
        return []
    headers = [(b"vary", b"origin")]  # a cache must not give one origin's response to another
    if _is_allowed(origin, origins):
        assert origin is not None, "an allowed origin is not None"
        headers += [(b"access-control-allow-origin", origin), (b"access-control-expose-headers", EXPOSED)]
    return headers


def preflight(call: Call, origins: frozenset[str]) -> Reply | None:
    """Return the response to a browser's preflight request.

    A browser sends a preflight without the key (https://fetch.spec.whatwg.org/#cors-preflight-fetch), so it is
    answered before the key is checked. Every request header is allowed: the server ignores headers that it does not
    know.

    Returns:
        None if the request is not a preflight, or if its origin is not allowed.
    """
    if call.method != "OPTIONS" or call.header(b"access-control-request-method") is None:
        return None
    if not _is_allowed(call.header(b"origin"), origins):
        return None
    headers = [
        (b"access-control-allow-methods", METHODS),
        (b"access-control-allow-headers", call.header(b"access-control-request-headers") or REQUEST_HEADERS),
        (b"access-control-max-age", b"600"),
    ]
    return Reply(b"", 204, headers)


def _is_allowed(origin: bytes | None, origins: frozenset[str]) -> bool:
    return origin is not None and ("*" in origins or origin.decode("latin-1") in origins)
