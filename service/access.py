"""Who may ask: the API key and the admin token, compared in constant time and never logged; and CORS."""

import hmac

from pydantic import SecretStr

from service.dialects import BadRequest
from service.wire import Call, Headers, Reply


def check_key(call: Call, wanted: SecretStr | None) -> None:
    """Let the call pass when it carries the key, as `Authorization: Bearer …` or `X-API-Key: …`, or none is set.

    Raises:
        BadRequest: 401, the key is missing or another.
    """
    if wanted is None:
        return
    found = call.header(b"x-api-key")
    if found is None:
        scheme, _, rest = (call.header(b"authorization") or b"").partition(b" ")
        found = rest.strip() if scheme.lower() == b"bearer" else b""
    if not hmac.compare_digest(found, wanted.get_secret_value().encode()):
        raise BadRequest(
            401, "wanted a valid API key in Authorization: Bearer or X-API-Key", "Unauthorized", close=True
        )


def cors_headers(call: Call, origins: frozenset[str]) -> Headers:
    """Return the headers that let a page of an allowed origin read the answer; none for others."""
    origin = call.header(b"origin")
    if origin is None or origin.decode("latin-1") not in origins:
        return []
    return [(b"access-control-allow-origin", origin), (b"vary", b"origin")]


def preflight(call: Call, origins: frozenset[str]) -> Reply | None:
    """Return the answer to a browser's question before a request, or None when this is none, or not allowed."""
    if call.method != "OPTIONS" or not (allowed := cors_headers(call, origins)):
        return None
    headers = [
        *allowed,
        (b"access-control-allow-methods", b"GET, POST"),
        (b"access-control-allow-headers", b"authorization, content-type, x-api-key, x-request-timeout-ms"),
        (b"access-control-max-age", b"600"),
    ]
    return Reply(b"", 204, headers)
